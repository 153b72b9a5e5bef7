"""The hub of one process: who may watch what, and how that begins and ends.

Invariant: a viewer is let in by `view` only, on whatever transport, and counts until its view is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from hub.broker.redis import RedisBroker
from hub.ending import end_tasks
from hub.engine.admission import Admission
from hub.engine.caller import Caller
from hub.engine.control import Control
from hub.engine.desk import Desk
from hub.engine.drain import Drain
from hub.engine.feeds import Feeds
from hub.engine.guests import GuestCheck
from hub.engine.incidents import Incidents
from hub.engine.inspector import Inspector
from hub.engine.memory import Past, budget, held
from hub.engine.mine import Mine
from hub.engine.patience import Patience
from hub.engine.presence import Presence
from hub.engine.reads import JobReads
from hub.engine.revocations import Revocations
from hub.engine.stall import StallWatch
from hub.engine.survey import Survey
from hub.engine.ticks import Ticks
from hub.engine.view import View
from hub.errors import BrokerUnavailable, JobNotFound
from hub.fanout.age import StreamAge
from hub.fanout.blocked import TOOK_NOTHING, UNANSWERED, Blocked
from hub.fanout.wire import Reason
from hub.job.cursor import Wish
from hub.job.event import JobId
from hub.job.frame import Format, Frame
from hub.job.question import Away
from hub.job.record import Job
from hub.job.revocation import Revocation
from hub.quiet import quiet_log
from hub.redaction import Redaction
from hub.settings import Settings
from hub.timings import Timings
from hub.totals import Totals
from hub.tracing import span

logger = quiet_log("hub.hub")

P = TypeVar("P")

_CLOSED = {one.words: f"closed_{one.name.lower()}" for one in Reason} | {
    TOOK_NOTHING: "closed_blocked",
    UNANSWERED: "closed_unanswered",
}
"""The counters of viewers that have gone, by the reason."""


class Hub:
    """All feeds of one process on one broker. Bound to the running loop; ended by `aclose`."""

    def __init__(self, broker: RedisBroker, settings: Settings) -> None:
        self.broker = broker
        self.settings = settings
        self.loop = asyncio.get_running_loop()
        self.draining = False
        self.totals = totals = Totals()
        self.admission = Admission(settings, totals)
        self.presence = Presence(broker, self.admission)
        self.blocked = Blocked(settings.send_timeout, totals)
        self.feeds = Feeds(broker, settings, totals)
        self.age = StreamAge(settings, self.feeds.audiences, totals)
        # Ends what has no view: dashboards without jobs.
        self.on_revoked: Callable[[Revocation], Any] = lambda _: None
        self.revocations = Revocations(broker, self._expel)
        self.mine = Mine(broker)
        self._views: dict[View, None] = {}  # half of what a set takes
        self._on_leave: Callable[[View], None] = self._leave  # made for each view it would be 64 bytes
        self._incidents = Incidents(Redaction(settings.secrets))
        self.inspector = Inspector(self.feeds.watched, self._views, self.statistics, self._incidents)
        self.survey = Survey(broker, self.inspector.look)
        self.control = Control(self.revocations, self.mine, self.survey, self.send_away)
        broker.listen(self.control)
        self._memory = budget(settings.memory)
        self._past = Past(self._memory, self.totals)
        self._ticks = Ticks()
        self._patience = Patience()
        self._reads = JobReads(broker, self._patience, self.admission, self.feeds.notice)
        self._drain = Drain(settings.drain, self.feeds.audiences, self._patience, totals)
        self.desk = Desk(broker, settings, self._authorised, totals)
        self._moving: asyncio.Task[None] | None = None
        self._rounds = [
            asyncio.create_task(self.feeds.check.run(), name="hub-position-check"),
            asyncio.create_task(self.age.run(), name="hub-stream-age"),
            asyncio.create_task(StallWatch(totals).run(), name="hub-stall-watch"),
            asyncio.create_task(self.revocations.run(), name="hub-revocations"),
            asyncio.create_task(GuestCheck(broker, lambda: self._views).run(), name="hub-guest-check"),
        ]
        if settings.my_jobs:
            self._rounds.append(asyncio.create_task(self.mine.run(), name="hub-mine-run"))
        if settings.presence:
            self._rounds.append(asyncio.create_task(self.presence.run(), name="hub-presence"))

    # --- viewers

    async def view(self, caller: Caller, job: JobId, wish: Wish, *, wait: float = 0) -> View:
        """A new viewer, to be closed by whoever asked. Authorises each time, for a job may change hands.

        The stream ends when the caller's credentials do. A job that is not there yet, or is another's, is
        looked for again for `wait` seconds. Raises JobNotFound, Overloaded, BrokerUnavailable. Cancel-safe:
        nothing stays held.
        """
        try:
            with span("push_hub.join", {"push_hub.job": job}, parent=caller.trace):
                return await self._view(caller, job, wish, wait)
        except BrokerUnavailable as error:
            self.totals.unavailable += 1
            logger.warning("a viewer was sent away: %s", error)
            raise

    async def _view(self, caller: Caller, job: JobId, wish: Wish, wait: float) -> View:
        since = self.loop.time()
        self.check_open()
        found = await self.authorised(caller, job, wait=wait)
        self.check_open()
        if job not in self.feeds.watched and not self.feeds.make_room(self._memory):
            raise self.admission.refuse(f"expected at most {self._memory} bytes of events in memory")
        self.admission.enter(caller.user, job)
        if self.settings.my_jobs and found.user_id == caller.user:
            self.mine.saw(caller.user, found)
        feed = self.feeds.of(found, wish)
        expiry = self.age.expiry(caller.expires)
        until = {"age": self.age.end(), "expiry": expiry, "since": since}
        view = View(feed, self.broker, self._past, wish, caller, leave=self._on_leave, **until)
        self._views[view] = None
        feed.hold()
        try:
            if not feed.ready or not view.open_in_window():
                async with self._patience.bound():
                    await feed.wait_started()
                    await view.open()
        except BaseException:
            view.close()
            raise
        return view

    async def authorised(self, caller: Caller, job: JobId, *, wait: float = 0) -> Job:
        """The job, if the caller may watch it; counts as a join. Raises JobNotFound, BrokerUnavailable,
        Overloaded (too many waits, or joins).
        """
        self.admission.enter_rate(caller.user)
        return await self._authorised(caller, job, wait)

    async def _authorised(self, caller: Caller, job: JobId, wait: float = 0) -> Job:
        if not self.revocations.known:
            async with self._patience.bound():
                await self.revocations.wait_known()
        try:
            return await self._find(caller, job, wait)
        except JobNotFound:
            if not self.draining:
                await self.admission.slow_down(caller.user)
            await self._ticks.wait()
            raise

    async def _find(self, caller: Caller, job: JobId, wait: float) -> Job:
        found = await (self._reads.wait_for(caller, job, wait) if wait else self._reads.read_of(caller, job))
        if self.revocations.cover(caller, job):
            self.totals.auth_refused_revoked += 1
            raise JobNotFound("expected credentials that were not revoked")
        return found

    def _expel(self, one: Revocation) -> None:
        """End the streams that a revocation concerns."""
        reason = Reason.REVOKED if one.job is None else Reason.NOT_FOUND
        for view in list(self._views):
            if view.user == one.user and one.job in (None, view.job_id):
                view.expel(reason)
        self.on_revoked(one)

    def send_away(self, away: Away) -> None:
        """Tell viewers of this process to reconnect: to another one, if there is a load balancer."""
        for view in list(self._views):
            if away.concerns(view.job_id, view.user) and (seat := view.taken) is not None:
                seat.send_away(Reason.RESTART)

    async def read_past(self, view: View) -> list[Frame]:
        """The viewer's next frames from before the window, a full write at most; [] once they meet it.

        The viewer takes its seat then, without an await between. Raises BrokerUnavailable.
        """
        async with self._patience.bound():
            return await view.read_past()

    async def read_payload(self, view: View, fmt: Format[P]) -> P | None:
        """The same as one payload; None once they meet the window. A slow viewer holds bytes, no frames."""
        while frames := await self.read_past(view):
            if parts := [fmt.encode(frame) for frame in frames if frame.passes(view.wish.types)]:
                return fmt.join(parts)
        return None

    def check_open(self) -> None:
        """Raises Overloaded once the hub drains."""
        if self.draining:
            raise self.admission.refuse("expected a hub that stays, got one that is shutting down")

    def _leave(self, view: View) -> None:
        self._views.pop(view, None)
        if view.why:
            name = _CLOSED.get(view.why, "closed_failed")
            setattr(self.totals, name, getattr(self.totals, name) + 1)
            self.inspector.note(view)
        self.admission.leave(view.user, view.job_id)

    @property
    def ready(self) -> bool:
        """Returns True if new viewers are welcome: Redis answers, and no drain has begun."""
        return not self.draining and self.broker.subscriber.connected

    # --- the end

    def begin_drain(self) -> None:
        """Refuse new viewers and move the present ones away, in the background, until `aclose`."""
        if self._moving is None:
            self._close_door()
            self._moving = asyncio.create_task(self._drain.run(), name="hub-drain")
            self._rounds.append(self._moving)

    async def drain(self) -> None:
        """The same. Returns when every viewer was told. Cancel-safe; the drain goes on."""
        self.begin_drain()
        await self._drain.wait_done()

    def _close_door(self) -> None:
        self.draining = True
        self._patience.end()

    async def aclose(self) -> None:
        """End every feed and every task. Viewers that are still there are moved away at once."""
        self._close_door()
        self._drain.finish()
        self._incidents.close()
        self.feeds.end()
        await self.survey.aclose()
        await end_tasks(*self._rounds)
        if still := [*self.feeds.closing, *self._reads.tasks]:
            await asyncio.wait(still)
        await self.broker.aclose()

    def statistics(self) -> Totals:
        """What this process holds and has done."""
        subscriber = self.broker.statistics()
        timings = Timings.of(self.totals.timings.cells())
        timings.delivery["redis"] = subscriber.answers
        return replace(
            self.totals,
            timings=timings,
            held_bytes=held(self.totals),
            memory_bytes=self._memory,
            jobs=len(self.feeds.watched),
            connected=int(subscriber.connected),
            shards=subscriber.shards,
            shards_connected=subscriber.shards_connected,
            draining=int(self.draining),
            messages=subscriber.messages,
            redis_reconnects=subscriber.reconnects,
        )
