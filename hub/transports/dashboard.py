"""The dashboard socket: one WebSocket that watches many jobs, which the client subscribes and unsubscribes.

Invariant: each job has its own view, seat and lane, so the end, failure or refusal of one job does not affect
the others; every frame about a job has its `job_id`. A dashboard always uses the portable wire: its commands
wait for Redis, so it needs a task in any case.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from starlette.websockets import WebSocket

from hub.ending import end_tasks
from hub.engine.caller import Caller
from hub.errors import HubError, JobNotFound
from hub.fanout.age import earlier
from hub.fanout.wire import Reason
from hub.job.event import JobId
from hub.job.frame import Frame
from hub.job.revocation import Revocation
from hub.quiet import quiet_log
from hub.transports.answers import answer_text, error_text, give, read_state, text
from hub.transports.commands import Command
from hub.transports.handoff import Handoff
from hub.transports.lane import Lane, Lanes
from hub.transports.my_jobs import MyJobs
from hub.transports.portable import AsgiWire, Messages
from hub.transports.renewal import renew
from hub.transports.websocket import WebSocketTransport, encode, listen, message

logger = quiet_log("hub.transports")


@dataclass(frozen=True)
class AsgiDashboard:
    """`Format`: the frames of one job as ASGI messages, each with the job's id."""

    transport: ClassVar[str] = "dashboard"

    job: JobId

    def encode(self, frame: Frame) -> bytes:
        """Encode a frame; the hub's `job_id` replaces the producer's."""
        return encode(frame, self.job)

    def join(self, parts: list[bytes]) -> Messages:
        """Make one ASGI message of each part."""
        return [message(part) for part in parts]


class DashboardSockets:
    """All dashboard sockets of one hub."""

    def __init__(self, transport: WebSocketTransport) -> None:
        self.transport = transport
        self._sessions: dict[_Session, float] = {}  # loop time since which a session has written nothing
        transport.dashboards = self
        transport.hub.on_revoked = self._revoke

    async def serve(self, websocket: WebSocket, caller: Caller) -> None:
        """Accept a socket and serve it until it ends. It watches no job until the client subscribes.

        Raises Overloaded and JobNotFound (revoked credentials) before the accept.
        """
        hub = self.transport.hub
        hub.check_open()
        if hub.revocations.cover(caller):
            raise JobNotFound("expected credentials that were not revoked")
        hub.admission.enter_socket(caller.user)
        session = _Session(self.transport, websocket, caller)
        self._sessions[session] = hub.loop.time()
        try:
            await websocket.accept()
            session.write([message(self.transport.hello_text())])
            await session.serve()
        finally:
            del self._sessions[session]
            hub.admission.leave_socket(caller.user)

    def beat(self, now: float, payload: Messages) -> None:
        """Write a heartbeat to every socket silent for the heartbeat interval, and end sockets by age."""
        hub = self.transport.hub
        for session, since in self._sessions.items():
            if now >= session.until:
                hub.totals.aged += session.reason is None
                session.finish(session.last)
            elif session.has_written():
                self._sessions[session] = now
            elif now - since >= hub.settings.heartbeat and not session.paused:
                session.write(payload)

    def _revoke(self, one: Revocation) -> None:
        for session in self._sessions if one.job is None else ():
            if session.caller.user == one.user:
                session.finish(Reason.REVOKED)

    def drain(self) -> None:
        """End the sockets that have no seat. The drain ends the others through their seats."""
        for session in self._sessions:
            if not session.lanes.seated:
                session.finish(Reason.RESTART)


class _Session(AsgiWire):
    """One client's socket, with a lane for each of its jobs. It ends at
    loop time `until`, for the reason `last`.
    """

    def __init__(self, transport: WebSocketTransport, websocket: WebSocket, caller: Caller) -> None:
        super().__init__(
            websocket.send,
            transport.blocked,
            handoff=Handoff.of(websocket.scope),
            last_words=transport.last_words,
            whose=("", caller.user),
        )
        self._replays: dict[Lane, asyncio.Task[None]] = {}
        self._tells: dict[Lane, Callable[[int], None]] = {}  # what the count of a job's viewers is told to
        self._turn = asyncio.Lock()  # of the replays: one chunk at a time waits in the wire
        self._hub = hub = transport.hub
        self._verify = transport.verify
        self._age = hub.age.end()
        self._accept(caller)
        self._websocket = websocket
        self.lanes = Lanes()
        self._mine = MyJobs(hub.mine, caller.user, self._join)
        self.catch_up = self.lanes.catch_up
        self._writes_before = 0

    def _accept(self, caller: Caller) -> None:
        self.caller = caller
        self.until, self.last = earlier(self._age, self._hub.age.expiry(caller.expires))

    def has_written(self) -> bool:
        """Returns True if the session has written since the last call."""
        before, self._writes_before = self._writes_before, self.writes
        return before != self.writes

    async def serve(self) -> None:
        """Execute the client's commands until the socket ends, then leave every job."""
        try:
            await self.run(listen(self._websocket, self, self._execute))
        finally:
            await self._mine.aclose()
            await end_tasks(*self._replays.values())
            self.lanes.clear(self.why)
            for lane in list(self._tells):
                self._stop_telling(lane)

    def _stop_telling(self, lane: Lane) -> None:
        if (tell := self._tells.pop(lane, None)) is not None:
            self._hub.presence.forget(lane.job, tell)

    def end_lane(self, lane: Lane, reason: Reason) -> None:
        """End one job on this socket. The `end` frame of a job that has ended is already written."""
        lane.view.why = reason.words
        self._leave(lane)
        if reason is not Reason.ENDED:
            code = "not_found" if reason is Reason.NOT_FOUND else "resume"
            self._say(error_text(code, reason.words, None, job_id=lane.job))

    async def _execute(self, command: Command) -> int:
        job, ref = command.job, command.ref
        if command.op == "ping":
            self._say(answer_text("pong", ref))
        elif command.op == "authenticate":
            answer = await renew(self._hub, self._verify, self.caller, command, self._accept)
            if answer is None:
                self.finish(Reason.EXPIRED)
            else:
                self._say(answer)
        elif command.mine:
            self._follow(command)
        elif job is None:
            self._say(error_text("malformed", "expected a job, got none", ref))
        elif command.op == "subscribe":
            await self._subscribe(job, command)
        elif command.op == "command":
            self._say(await give(self._hub, self.caller, job, command, job_id=job))
        elif (lane := self.lanes.get(job)) is None:
            self._say(
                error_text("not_subscribed", "expected a job of this socket, got another", ref, job_id=job)
            )
        elif command.op == "state":
            data = await read_state(lane.view, ref, job_id=job)
            self._say(data)
            return len(data)
        else:
            self._leave(lane)
            self._say(answer_text("unsubscribed", ref, job_id=job))
        return 0

    async def _subscribe(self, job: JobId, command: Command, *, quiet: bool = False) -> None:
        """`quiet`: the client has not named the job, and does not hear that it is not there."""
        ref = command.ref
        limit = self._hub.settings.max_jobs_per_socket
        if job in self.lanes:
            words = "expected a job that is not subscribed yet"
            self._say(error_text("already_subscribed", words, ref, job_id=job))
        elif len(self.lanes) >= limit:
            self._say(
                error_text("too_many_jobs", f"expected at most {limit} jobs on a socket", ref, job_id=job)
            )
        else:
            try:
                view = await self._hub.view(self.caller, job, command.wish)
            except HubError as error:
                if not quiet or not isinstance(error, JobNotFound):
                    self._say(error_text(error.code, error.detail, ref, job_id=job))
                return
            lane = Lane(self, view)
            self.lanes.add(lane)
            self._start_lane(lane, ref)
            if command.viewers and self._hub.settings.presence:
                tell = self._tells[lane] = partial(self._tell_viewers, job)
                self._hub.presence.ask(job, tell)

    # --- all jobs of the user

    def _follow(self, command: Command) -> None:
        """Subscribe to the jobs of the user that run, and to those that begin later; or stop that."""
        if command.op not in ("subscribe", "unsubscribe") or not self._hub.settings.my_jobs:
            self._say(error_text("unsupported", "expected this hub to keep the jobs of users", command.ref))
            return
        self._mine.stop()
        self._say(answer_text(f"{command.op}d", command.ref, mine=True))
        if command.op == "subscribe":
            self._mine.start(command)

    async def _join(self, job: JobId, command: Command) -> None:
        """A job of the user runs, and the user wants all of them."""
        if job not in self.lanes and self.reason is None:
            await self._subscribe(job, command, quiet=True)

    def _tell_viewers(self, job: JobId, count: int) -> None:
        self._say(text({"type": "viewers", "job_id": job, "count": count}))

    def _start_lane(self, lane: Lane, ref: Any) -> None:
        job, view = lane.job, lane.view
        fmt = AsgiDashboard(job)
        self._say(
            answer_text("subscribed", ref, job_id=job, position=str(view.seen), attempt=view.job.attempt)
        )
        self.write(fmt.join([fmt.encode(frame) for frame in view.preamble]))
        # A task of its own, or a `ping` would wait for all of the job's past.
        replay = self._replays[lane] = asyncio.create_task(self._replay(lane, fmt, ref), name="hub-replay")
        replay.add_done_callback(lambda done: self._replayed(lane, done))

    async def _replay(self, lane: Lane, fmt: AsgiDashboard, ref: Any) -> None:
        view = lane.view
        try:
            while payload := await self._hub.read_payload(view, fmt):
                async with self._turn:
                    await self.flush()  # the wire may be busy with other jobs' frames
                    self.write(payload)
                    await self.flush()
        except HubError as error:
            self._leave(lane)
            self._say(error_text(error.code, error.detail, ref, job_id=lane.job))
            return
        async with self._turn:
            await self.flush()
            lane.seat = view.share(lane, fmt, at=view.position)
            lane.seat.catch_up()  # at once, because the replay may have ended at the start of the window

    def _replayed(self, lane: Lane, replay: asyncio.Task[None]) -> None:
        self._replays.pop(lane, None)
        if not replay.cancelled() and (error := replay.exception()) is not None:
            logger.error("a replay failed, its connection is closed", exc_info=error)
            self.finish(Reason.FAILED)

    def _say(self, data: bytes) -> None:
        self.write([message(data)])

    def _leave(self, lane: Lane) -> None:
        replay = self._replays.get(lane)
        if replay is not None and replay is not asyncio.current_task():
            replay.cancel()
        self.lanes.remove(lane)
        self._stop_telling(lane)
        if self._hub.draining and not self.lanes:  # the drain would not find a socket without seats
            self.finish(Reason.RESTART)
