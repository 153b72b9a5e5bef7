"""One viewer's way in: hold the feed, decide where to begin, read what the window no longer has, take a seat.

Invariant: between the end of the past and the seat there is no await, so no event can fall between them. A
`View` is a context manager that gives back what it holds, however the viewer leaves.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from hub.broker.seam import Broker
from hub.engine.caller import Caller
from hub.fanout.age import earlier
from hub.fanout.audience import CHUNK, Seat
from hub.fanout.wire import Reason, Wire
from hub.feed.feed import Feed
from hub.feed.paging import first_limit, next_limit
from hub.job.cursor import Beginning, Wish, beginning, live
from hub.job.event import EventId, JobId
from hub.job.frame import Format, Frame, gap_frame, resync_frame
from hub.job.log import Log
from hub.job.record import Entry, Job, Snapshot

P = TypeVar("P")

_SETTLED = Beginning(0)
_NO_WISH = Wish()
_NO_FRAMES: list[Frame] = []
_NO_PAGE: deque[Entry] = deque()


class View:
    """A viewer of one job. Made by `Hub.view`; holds the feed from then until `close`, which calls `leave`.

    `age` and `expiry`: the loop times at which its stream is to end by age, and with its caller's credentials.
    `guest`: the caller, if the job is not theirs.
    """

    __slots__ = (
        "_age",
        "_broker",
        "_expelled",
        "_expiry",
        "_feed",
        "_held",
        "_leave",
        "_limit",
        "_page",
        "_seat",
        "begin",
        "guest",
        "preamble",
        "user",
        "wish",
    )

    def __init__(
        self,
        feed: Feed,
        broker: Broker,
        wish: Wish,
        caller: Caller,
        *,
        leave: Callable[[View], None],
        age: float,
        expiry: float,
    ) -> None:
        self.user = caller.user
        self.guest = None if caller.owns(feed.job) else caller
        self.wish = wish
        self.begin = Beginning(feed.log.end)
        self.preamble = _NO_FRAMES
        self._feed = feed
        self._broker = broker
        self._leave: Callable[[View], None] | None = leave
        self._age = age
        self._expiry = expiry
        self._expelled: Reason | None = None
        self._limit = 0  # entries of the next read of the past; 0 before the first
        self._page = _NO_PAGE
        self._held = 0  # bytes of the page
        self._seat: Seat[Any] | None = None

    def __enter__(self) -> View:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back the seat, the feed and the place. May be called twice."""
        leave, self._leave = self._leave, None
        if leave is None:
            return
        self._feed.totals.past_bytes -= self._held
        self._page, self._held = _NO_PAGE, 0
        seat, self._seat = self._seat, None
        if seat is not None:
            seat.leave()
            self._feed.dismiss(seat.audience)
        self._feed.release()
        leave(self)

    # --- the job

    @property
    def job_id(self) -> JobId:
        """The id of the job it watches."""
        return self._feed.id

    @property
    def job(self) -> Job:
        """The job's hash as last read."""
        return self._feed.job

    @property
    def log(self) -> Log:
        """The job's window."""
        return self._feed.log

    @property
    def status(self) -> str:
        """The job's status, as of the last event."""
        return self._feed.state.status

    def state_text(self) -> str:
        """JSON text of the job's current state."""
        return self._feed.state.text(self.log.seen_at(self.log.end))

    # --- where it begins

    def open_in_window(self) -> bool:
        """Decide where this viewer begins, if that is in the window, as for nearly all. Else `open` must."""
        begin = self._beginning()
        if begin.after is not None or begin.ahead is not None:
            return False
        self._set_beginning(begin)
        return True

    async def open(self) -> None:
        """Decide where this viewer begins; reads the retained log if the window does not reach back that far.

        Raises BrokerUnavailable.
        """
        begin = await self._wait_for_window(self._beginning())
        if begin.after is not None:
            await self._read_page(begin.after)
            first = self._page[0].id if self._page else self.log.origin.next
            if first != begin.after.next and self.wish.cursor is not None:
                begin = live(self.log, resync="trimmed")
        self._set_beginning(begin)

    def _beginning(self) -> Beginning:
        job = self.job
        return beginning(
            self.wish, self.log, retained=self._feed.retained, ended=job.ended, attempt=job.attempt
        )

    async def _wait_for_window(self, begin: Beginning) -> Beginning:
        """Wait until the window reaches a cursor ahead of it, if the retained log knows the cursor; else
        `resync`."""
        while begin.ahead is not None:
            snapshot = await self._broker.since(self.job_id, begin.ahead.previous, limit=1)
            begin = self._beginning()  # it may have come meanwhile
            if begin.ahead is None:
                break
            if not _knows(snapshot, begin.ahead):
                return live(self.log, resync="unknown")
            self._feed.doubt()
            await self._feed.wait_grown()
            begin = self._beginning()
        return begin

    def _set_beginning(self, begin: Beginning) -> None:
        log = self.log
        first_of_all = EventId(log.origin.next.epoch, 0)
        from_start = self.wish.cursor is None and self.wish.from_ == "start"
        if from_start and begin.after is None and log.origin >= first_of_all:
            self.preamble = self._gap(first_of_all, log.origin)  # from the start, which no log has any more
        if begin.resync is not None:
            self.preamble = [
                resync_frame(begin.resync),
                self._state(begin.after or log.seen_at(begin.position)),
            ]
        self.begin = begin

    @property
    def seen(self) -> EventId:
        """The cursor with which this stream begins."""
        return self.begin.after or self.log.seen_at(self.begin.position)

    # --- the past

    async def read_past(self) -> list[Frame]:
        """The next frames from before the window, a full write at most; [] once they meet the window.

        After that `position` is where the seat belongs. Raises BrokerUnavailable.
        """
        while (after := self.begin.after) is not None and after < self.log.origin and not self.expelled:
            if not self._page:
                await self._read_page(after)
            if frames := self._past_frames(after):
                return frames
        return _NO_FRAMES

    async def _read_page(self, after: EventId) -> None:
        limit = self._limit or first_limit(self.log.size, self.log.end - self.log.start)
        entries = (await self._broker.since(self.job_id, after, limit=limit)).entries
        self._limit = next_limit(limit, entries)
        self._turn(deque(entries))

    def _turn(self, page: deque[Entry]) -> None:
        """Hold another page than before."""
        if self._leave is None:
            return  # closed while the page was read
        size = sum(len(entry.body) for entry in page)
        self._feed.totals.past_bytes += size - self._held
        self._page, self._held = page, size

    def _past_frames(self, after: EventId) -> list[Frame]:
        """Frames of the page that was read; a gap up to the window if the log has no more of what is before
        it."""
        frames: list[Frame] = []
        size = 0
        origin = self.log.origin
        is_over = not self._page
        while self._page and size < CHUNK and after < origin:
            entry = self._page.popleft()
            if entry.id > origin:
                is_over = True
                break
            if entry.id != after.next:
                frames += self._gap(after.next, entry.id.previous)
            frames += self._feed.retained_frames(entry)
            after = entry.id
            size += len(entry.body)
        if is_over and after < origin:
            frames += self._gap(after.next, origin)  # the log was trimmed while it was read
            after = origin
        self.begin = Beginning(self.log.start, after=after)
        return frames

    # --- the seat

    @property
    def position(self) -> int:
        """Where the seat belongs, once the past is over."""
        if self.begin.after is None:
            return self.begin.position
        found = self.log.position_after(self.begin.after)
        return self.log.start if found is None else found

    def skip_to_end(self) -> None:
        """Of a job that has ended, only the end itself; a running one from now on."""
        self.begin = Beginning(self.log.end - self.log.closed)

    def seat(self, wire: Wire[P], fmt: Format[P]) -> Seat[P]:
        """Take the seat of a stream, at `position`. The wire calls its `catch_up` when it is ready for bytes."""
        seat = self.share(wire, fmt, at=self.position)
        seat.until, seat.last = earlier(self._age, self._expiry)
        return seat

    def share(self, wire: Wire[P], fmt: Format[P], *, at: int) -> Seat[P]:
        """Take a seat at `at` on a wire that has an end, or an age, of its own."""
        assert self._leave is not None, "a view that is closed takes no seat"
        at = self.log.end if self.expelled else at
        self._seat = seat = self._feed.audience(fmt, self.wish.types).seat(wire, at)
        # The hub may have ended, or the right to watch, while this viewer was given its past.
        away = Reason.RESTART if self._feed.closing else self._expelled
        if away is not None:
            asyncio.get_running_loop().call_soon(seat.send_away, away)
        return seat

    @property
    def expelled(self) -> bool:
        """Returns True if the caller may not watch any more."""
        return self._expelled is not None

    def expel(self, reason: Reason) -> None:
        """End the stream, or its seat as soon as it takes one."""
        self._expelled = reason
        if self._seat is not None:
            self._seat.send_away(reason)

    def renew(self, caller: Caller, expiry: float) -> None:
        """The caller has new credentials, which are good until the loop time `expiry`."""
        if self.guest is not None:
            self.guest = caller
        self._expiry = expiry
        if self._seat is not None:
            self._seat.until, self._seat.last = earlier(self._age, expiry)

    def settle(self) -> None:
        """The beginning is over: drop what only that needed. There may be ten thousand views."""
        self.begin = _SETTLED
        self.wish = _NO_WISH
        self.preamble = _NO_FRAMES
        self._turn(_NO_PAGE)

    def _gap(self, first: EventId, last: EventId) -> list[Frame]:
        return [gap_frame("trimmed", first, last), self._state(last)]

    def _state(self, position: EventId) -> Frame:
        return self._feed.state.frame(position)


def _knows(snapshot: Snapshot, event_id: EventId) -> bool:
    """Returns True if the retained log has given this id."""
    position = snapshot.job.position if snapshot.job is not None else None
    return position is not None and position.epoch == event_id.epoch and position >= event_id
