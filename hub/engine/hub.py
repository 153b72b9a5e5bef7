"""The hub of one process: which jobs are watched, by whom, and how that begins and ends.

Invariant: for every job that is watched there is one feed with one subscription, however many watch and on whatever
transport. A feed ends `linger` seconds after its last viewer left; nothing is left of it then.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from hub.broker.redis import RedisBroker
from hub.broker.subscriber import SubscriberStatistics
from hub.ending import end_tasks
from hub.engine.admission import Admission
from hub.engine.check import PositionCheck
from hub.engine.stall import StallWatch
from hub.engine.totals import Totals
from hub.engine.view import View
from hub.errors import BrokerUnavailable, JobNotFound
from hub.fanout.age import StreamAge
from hub.fanout.audience import Audience, Seat
from hub.fanout.blocked import Blocked
from hub.fanout.wire import Reason
from hub.feed.feed import Feed, FeedStatistics
from hub.job.cursor import Wish
from hub.job.event import JobId, UserId
from hub.job.record import Job
from hub.quiet import quiet_log
from hub.settings import Settings

log = quiet_log("hub.hub")

START_DEADLINE = 10.0
"""Seconds a first viewer waits for Redis: a confirmation (5 s) and two reads (2 s each)."""

DRAIN_STEP = 0.1
"""Seconds between lots of viewers that are told to go elsewhere."""


@dataclass(frozen=True, slots=True)
class HubStatistics:
    """`viewers` and watched jobs now; `opened`, `refused`, `unavailable`, `moved` since the start; the parts' own numbers below."""

    viewers: int
    feeds: dict[JobId, FeedStatistics]
    opened: int
    refused: int
    unavailable: int
    deliveries: int
    moved: int
    draining: bool
    subscriber: SubscriberStatistics = field(repr=False)


class Hub:
    """All feeds of one process on one broker. Bound to the running loop; ended by `aclose`."""

    def __init__(self, broker: RedisBroker, settings: Settings) -> None:
        self.broker = broker
        self.settings = settings
        self.loop = asyncio.get_running_loop()
        self.admission = Admission(settings)
        self.draining = False
        self.blocked = Blocked(settings.send_timeout)
        self._moved = 0
        self._unavailable = 0
        self._feeds: dict[JobId, Feed] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._lingering: dict[JobId, asyncio.TimerHandle] = {}
        self._waiting: set[asyncio.Timeout] = set()  # of viewers on their way in
        self._reading: dict[JobId, asyncio.Task[list[Job | None]]] = {}
        self._ended: Counter[str] = Counter()  # what feeds that are gone had counted
        self._check = PositionCheck(broker, settings, lambda: list(self._feeds.values()))
        self.age = StreamAge(settings, self._audiences)
        self._stall = StallWatch()
        self._rounds = [
            asyncio.create_task(self._check.run(), name="hub-position-check"),
            asyncio.create_task(self.age.run(), name="hub-stream-age"),
            asyncio.create_task(self._stall.run(), name="hub-stall-watch"),
        ]

    # --- coming in

    async def authorised(self, user: UserId, job: JobId) -> Job:
        """The job, if it is `user`'s; without a trip to Redis while it is watched.

        Raises BrokerUnavailable, and JobNotFound for a job that is another's, exactly as if it did not exist: nobody is refused
        from memory, which would be faster, and may be older than the job.
        """
        feed = self._feeds.get(job)
        if feed is not None and feed.ready and not feed.log.closed and feed.job.user_id == user:
            return feed.job
        is_shared = job in self._reading
        found = await self._read(job)
        if is_shared and (found is None or found.user_id != user):
            found = await self._read(job)  # the other one may have begun before the job was made
        if found is None or not found.user_id or found.user_id != user:
            raise JobNotFound(f"expected a job of {user!r}, got {job!r}, which is not")
        return found

    async def _read(self, job: JobId) -> Job | None:
        reading = self._reading.get(job)
        if reading is None:
            # One read for all who ask at the same time, so that a storm costs Redis one command.
            reading = self._reading[job] = asyncio.create_task(self.broker.jobs([job]), name="hub-job-read")
            reading.add_done_callback(lambda done: self._read_done(job, done))
        async with self.patience():
            # Not the task itself, which would die with the first who is cancelled.
            await asyncio.wait([reading])
        (found,) = reading.result()
        return found

    def _read_done(self, job: JobId, reading: asyncio.Task[list[Job | None]]) -> None:
        del self._reading[job]
        if not reading.cancelled():
            reading.exception()  # whoever waits raises it; when nobody does any more, it is nobody's

    async def view(self, user: UserId, job: JobId, wish: Wish) -> View:
        """A new viewer, to be closed by the caller. Authorises first.

        Raises JobNotFound, Overloaded, BrokerUnavailable. Cancel-safe: nothing stays held.
        """
        try:
            return await self._view(user, job, wish)
        except BrokerUnavailable as error:
            self._unavailable += 1
            log.warning("a viewer was sent away: %s", error)
            raise

    async def _view(self, user: UserId, job: JobId, wish: Wish) -> View:
        found = await self.authorised(user, job)
        self.check_open()
        self.admission.enter(user, job)
        feed = self._feed(found)
        view = View(feed, self.broker, wish, self, user)
        feed.hold()
        try:
            if not feed.ready or not view.open_in_window():
                await self._open(view)
        except BaseException:
            view.close()
            raise
        return view

    async def _open(self, view: View) -> None:
        """For who has to wait for Redis."""
        async with self.patience():
            await view.feed.wait_started()
            await view.open()

    @asynccontextmanager
    async def patience(self) -> AsyncIterator[None]:
        """Bounds a viewer's wait for Redis, and ends it when the hub drains. Raises BrokerUnavailable.

        Who still waited when the server stops would get a 500, after which an EventSource does not come back.
        """
        limit = asyncio.timeout(0 if self.draining else START_DEADLINE)
        self._waiting.add(limit)
        try:
            async with limit:
                yield
        except TimeoutError as error:
            raise BrokerUnavailable("expected an answer from Redis in time") from error
        finally:
            self._waiting.discard(limit)

    def leave(self, view: View) -> None:
        """A viewer is gone; called by the view itself."""
        self.admission.leave(view.user, view.feed.id)

    def check_open(self) -> None:
        """Raises Overloaded once the hub drains."""
        if self.draining:
            raise self.admission.refuse("expected a hub that stays, got one that is shutting down")

    def seated(self, seat: Seat[Any]) -> None:
        """A viewer has its seat. It may have been on its way in when the drain began, and is in nobody's list then."""
        if self.draining:
            self.loop.call_soon(self._send_away, seat)  # not at once: its wire is being made ready

    def _send_away(self, seat: Seat[Any]) -> None:
        self._moved += seat.send_away(Reason.RESTART)

    def stream_end(self) -> float:
        """When a stream that begins now is to end by its age, in loop time."""
        return self.age.end()

    # --- feeds

    @property
    def ready(self) -> bool:
        """Whether new viewers are welcome: Redis answers and nobody is being moved away."""
        return not self.draining and self.broker.subscriber.connected

    def audiences(self, *formats: object) -> Iterator[Audience[Any]]:
        """Every audience with one of these formats."""
        return (audience for audience in self._audiences() if audience.format in formats)

    def _audiences(self) -> Iterator[Audience[Any]]:
        for feed in list(self._feeds.values()):
            yield from feed.audiences

    def _feed(self, job: Job) -> Feed:
        if (timer := self._lingering.pop(job.id, None)) is not None:
            timer.cancel()
        feed = self._feeds.get(job.id)
        if feed is None or feed.failed or feed.is_of_before(job):
            feed = self._feeds[job.id] = Feed(job, self.broker, self.settings, self._idle)
            self._check.plan(feed, job)
        return feed

    def _idle(self, feed: Feed) -> None:
        if self._feeds.get(feed.id) is not feed or feed.failed:
            self._end(feed)
            return
        self._lingering[feed.id] = self.loop.call_later(self.settings.linger, self._end, feed)

    def _end(self, feed: Feed) -> None:
        if self._feeds.get(feed.id) is feed:
            del self._feeds[feed.id]
            self._lingering.pop(feed.id, None)
        if feed.closing:
            return
        feed.closing = True
        gone = feed.statistics()
        self._ended.update(
            deliveries=feed.deliveries,
            heals=gone.heals,
            gaps=gone.gaps,
            resyncs=gone.resyncs,
            lagged=gone.lagged,
        )
        task = asyncio.create_task(feed.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    # --- going away

    def begin_drain(self) -> None:
        """The same as `drain`, in the background and once; for a server that only tells connections."""
        if not self.draining:
            self._close_door()
            task = asyncio.create_task(self.drain(), name="hub-drain")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _close_door(self) -> None:
        self.draining = True
        for limit in list(self._waiting):
            with suppress(RuntimeError):  # it is over already
                limit.reschedule(self.loop.time())

    async def drain(self) -> None:
        """Refuse new viewers and move the present ones away, evenly over the drain window.

        Jobs that have ended come first: their viewers need no other hub, and are told the end while there is time for it.
        """
        self._close_door()
        seats = [seat for audience in self._audiences() for seat in audience.seats]
        random.shuffle(seats)
        seats.sort(key=lambda seat: not seat.audience.log.closed)
        end = self.loop.time() + self.settings.drain
        while seats:
            steps = max(1, int((end - self.loop.time()) / DRAIN_STEP))
            lot = max(1, len(seats) // steps)
            for seat in seats[:lot]:
                self._send_away(seat)
            seats = [seat for seat in seats[lot:] if not seat.left]
            if seats:
                await asyncio.sleep(DRAIN_STEP)
        for _ in range(10):  # who was on the way in is being told
            if not self._waiting:
                break
            await asyncio.sleep(DRAIN_STEP)

    async def aclose(self) -> None:
        """End every feed and every task. Viewers that are still there are told to go elsewhere, at once."""
        self._close_door()
        for audience in self._audiences():
            for seat in list(audience.seats):
                self._send_away(seat)
        for timer in self._lingering.values():
            timer.cancel()
        for feed in list(self._feeds.values()):
            self._end(feed)
        await end_tasks(*self._rounds)
        if still := [*self._closing, *self._reading.values()]:
            await asyncio.wait(still)
        await self.broker.aclose()

    def statistics(self) -> HubStatistics:
        """What this process holds."""
        places = self.admission.statistics()
        return HubStatistics(
            viewers=places.viewers,
            feeds={job: feed.statistics() for job, feed in self._feeds.items()},
            opened=places.opened,
            refused=places.refused,
            unavailable=self._unavailable,
            deliveries=self._ended["deliveries"] + sum(feed.deliveries for feed in self._feeds.values()),
            moved=self._moved,
            draining=self.draining,
            subscriber=self.broker.statistics(),
        )

    def totals(self) -> Totals:
        """The same in numbers, for metrics."""
        now = self.statistics()
        feeds = now.feeds.values()
        return Totals(
            viewers=now.viewers,
            jobs=len(now.feeds),
            opened=now.opened,
            refused=now.refused,
            unavailable=now.unavailable,
            deliveries=now.deliveries,
            window_bytes=sum(feed.log.size for feed in feeds),
            inbox=sum(feed.inbox for feed in feeds),
            heals=self._ended["heals"] + sum(feed.heals for feed in feeds),
            gaps=self._ended["gaps"] + sum(feed.gaps for feed in feeds),
            resyncs=self._ended["resyncs"] + sum(feed.resyncs for feed in feeds),
            messages=now.subscriber.messages,
            redis_reconnects=now.subscriber.reconnects,
            lagged=self._ended["lagged"] + sum(feed.lagged for feed in feeds),
            blocked=self.blocked.aborted,
            moved=now.moved,
            aged=self.age.aged,
            checks_found=self._check.found,
            workers_lost=self._check.lost,
            stalls=self._stall.stalls,
            connected=int(now.subscriber.connected),
            draining=int(now.draining),
        )
