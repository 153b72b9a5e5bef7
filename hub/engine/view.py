"""One viewer's way in: hold the feed, decide where to begin, replay what the window no longer has, take a seat.

Invariant: between `seat` and the last replayed frame there is no await, so nothing can fall between them. A `View` is
a context manager that gives back what it holds, however the viewer goes.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Protocol, TypeVar

from hub.broker.seam import Broker
from hub.fanout.audience import CHUNK, Seat
from hub.fanout.wire import Wire
from hub.feed.feed import Feed
from hub.feed.intake import PAGE
from hub.job.cursor import Beginning, Wish, beginning, live
from hub.job.event import EventId
from hub.job.frame import Format, Frame, gap_frame, resync_frame
from hub.job.record import Entry, Snapshot

P = TypeVar("P")


def _knows(snapshot: Snapshot, event_id: EventId) -> bool:
    """Whether the retained log has given this id."""
    position = snapshot.job.position if snapshot.job is not None else None
    return position is not None and position.epoch == event_id.epoch and position >= event_id


FIRST_PAGE = 50
"""Entries of the first read for a viewer who wants the past: events may be a megabyte each, and each viewer has its own copy."""

_SETTLED = Beginning(0)
_NO_WISH = Wish()
_NOTHING: list[Any] = []


class Host(Protocol):
    """What a view is a guest of: the hub of this process."""

    def leave(self, view: View) -> None: ...

    def begin_drain(self) -> None: ...

    def stream_end(self) -> float: ...

    def seated(self, seat: Seat[Any]) -> None: ...

    def patience(self) -> AbstractAsyncContextManager[None]: ...


class View:
    """A viewer of one job. Made by `Hub.view`; holds the feed from then until `close`."""

    __slots__ = ("_broker", "_host", "_page", "_seat", "begin", "feed", "preamble", "user", "wish")

    def __init__(self, feed: Feed, broker: Broker, wish: Wish, host: Host, user: str) -> None:
        self.feed = feed
        self.user = user
        self.wish = wish
        self.begin = Beginning(feed.log.end)
        self.preamble: list[Frame] = []
        self._broker = broker
        self._host: Host | None = host
        self._page: list[Entry] = []
        self._seat: Seat[Any] | None = None

    def __enter__(self) -> View:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back the seat, the feed and the place. May be called twice."""
        host, self._host = self._host, None
        if host is None:
            return
        seat, self._seat = self._seat, None
        if seat is not None:
            seat.leave()
            self.feed.dismiss(seat.audience)
        self.feed.release()
        host.leave(self)

    def open_in_window(self) -> bool:
        """Decide where this viewer begins, if that is in the window, as for nearly all; else `open` must."""
        log = self.feed.log
        begin = beginning(self.wish, log, retained=self.feed.retained)
        if begin.after is not None or begin.ahead is not None:
            return False
        self._begin(begin)
        return True

    async def open(self) -> None:
        """Decide where this viewer begins; reads the retained log if the window does not reach back that far.

        Raises BrokerUnavailable.
        """
        log = self.feed.log
        begin = await self._catch_up_with(beginning(self.wish, log, retained=self.feed.retained))
        if begin.after is not None:
            self._page = (
                await self._broker.since(self.feed.id, begin.after, limit=min(FIRST_PAGE, PAGE))
            ).entries
            first = self._page[0].id if self._page else log.origin.next
            if first != begin.after.next and self.wish.cursor is not None:
                begin = live(log, resync="trimmed")
        self._begin(begin)

    async def _catch_up_with(self, begin: Beginning) -> Beginning:
        """Wait until the window reaches a cursor that is ahead of it, if the retained log knows the cursor; else `resync`."""
        log = self.feed.log
        while begin.ahead is not None:
            snapshot = await self._broker.since(self.feed.id, begin.ahead.previous, limit=1)
            begin = beginning(self.wish, log, retained=self.feed.retained)  # it may have come meanwhile
            if begin.ahead is None:
                break
            if not _knows(snapshot, begin.ahead):
                return live(log, resync="unknown")
            self.feed.inbox.doubt()
            await self.feed.wait_grown()
            begin = beginning(self.wish, log, retained=self.feed.retained)
        return begin

    def _begin(self, begin: Beginning) -> None:
        log = self.feed.log
        wish = self.wish
        first_of_all = EventId(log.origin.next.epoch, 0)
        from_start = wish.cursor is None and wish.origin == "start"
        if from_start and begin.after is None and log.origin >= first_of_all:
            self.preamble = self._gap(first_of_all, log.origin)  # from the start, which nobody has any more
        if begin.resync is not None:
            reason = resync_frame(begin.resync)
            self.preamble = [reason, self._state(log.seen_at(begin.position))]
        self.begin = begin

    @property
    def seen(self) -> EventId:
        """The cursor with which this stream begins."""
        return self.begin.after or self.feed.log.seen_at(self.begin.position)

    async def replay(self) -> AsyncIterator[list[Frame]]:
        """Frames from before the window, a full write at a time, until they meet it. The caller waits for its wire between.

        After it `position` is where the seat belongs. Raises BrokerUnavailable.
        """
        log = self.feed.log
        limit = min(FIRST_PAGE, PAGE)
        while (after := self.begin.after) is not None and after < log.origin:
            entries, self._page = self._page, []
            if not entries:
                async with self._patience():
                    entries = (await self._broker.since(self.feed.id, after, limit=limit)).entries
            limit = _next_limit(limit, entries)
            frames: list[Frame] = []
            size = 0
            for entry in entries:
                if entry.id > log.origin:
                    break
                if entry.id != after.next:
                    frames += self._gap(after.next, entry.id.previous)
                frames += self.feed.retained_frames(entry)
                after = entry.id
                size += len(entry.body)
                if size >= CHUNK:
                    self.begin = Beginning(log.start, after=after)
                    yield frames
                    frames, size = [], 0
            if after < log.origin and (not entries or entries[-1].id > log.origin):
                frames += self._gap(after.next, log.origin)  # trimmed away under our hands
                after = log.origin
            self.begin = Beginning(log.start, after=after)
            if frames:
                yield frames

    def _patience(self) -> AbstractAsyncContextManager[None]:
        assert self._host is not None, "a view that is closed has no past"
        return self._host.patience()

    @property
    def position(self) -> int:
        """Where the seat belongs, once the replay is over."""
        if self.begin.after is None:
            return self.begin.position
        found = self.feed.log.position_after(self.begin.after)
        return self.feed.log.start if found is None else found

    def skip_to_end(self) -> None:
        """Nothing of a job that has ended but the end itself; one that runs is watched from now on."""
        log = self.feed.log
        self.begin = Beginning(log.end - log.closed)

    def seat(self, wire: Wire[P], fmt: Format[P]) -> Seat[P]:
        """Take the seat of a stream, at `position`. The wire calls its `catch_up` when it is ready for bytes."""
        assert self._host is not None, "a view that is closed takes no seat"
        return self.share(wire, fmt, at=self.position, until=self._host.stream_end())

    def share(self, wire: Wire[P], fmt: Format[P], *, at: int, until: float = math.inf) -> Seat[P]:
        """Take a seat at `at` on a wire that has an end, or an age, of its own."""
        assert self._host is not None, "a view that is closed takes no seat"
        self._seat = seat = self.feed.audience(fmt, self.wish.types).seat(wire, at, until=until)
        self._host.seated(seat)
        return seat

    def settle(self) -> None:
        """The beginning is over: drop what only that needed. There may be ten thousand of these."""
        self.begin = _SETTLED
        self.wish = _NO_WISH
        self.preamble = _NOTHING
        self._page = _NOTHING

    def drain_hub(self) -> None:
        """The server is going away: begin to move everybody, once."""
        if self._host is not None:
            self._host.begin_drain()

    def _gap(self, first: EventId, last: EventId) -> list[Frame]:
        return [gap_frame("trimmed", first, last), self._state(last)]

    def _state(self, position: EventId) -> Frame:
        return self.feed.state.frame(position)


def _next_limit(limit: int, entries: list[Entry]) -> int:
    """Entries of the next read: more when they are small, fewer when they are large."""
    size = sum(len(entry.body) for entry in entries)
    if size < CHUNK:
        return min(PAGE, limit * 5)
    return limit if size < 16 * CHUNK else max(1, limit // 5)
