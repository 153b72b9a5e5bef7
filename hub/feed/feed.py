"""One watched job: its window, its audiences, and the one task that feeds them all.

The order of an attach is why no viewer misses an event or waits for ever: SUBSCRIBE is confirmed, then hash
and log are read, then messages are handled. What happened before the read is in the log or the hash; what
happened after the confirmation is in the inbox; what is in both has the same id and is delivered once.

Invariant: only this task appends to the log and writes to audiences; while it waits for messages the pump
does, for those that it would not wait for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from hub.broker.seam import Broker
from hub.ending import end_tasks
from hub.errors import BrokerUnavailable, HubError, JobNotFound
from hub.fanout.audience import SLICE, Audience
from hub.fanout.pace import Pace
from hub.fanout.wire import Reason
from hub.feed.depth import Depth
from hub.feed.inbox import Inbox
from hub.feed.intake import Intake
from hub.feed.pump import Pump
from hub.feed.retained import Retained
from hub.feed.window import Window
from hub.job.frame import Format, Frame
from hub.job.record import Entry, Job
from hub.quiet import quiet_log
from hub.settings import Settings
from hub.timings import SAMPLED
from hub.totals import Totals

logger = quiet_log("hub.feed")


class Feed:
    """A watched job. `hold` and `release` count its users; `on_idle` is called when the last one lets go.

    `depth`: the events that its first viewer needs; None for as many as the bounds allow.
    """

    def __init__(
        self,
        job: Job,
        broker: Broker,
        settings: Settings,
        totals: Totals,
        on_idle: Callable[[Feed], None],
        pump: Pump,
        pace: Pace,
        *,
        depth: int | None = None,
    ) -> None:
        self.id = job.id
        self._window = Window(job.id, settings, totals)
        self._inbox = Inbox(totals, longest=settings.max_event_bytes, on_news=partial(pump.push, self))
        self._pace = pace
        self._depth = Depth(self._window, broker, settings, depth)
        self._retained = Retained(self._window, self._inbox, self._depth, broker, settings)
        self._intake = Intake(self._window, self._inbox, self._retained, totals)
        self.log = self._window.log
        self.state = self._window.state
        self.state.job = job
        self.closing = False  # the hub has let go of it
        self.due = 0.0  # loop time of the next position check; the hub sets it
        self._broker = broker
        self._settings = settings
        self.totals = totals
        self._on_idle = on_idle
        self._loop = asyncio.get_running_loop()
        self._audiences: dict[tuple[Format[Any], frozenset[str] | None], Audience[Any]] = {}
        self._starting: asyncio.Future[None] | None = self._loop.create_future()  # None once it has started
        self._failure: HubError | None = None
        self._holds = 0
        self._waiters: list[asyncio.Future[None]] = []  # for the next batch
        self._task = asyncio.create_task(self._run(job), name=f"hub-feed-{job.id}")

    # --- who watches

    @property
    def job(self) -> Job:
        """The job's hash as last read: at the start, at each position check, after each reconnect."""
        assert self.state.job is not None, "the hash was read before the feed was made"
        return self.state.job

    @property
    def retained(self) -> bool:
        """Returns True if the job's events are kept in a log that all processes share."""
        return self._window.numbering.shared

    @property
    def audiences(self) -> list[Audience[Any]]:
        """All audiences with at least one seat."""
        return list(self._audiences.values())

    @property
    def failed(self) -> bool:
        """Returns True if the task ended with an error; a new feed must take its place."""
        return self._failure is not None

    @property
    def ready(self) -> bool:
        """Returns True if the window is filled."""
        return self._starting is None and self._failure is None

    @property
    def is_held(self) -> bool:
        """Returns True if the feed has a user."""
        return self._holds > 0

    def is_outdated(self, job: Job) -> bool:
        """Returns True if `job`, as just read, is not what this feed can show."""
        return self._window.is_outdated(job)

    def note(self, job: Job) -> None:
        """`job` was read for a viewer of a job that has ended, and is what this feed shows."""
        self._window.note(job)

    def expel(self) -> None:
        """The job is not its viewers' any more: end their streams."""
        words = f"expected job {self.id} of its owner, got another's of that name"
        self._fail(JobNotFound(words), Reason.NOT_FOUND)

    def hold(self) -> None:
        """The feed has one more user."""
        self._holds += 1

    def release(self) -> None:
        """The pair of `hold`."""
        self._holds -= 1
        if self._holds == 0:
            self._on_idle(self)

    async def wait_started(self) -> None:
        """Return when the window is filled. Raises what the start raised. Cancel-safe."""
        if self._starting is not None:
            await asyncio.shield(self._starting)
        if self._failure is not None:
            raise type(self._failure)(*self._failure.args)
        if self.closing:
            raise BrokerUnavailable("expected a hub that stays, got one that is closing")

    async def wait_grown(self) -> None:
        """Return when the window has more in it. Cancel-safe; the caller bounds the wait."""
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    async def reach(self, number: int | None = None) -> None:
        """Return when the window has its last `number` events, if bounds and the retained log allow it; None
        also for what the state needs. Raises BrokerUnavailable. Cancel-safe."""
        await self._depth.reach(number)

    @property
    def is_whole(self) -> bool:
        """Returns True if the state has all that the retained log says."""
        return self._window.is_whole

    def compare(self, job: Job | None) -> bool:
        """Hold what was just read of the hash against the window. Returns True if there is a difference."""
        if job is not None and self.ready and self._window.is_anothers(job):
            self.expel()
            return True
        return self.ready and self._intake.compare(job)

    def doubt(self) -> None:
        """Read the retained log: it may have something that no message brought."""
        self._inbox.doubt()

    def audience(self, fmt: Format[Any], types: frozenset[str] | None) -> Audience[Any]:
        """The audience for this format and filter, which gets a seat."""
        found = self._audiences.get((fmt, types))
        if found is None:
            found = Audience(self.log, fmt, types, self.totals, self._loop.time())
            self._audiences[fmt, types] = found
        self._pace.add(found)
        return found

    def dismiss(self, audience: Audience[Any]) -> None:
        """Forget `audience` if it has no seat."""
        if not audience.seats and self._audiences.get((audience.format, audience.types)) is audience:
            del self._audiences[audience.format, audience.types]

    def past_frame(self, entry: Entry) -> Frame | None:
        """A retained event from before the window, for one viewer; None if it is over the limit."""
        return self._window.past_frame(entry)

    async def aclose(self) -> None:
        """End the task and the subscription. Called once."""
        await end_tasks(self._task)
        # Feed and task hold each other. Apart they are freed at once, without the garbage collector.
        del self._task
        self._window.is_whole = True  # a read that is under way comes too late
        self._inbox.close()
        self.totals.window_bytes -= self.log.size
        self.state.clear()

    # --- the task

    async def _run(self, job: Job) -> None:
        has_ended = job.over
        try:
            if not await self._begin(has_ended=has_ended):
                return
            async for frames in self._intake:
                await self._fan_out(frames)
            for audience in self.audiences:
                await audience.finish()
        except JobNotFound as error:
            self._fail(error, Reason.NOT_FOUND)
        except Exception:
            logger.exception("the feed of job %s failed", self.id)
            self._fail(BrokerUnavailable("the feed failed"), Reason.GAP)
        finally:
            if not has_ended:
                self._broker.unsubscribe(self.id, self._inbox)

    def _fail(self, error: HubError, reason: Reason) -> None:
        self._failure = error
        for audience in self.audiences:
            for seat in list(audience.seats):
                seat.wire.finish(reason)

    async def _begin(self, *, has_ended: bool) -> bool:
        """Subscribe, then fill the window. Returns True if both worked. A job that has ended publishes
        nothing."""
        try:
            if not has_ended:
                await self._broker.subscribe(self.id, self._inbox)
            await self._retained.begin()
            if not has_ended:
                self._retained.end_soon()
                return True
            if frames := self._window.final_frames():
                self._window.append(frames)
            if not self.log.closed:
                self._failure = BrokerUnavailable("expected a job that has ended, got one that was restarted")
        except HubError as error:
            self._failure = error
        except asyncio.CancelledError:
            self._failure = BrokerUnavailable("expected a hub that stays, got one that is closing")
            raise
        finally:
            assert self._starting is not None, "a feed begins once"
            self._starting.set_result(None)
            self._starting = None
        return self._failure is None

    async def _fan_out(self, frames: list[Frame]) -> None:
        start, now = self._grown(frames)
        for audience in self.audiences:
            await audience.deliver(start, frames, now)
        seats = sum([len(audience.seats) for audience in self._audiences.values()])
        self.totals.timings.wrote(self._loop.time() - now, seats)

    def _grown(self, frames: list[Frame]) -> tuple[int, float]:
        """The log has more: the position where it begins, and the time."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        return self.log.end - len(frames), self._loop.time()

    # --- without the task

    def pump(self) -> int:
        """Deliver the messages that follow, as the task would. What has to be read for, what ends the job,
        and a crowd are left to the task."""
        if not self._inbox.is_taken_up():
            return 0
        audiences = self.audiences
        seats = sum([len(audience.seats) for audience in audiences])
        if seats <= SLICE:
            try:
                self._pump_out(audiences, seats)
            except Exception:
                logger.exception("the feed of job %s failed", self.id)
                self._task.cancel()
                self._fail(BrokerUnavailable("the feed failed"), Reason.GAP)
                return seats
        if self._inbox or self.log.closed:
            self._inbox.wake()
        return seats

    def _pump_out(self, audiences: list[Audience[Any]], seats: int) -> None:
        frames = self._intake.take()
        if frames:
            start, now = self._grown(frames)
            for audience in audiences:
                audience.deliver_now(start, frames, now)
            if start % SAMPLED == 0:
                self.totals.timings.wrote(self._loop.time() - now, seats)
