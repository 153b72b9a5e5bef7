"""One watched job: its window, its audiences, and the one task that feeds them all.

Attach order, which is why nobody misses anything and nobody waits for ever: SUBSCRIBE is confirmed, then hash and log
are read, then messages are taken. Whatever happened before the read is in the log or the hash; whatever happened after
the confirmation is in the inbox; what is in both has the same id and is taken once.

Invariant: ids in the window are contiguous, or a `gap` or `resync` frame with the current state stands where they
are not. Only this task appends to the log and writes to audiences.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hub.broker.seam import Broker
from hub.ending import end_tasks
from hub.errors import BrokerUnavailable, HubError, JobNotFound
from hub.fanout.audience import Audience
from hub.fanout.wire import Reason
from hub.feed.inbox import Inbox
from hub.feed.intake import Intake
from hub.feed.state import State
from hub.job.event import FINAL, Event
from hub.job.frame import Format, Frame, gap_frame
from hub.job.log import Log, LogStatistics
from hub.job.record import Entry, Job
from hub.quiet import quiet_log
from hub.settings import Settings

log = quiet_log("hub.feed")


@dataclass(frozen=True, slots=True)
class FeedStatistics:
    """One watched job: viewers, window, messages waiting, and holes healed (`heals`) or announced (`gaps`), viewers
    that fell out of the window (`lagged`)."""

    holds: int
    viewers: int
    log: LogStatistics
    inbox: int
    heals: int
    gaps: int
    resyncs: int
    lagged: int


class Feed:
    """A watched job. `hold` and `release` count who needs it; `on_idle` is called when the last one let go."""

    def __init__(self, job: Job, broker: Broker, settings: Settings, on_idle: Callable[[Feed], None]) -> None:
        self.id = job.id
        self.log = Log(origin=FINAL, count=settings.window_events, size=settings.window_bytes)
        self.state = State(job.id, settings.public_fields)
        self.inbox = Inbox()
        self.intake = Intake(
            job.id, broker, settings, inbox=self.inbox, log=self.log, state=self.state, deliver=self._deliver
        )
        self.closing = False  # the hub has let go of it
        self.due = 0.0  # loop time of the next position check; the hub's to set
        self._broker = broker
        self._settings = settings
        self._on_idle = on_idle
        self._loop = asyncio.get_running_loop()
        self._audiences: dict[tuple[Format[Any], frozenset[str] | None], Audience[Any]] = {}
        self._started = asyncio.Event()
        self._failure: HubError | None = None
        self._holds = 0
        self._waiters: list[asyncio.Future[None]] = []  # for the next batch
        self._gone: Counter[str] = Counter()  # what audiences that were dismissed had counted
        self._task = asyncio.create_task(self._run(job), name=f"hub-feed-{job.id}")

    # --- who watches

    @property
    def job(self) -> Job:
        """The job's hash as last read: at the start, at each position check, after each reconnect."""
        assert self.state.job is not None, "wait_started returned, so the hash was read"
        return self.state.job

    @property
    def retained(self) -> bool:
        """Whether the job's events are kept in a log that all processes share."""
        return self.intake.numbering.shared

    @property
    def audiences(self) -> list[Audience[Any]]:
        """All audiences with at least one seat."""
        return list(self._audiences.values())

    @property
    def failed(self) -> bool:
        """Whether the task ended with an error; a new feed must take its place."""
        return self._failure is not None

    def is_of_before(self, job: Job) -> bool:
        """Whether this feed's job has ended, and `job` is another one of this name, or the same begun anew."""
        if not self.log.closed or self.state.job is None:
            return False
        if (job.epoch, job.user_id) != (self.state.job.epoch, self.state.job.user_id):
            return True
        newest = self.intake.numbering.newest
        has_ended = job.status in self._settings.terminal_statuses
        return not has_ended and newest is not None and job.position is not None and job.position > newest

    @property
    def ready(self) -> bool:
        """Whether the window is filled."""
        return self._started.is_set() and self._failure is None

    @property
    def deliveries(self) -> int:
        """Payloads given to viewers since the feed began."""
        return self._gone["deliveries"] + sum(audience.deliveries for audience in self._audiences.values())

    def hold(self) -> None:
        """Somebody needs the feed."""
        self._holds += 1

    def release(self) -> None:
        """The pair of `hold`."""
        self._holds -= 1
        if self._holds == 0:
            self._on_idle(self)

    async def wait_started(self) -> None:
        """Return when the window is filled. Raises what the start raised. Cancel-safe; the start is shared."""
        await self._started.wait()
        if self.closing:
            raise BrokerUnavailable("expected a hub that stays, got one that is closing")
        if self._failure is not None:
            raise type(self._failure)(*self._failure.args)

    async def wait_grown(self) -> None:
        """Return when the window has more in it. Cancel-safe; who ends the wait when nothing comes is the caller."""
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def audience(self, fmt: Format[Any], types: frozenset[str] | None) -> Audience[Any]:
        """The audience for this format and filter."""
        found = self._audiences.get((fmt, types))
        if found is None:
            found = self._audiences[fmt, types] = Audience(self.log, fmt, types, self._loop.time())
        return found

    def retained_frames(self, entry: Entry) -> list[Frame]:
        """A retained event from before the window, for one viewer; a gap and the state when it is too large."""
        if len(entry.body) > self._settings.max_event_bytes:
            return [gap_frame("oversize", entry.id, entry.id), self.state.frame(entry.id)]
        event = Event.from_body(entry.id, entry.body)
        return [Frame(event, event_id=entry.id, terminal=event.status in self._settings.terminal_statuses)]

    def dismiss(self, audience: Audience[Any]) -> None:
        """Forget `audience` if nobody sits in it."""
        if not audience.seats and self._audiences.get((audience.format, audience.types)) is audience:
            self._gone.update(deliveries=audience.deliveries, lagged=audience.lagged)
            self._audiences.pop((audience.format, audience.types), None)

    async def aclose(self) -> None:
        """End the task and the subscription. Called once.

        Feed, task and intake hold each other. Apart they are freed at once: a window may be a megabyte, and the garbage collector,
        which the server has made slow, would come after a thousand of them.
        """
        await end_tasks(self._task)
        del self._task
        self.intake.close()

    def statistics(self) -> FeedStatistics:
        """What this feed holds."""
        return FeedStatistics(
            holds=self._holds,
            viewers=sum(len(audience.seats) for audience in self._audiences.values()),
            log=self.log.statistics(),
            inbox=len(self.inbox),
            heals=self.intake.heals,
            gaps=self.intake.gaps,
            resyncs=self.intake.resyncs,
            lagged=self._gone["lagged"] + sum(audience.lagged for audience in self._audiences.values()),
        )

    # --- the task

    async def _run(self, job: Job) -> None:
        has_ended = job.status in self._settings.terminal_statuses
        try:
            if not await self._begin(has_ended=has_ended):
                return
            while not self.log.closed:
                await self.inbox.wait()
                await self.intake.take_all()
            for audience in self.audiences:
                await audience.finish()
        except JobNotFound as error:
            self._fail(error, Reason.NOT_FOUND)
        except Exception:
            log.exception("the feed of job %s failed", self.id)
            self._fail(BrokerUnavailable("the feed failed"), Reason.GAP)
        finally:
            if not has_ended:
                self._broker.unsubscribe(self.id, self.inbox)

    def _fail(self, error: HubError, reason: Reason) -> None:
        self._failure = error
        for audience in self.audiences:
            for seat in list(audience.seats):
                seat.wire.finish(reason)

    async def _begin(self, *, has_ended: bool) -> bool:
        """Subscribe, then fill the window; whether it worked. A job that has ended has nothing to say."""
        try:
            if not has_ended:
                await self._broker.subscribe(self.id, self.inbox)
            await self.intake.begin(await self._broker.latest(self.id, limit=self._settings.window_events))
            if not has_ended:
                self.intake.end_soon()
                return True
            await self.intake.close_if_ended()
            if not self.log.closed:
                self._failure = BrokerUnavailable("expected a job that has ended, got one that began anew")
        except HubError as error:
            self._failure = error
        except asyncio.CancelledError:
            self._failure = BrokerUnavailable("expected a hub that stays, got one that is closing")
            raise
        finally:
            self._started.set()
        return self._failure is None

    async def _deliver(self, frames: list[Frame]) -> None:
        start = self.log.end
        self.log.append(frames)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        now = self._loop.time()
        for audience in self.audiences:
            await audience.deliver(start, frames, now)
