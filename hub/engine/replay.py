"""The past of one viewer: retained events from before the window, read page by page.

Invariant: what a viewer may hold of the past is reserved before it is read, and given back with `drop`.
"""

from __future__ import annotations

from collections import deque

from hub.broker.seam import Broker
from hub.engine.memory import Past
from hub.fanout.audience import CHUNK
from hub.feed.feed import Feed
from hub.feed.paging import expected, first_limit, next_limit
from hub.job.event import EventId
from hub.job.frame import Frame, gap_frame
from hub.job.record import Entry

_NO_PAGE: deque[Entry] = deque()


class Replay:
    """A page of one job's retained log, and how it goes on."""

    __slots__ = ("_feed", "_held", "_is_over", "_limit", "_page", "_past", "broker")

    def __init__(self, feed: Feed, broker: Broker, past: Past) -> None:
        self._feed = feed
        self.broker = broker
        self._past = past
        self._limit = 0  # entries of the next read; 0 before the first
        self._page = _NO_PAGE
        self._is_over = False  # dropped, perhaps during a read
        self._held = 0  # bytes of the page, or about what its read will bring

    async def read(self, after: EventId) -> EventId | None:
        """Read the page after `after`. Returns the id of its first event, None if there is none.

        Raises BrokerUnavailable, also while slow readers of the past have their share of the memory.
        """
        log = self._feed.log
        size, number = log.size, log.end - log.start
        limit = self._limit or first_limit(size, number)
        self._held = self._past.reserve(expected(limit, size, number), self._held)
        entries = (await self.broker.since(self._feed.id, after, limit=limit)).entries
        self._limit = next_limit(limit, entries)
        if not self._is_over:
            self._page = deque(entries)
            self._held = self._past.hold(sum(len(entry.body) for entry in entries), self._held)
        return entries[0].id if entries else None

    async def frames(self, after: EventId) -> tuple[list[Frame], EventId]:
        """The next frames after `after`, a full write at most, and the cursor after them.

        A gap up to the window if the log has no more of what is before it.
        """
        if not self._page:
            await self.read(after)
        frames: list[Frame] = []
        size = 0
        origin = self._feed.log.origin
        is_over = not self._page
        while self._page and size < CHUNK and after < origin:
            entry = self._page.popleft()
            if entry.id > origin:
                is_over = True
                break
            if entry.id != after.next:
                frames += await self._trimmed(after.next, entry.id.previous)
            frames += await self._frames_of(entry)
            after = entry.id
            size += len(entry.body)
        if is_over and after < origin:
            frames += await self._trimmed(after.next, origin)  # the log was trimmed while it was read
            after = origin
        return frames, after

    async def _frames_of(self, entry: Entry) -> list[Frame]:
        frame = self._feed.past_frame(entry)
        if frame is not None:
            return [frame]
        await self._feed.reach()
        return [gap_frame("oversize", entry.id, entry.id), self._feed.state.frame(entry.id)]

    async def _trimmed(self, first: EventId, last: EventId) -> list[Frame]:
        await self._feed.reach()
        return trimmed(self._feed, first, last)

    def drop(self) -> None:
        """Give back what is held. May be called twice."""
        self._is_over = True
        self._page = _NO_PAGE
        self._held = self._past.hold(0, self._held)


def trimmed(feed: Feed, first: EventId, last: EventId) -> list[Frame]:
    """The frame that says which events the log has no more, and the current state."""
    return [gap_frame("trimmed", first, last), feed.state.frame(last)]
