"""The retained log of one job: read page by page, when the window does not have what the job's hash or a
message says.

Invariant: what a page brings and what waits in the inbox go out in the order of their ids, each once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from hub.broker.seam import Broker
from hub.errors import BrokerUnavailable, JobNotFound
from hub.fanout.audience import CHUNK
from hub.feed.depth import Depth
from hub.feed.inbox import Inbox, Mark
from hub.feed.paging import first_limit, next_limit
from hub.feed.window import Window
from hub.job.event import EventId
from hub.job.frame import Frame
from hub.job.record import Entry, Job, Snapshot
from hub.settings import Settings

SETTLE = 0.25
"""Seconds between a hash that says the job has ended and the end frame, if no event brings the end. A
producer writes the hash and publishes the event on two connections, so the event may arrive later."""

RETRY = 0.5
"""Seconds, jittered, between tries to read the log while Redis is away."""


class Retained:
    """One job's. `page` is what was read and is in no batch yet; nearly always empty. `end_soon` never waits
    and may be called from outside the feed's task.
    """

    def __init__(
        self, window: Window, inbox: Inbox, depth: Depth, broker: Broker, settings: Settings
    ) -> None:
        self.window = window
        self.inbox = inbox
        self.page: list[Entry] = []
        self._depth = depth
        self._broker = broker
        self._settings = settings
        self._limit = first_limit(0, 0)  # entries of the next read
        self._ends = False  # a timer will put Mark.OVER into the inbox

    async def begin(self) -> None:
        """Read what the first viewer needs, after the subscription. Raises JobNotFound, BrokerUnavailable."""
        limit, most = self._depth.first, self._settings.window_events
        snapshot = await self._latest(limit)
        entries = snapshot.entries
        if limit < most and entries and self.window.has_gap(entries, entries[0].id.previous):
            limit = most  # the state after a gap says what all of the log does
            snapshot = await self._latest(limit)
        self.fill(snapshot, whole=limit == most or len(snapshot.entries) < limit)

    def fill(self, snapshot: Snapshot, *, whole: bool) -> None:
        """Put what was read into the window. `whole`: there is no more to read. Raises JobNotFound."""
        if snapshot.job is None or not snapshot.job.exists:
            raise JobNotFound(f"expected a job, got {self.window.id!r}, which is gone")
        self._limit = next_limit(self._limit, snapshot.entries)
        self.page.extend(self.window.open(snapshot.job, snapshot.entries, whole=whole))
        while self.page:
            self.window.append(self._page_frames())
        self.window.numbering.trust(snapshot.job, self.window.last)

    def end_soon(self) -> None:
        """If the hash says that the job has ended, close the log after `SETTLE` seconds, unless an event
        does."""
        if self.window.has_ended and not self._ends:
            self._ends = True
            asyncio.get_running_loop().call_later(SETTLE, self._end)

    def _end(self) -> None:
        self._ends = False
        self.inbox.end()

    async def frames(self) -> list[Frame]:
        """Frames of the page, as many as fit one write."""
        if not self.window.is_whole and self.window.has_gap(self.page, self.window.last):
            await self.recall()
        return self._page_frames()

    async def look(self, mark: Mark) -> list[Frame]:
        """Read a page of hash and log. While a page brings something, `mark` goes back into the inbox for the
        next."""
        window = self.window
        if mark is Mark.LOST and window.may_lose:
            mark = Mark.LOST_BARE
        after = window.numbering.read_after(window.last)
        snapshot = await _patiently(lambda: self._broker.since(window.id, after, limit=self._limit))
        self._limit = next_limit(self._limit, snapshot.entries)
        job = snapshot.job
        if job is not None and window.is_anothers(job):
            raise JobNotFound(f"expected job {window.id} of its owner, got another's of that name")
        if window.is_deleted(job):
            return window.deletion()
        if job is None or job.epoch is None:
            if window.numbering.shared:
                self.inbox.drop_numbered()
            return window.lose_log(job) + await self._end_look(mark)
        if not window.numbering.shared:
            window.share(job.epoch)
        elif (restart := window.numbering.restarted(job, snapshot.entries, window.last)) is not None:
            self.inbox.put_back(mark)
            return await self._restart(job, *restart)
        window.state.job = job
        if self._turn_page(snapshot, mark):
            return []
        frames = await self._trimmed_frames(job)
        if not self.page and not frames:
            window.numbering.trust(job, window.last)
        return frames + await self._end_look(mark)

    def _turn_page(self, snapshot: Snapshot, mark: Mark) -> bool:
        """Keep the entries that come before everything in the inbox. Returns True if the look goes on after
        them."""
        # What follows a waiting event in the log also follows it in the inbox, among messages without an id.
        last = self.window.last
        waiting = self.inbox.first_after(last)
        news = [
            entry for entry in snapshot.entries if entry.id > last and (waiting is None or entry.id < waiting)
        ]
        self.page.extend(news)
        if not news:
            return False
        position = snapshot.job.position if snapshot.job is not None else None
        reaches_end = news[-1].id.next == waiting or (waiting is None and news[-1].id == position)
        if reaches_end and not self._may_be_gap(mark):
            return False
        self.inbox.put_back(mark)
        return True

    async def _trimmed_frames(self, job: Job) -> list[Frame]:
        """A gap up to the job's position, if neither the log nor a message reaches it."""
        if not self._is_trimmed(job):
            return []
        await self.recall()
        return (
            self.window.gap("trimmed", self.window.last.next, job.position) if self._is_trimmed(job) else []
        )

    def _is_trimmed(self, job: Job) -> bool:
        last = self.window.last
        return not (self.page or job.position is None or job.position <= last or self.inbox.first_after(last))

    async def _end_look(self, mark: Mark) -> list[Frame]:
        """The look is over. Messages that may have been lost and are in no log are a gap."""
        if self.window.has_ended and self.window.has_all and not self.page:
            return self.window.final_frames()
        self.end_soon()
        if not self._may_be_gap(mark):
            return []
        await self.recall()
        # Where ids are this feed's own the gap uses one up, so that a cursor from before it is told as well.
        return self.window.gap("redis", None, None if self.window.numbering.shared else self.window.last.next)

    def _may_be_gap(self, mark: Mark) -> bool:
        """Returns True if the look for `mark` ends with a gap: messages were lost that may be in no log."""
        return mark is Mark.LOST_BARE or (mark is Mark.LOST and self.window.may_lose)

    async def _restart(self, job: Job, reason: str, last: EventId) -> list[Frame]:
        kept: list[Entry] = []
        if reason == "rolled back":
            # What the log still has up to `last` was delivered before, and is part of the state.
            read = await _patiently(lambda: self._latest(self._settings.window_events))
            kept = [entry for entry in read.entries if entry.id <= last]
        # The new log has whatever is worth having; what waits with an id has an old one.
        self.inbox.drop_numbered()
        return self.window.restart(job, reason, last, kept)

    async def _latest(self, limit: int) -> Snapshot:
        return await self._broker.latest(self.window.id, limit=limit, size=self._settings.window_bytes)

    async def recall(self) -> None:
        """Read what the state after a gap needs. While Redis is away it is as good as it is, and says so."""
        try:
            await self._depth.reach()
        except BrokerUnavailable:
            self.window.state.cut()

    def _page_frames(self) -> list[Frame]:
        """Frames of the entries that were read, as many as fit one write."""
        frames: list[Frame] = []
        size = 0
        last = self.window.last
        while self.page and size < CHUNK:
            entry = self.page.pop(0)
            frames += self.window.entry_frames(entry, last)
            last = entry.id
            size += len(entry.body)
            if frames[-1].terminal:
                self.page.clear()
        return frames


async def _patiently(read: Callable[[], Awaitable[Snapshot]]) -> Snapshot:
    while True:
        try:
            return await read()
        except BrokerUnavailable:
            # Only messages that may not be delivered before it wait for this; heartbeats continue.
            await asyncio.sleep(RETRY * random.uniform(0.5, 1.5))
