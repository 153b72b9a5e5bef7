"""One viewer's way in: hold the feed, decide where to begin, read what the window no longer has, take a seat.

Invariant: between the end of the past and the seat there is no await, so no event can fall between them. A
`View` is a context manager that gives back what it holds, however the viewer leaves.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any, TypeVar

from hub.broker.seam import Broker
from hub.engine.caller import Caller
from hub.engine.journal import Note
from hub.engine.memory import Past
from hub.engine.replay import Replay, trimmed
from hub.fanout.age import earlier
from hub.fanout.audience import Seat
from hub.fanout.wire import Reason, Wire
from hub.feed.feed import Feed
from hub.job.cursor import Beginning, Wish, beginning, depth, live
from hub.job.event import EventId, JobId
from hub.job.frame import Format, Frame, resync_frame
from hub.job.log import Log
from hub.job.record import Job

P = TypeVar("P")

_SETTLED = Beginning(0)
_NO_WISH = Wish()
_NO_FRAMES: list[Frame] = []


class View:
    """A viewer of one job. Made by `Hub.view`; holds the feed from then until `close`, which calls `leave`.

    `age` and `expiry`: the loop times at which its stream is to end by age, and with its caller's
    credentials; `since`: that at which it came. `guest`: the caller, if more of it matters than that the job
    is theirs.
    """

    __slots__ = (
        "_age",
        "_expelled",
        "_expiry",
        "_feed",
        "_leave",
        "_replay",
        "begin",
        "guest",
        "note",
        "preamble",
        "since",
        "taken",
        "user",
        "why",
        "wish",
    )

    def __init__(
        self,
        feed: Feed,
        broker: Broker,
        past: Past,
        wish: Wish,
        caller: Caller,
        *,
        leave: Callable[[View], None],
        age: float,
        expiry: float,
        since: float,
    ) -> None:
        self.user = caller.user
        self.guest = None if caller.owns(feed.job) and caller.is_plain else caller
        self.wish = wish
        self.note = Note.of(caller.request)
        self.why = ""  # it went, for the operator; "" while it is there, and for a view that had no seat
        self.begin = Beginning(feed.log.end)
        self.preamble = _NO_FRAMES
        self._feed = feed
        self._replay: Replay | None = Replay(feed, broker, past)  # None once it is over
        self._leave: Callable[[View], None] | None = leave
        self.since = since
        self._age = age
        self._expiry = expiry
        self._expelled: Reason | None = None
        self.taken: Seat[Any] | None = None  # the seat, while it has one

    def __enter__(self) -> View:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back the seat, the feed and the place. May be called twice."""
        leave, self._leave = self._leave, None
        if leave is None:
            return
        self._end_replay()
        seat, self.taken = self.taken, None
        if seat is not None:
            self.why = self.why or Reason.LEFT.words
            if self.note is not None:
                self.note.closed(self, seat)
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
        """JSON text of the job's current state. After `reach` it has the last event of each type."""
        return self._feed.state.text(self.log.seen_at(self.log.end))

    # --- where it begins

    def open_in_window(self) -> bool:
        """Decide where this viewer begins, if that is in the window, as for nearly all. Else `open` must."""
        begin = self._beginning()
        if begin.after is not None or begin.ahead is not None:
            return False
        if begin.resync is not None and not self._feed.is_whole:
            return False
        self._set_beginning(begin)
        return True

    async def open(self) -> None:
        """Decide where this viewer begins; reads the retained log if the window does not reach back that far.

        Raises BrokerUnavailable.
        """
        await self._feed.reach(depth(self.wish, self.log.seen_at(self.log.end)))
        begin = await self._find_beginning()
        if begin.resync is not None and not self._feed.is_whole:
            await self.reach()
            begin = await self._find_beginning()
        self._set_beginning(begin)

    @property
    def is_whole(self) -> bool:
        """Returns True if the state has all that the retained log says."""
        return self._feed.is_whole

    async def reach(self) -> None:
        """Return when the state has all that the retained log says. Raises BrokerUnavailable."""
        await self._feed.reach()

    async def _find_beginning(self) -> Beginning:
        begin = await self._wait_for_window(self._beginning())
        if begin.after is not None:
            assert self._replay is not None, "the beginning is not over"
            first = await self._replay.read(begin.after) or self.log.origin.next
            if first != begin.after.next and self.wish.cursor is not None:
                begin = live(self.log, resync="trimmed")
        return begin

    def _beginning(self) -> Beginning:
        job = self.job
        return beginning(
            self.wish, self.log, retained=self._feed.retained, ended=job.ended, attempt=job.attempt
        )

    async def _wait_for_window(self, begin: Beginning) -> Beginning:
        """Wait until the window reaches a cursor ahead of it, if the retained log knows the cursor; else
        `resync`."""
        while begin.ahead is not None:
            assert self._replay is not None, "the beginning is not over"
            snapshot = await self._replay.broker.since(self.job_id, begin.ahead.previous, limit=1)
            begin = self._beginning()  # it may have come meanwhile
            if begin.ahead is None:
                break
            if snapshot.job is None or not snapshot.job.has_given(begin.ahead):
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
            # From the start, which no log has any more.
            self.preamble = trimmed(self._feed, first_of_all, log.origin)
        if begin.resync is not None:
            position = begin.after or log.seen_at(begin.position)
            self.preamble = [resync_frame(begin.resync), self._feed.state.frame(position)]
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
            assert self._replay is not None, "a viewer is settled after its past"
            frames, after = await self._replay.frames(after)
            self.begin = Beginning(self.log.start, after=after)
            if frames:
                return frames
        return _NO_FRAMES

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
        """Take the seat of a stream, at `position`. The wire calls its `catch_up` when it is ready."""
        seat = self.share(wire, fmt, at=self.position)
        seat.until, seat.last = earlier(self._age, self._expiry)
        return seat

    def share(self, wire: Wire[P], fmt: Format[P], *, at: int) -> Seat[P]:
        """Take a seat at `at` on a wire that has an end, or an age, of its own."""
        assert self._leave is not None, "a view that is closed takes no seat"
        at = self.log.end if self.expelled else at
        self.taken = seat = self._feed.audience(fmt, self.wish.types).seat(wire, at)
        if self.note is not None:
            self.note.opened(self, seat)
        loop = asyncio.get_running_loop()
        self._feed.totals.timings.joins[fmt.transport].observe(loop.time() - self.since)
        # The hub may have ended, or the right to watch, while this viewer was given its past.
        away = Reason.RESTART if self._feed.closing else self._expelled
        if away is not None:
            loop.call_soon(seat.send_away, away)
        return seat

    @property
    def expelled(self) -> bool:
        """Returns True if the caller may not watch any more."""
        return self._expelled is not None

    def expel(self, reason: Reason) -> None:
        """End the stream, or its seat as soon as it takes one."""
        self._expelled = reason
        if self.taken is not None:
            self.taken.send_away(reason)

    def renew(self, caller: Caller, expiry: float) -> None:
        """The caller has new credentials, which are good until the loop time `expiry`."""
        if self.guest is not None:
            self.guest = caller
        self._expiry = expiry
        if self.taken is not None:
            self.taken.until, self.taken.last = earlier(self._age, expiry)

    def settle(self) -> None:
        """The beginning is over: drop what only that needed. There may be ten thousand views."""
        self.begin = _SETTLED
        self.wish = _NO_WISH
        self.preamble = _NO_FRAMES
        self._expiry = math.inf  # the seat has the earlier of both
        self._end_replay()

    def _end_replay(self) -> None:
        if self._replay is not None:
            self._replay.drop()
            self._replay = None
