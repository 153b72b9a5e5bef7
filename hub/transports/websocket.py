"""WebSocket: encoder, the socket of one job, the dashboard socket of many, heartbeat, closing.

Invariant: a text frame is one flat JSON object, an event's `id` first; events, ids and guarantees are those of SSE. On the
dashboard socket each job has a seat of its own on the one wire, and `job_id` is in every frame.
"""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass
from typing import Any

from starlette.websockets import WebSocket

from hub.errors import HubError, JobNotFound, Overloaded
from hub.event import JobId, UserId
from hub.hub import Hub
from hub.log import Frame
from hub.transports.asgi import AsgiWire, Message, Messages
from hub.transports.commands import MAX_BYTES, Budget, Command, Malformed, parse
from hub.transports.heartbeat import Heartbeat
from hub.view import View
from hub.wire import Reason, Seat

HEARTBEAT = Frame.control("heartbeat", {})


def encode(frame: Frame, job: JobId | None = None) -> bytes:
    """One frame as JSON text; with `job`, `job_id` is in it whatever the producer wrote."""
    fields = frame.event.fields
    head: dict[str, Any] = {}
    if frame.name is not None:
        head["type"] = frame.name
    elif frame.id is not None:
        head["id"] = str(frame.id)
    if frame.name is None and fields is None:
        head |= {"type": "raw", "data": frame.body}
    if job is not None and (fields or {}).get("job_id") != job:
        head["job_id"] = job
    if fields is None:
        return _text(head)
    ours = head.keys() | {"id"}
    if fields.keys() & ours:
        # The producer's own `id` (or another job's `job_id`) would come after ours and win in every client's parser.
        return _text(head | {name: value for name, value in fields.items() if name not in ours})
    return _spliced(_text(head), frame.body)


def _text(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def _spliced(head: bytes, body: str) -> bytes:
    """Two objects as one, the second as its producer wrote it."""
    rest = body.strip().encode()
    if head == b"{}":
        return rest
    inner = rest[1:].lstrip()
    return head[:-1] + (b"" if inner == b"}" else b",") + inner


def _message(data: bytes) -> Message:
    return {"type": "websocket.send", "text": data.decode()}


class AsgiWebSocket:
    """`Format`: ASGI messages, one per frame, of the socket of one job."""

    def encode(self, frame: Frame) -> bytes:
        """See `encode`."""
        return encode(frame)

    def join(self, parts: list[bytes]) -> Messages:
        """A message each."""
        return [_message(part) for part in parts]


@dataclass(frozen=True)
class AsgiDashboard:
    """`Format`: the same on a dashboard socket, where every frame says which job it is about."""

    job: JobId

    def encode(self, frame: Frame) -> bytes:
        """See `encode`."""
        return encode(frame, self.job)

    def join(self, parts: list[bytes]) -> Messages:
        """A message each."""
        return [_message(part) for part in parts]


ASGI_WEBSOCKET = AsgiWebSocket()


class WebSocketTransport:
    """The WebSocket side of one hub: its heartbeat and its dashboard sockets."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.settings = hub.settings
        self.heartbeat = Heartbeat("websocket", self._beat, heartbeat=self.settings.heartbeat)
        self._dashboards: dict[AsgiWire, tuple[int, float]] = {}  # writes as last seen, and when they changed

    async def serve_job(self, websocket: WebSocket, view: View) -> None:
        """Serve the socket of one job until it ends, the client leaves or the hub drains."""
        with view:
            await websocket.accept()
            await _JobSession(self, websocket, view).run()

    async def serve_dashboard(self, websocket: WebSocket, user: UserId) -> None:
        """Serve a socket with no job yet; the client subscribes."""
        await websocket.accept()
        session = _DashboardSession(self, websocket, user)
        self._dashboards[session.wire] = (0, asyncio.get_running_loop().time())
        try:
            await session.run()
        finally:
            del self._dashboards[session.wire]
            session.close()

    def last_words(self, reason: Reason) -> Messages:
        """The messages that end a socket."""
        close = {"type": "websocket.close", "code": reason.close_code, "reason": reason.words}
        if reason is not Reason.RESTART:
            return [close]
        after = int(self.settings.retry * random.uniform(0.2, 1) * 1000)
        return [_message(_text({"type": "reconnect", "after_ms": after})), close]

    def drain(self) -> None:
        """End the dashboards that watch nothing; those with jobs end with their seats."""
        for wire in self._dashboards:
            if not wire.seats:
                wire.finish(None, Reason.RESTART)

    def _beat(self, now: float) -> None:
        for audience in self.hub.audiences(ASGI_WEBSOCKET):
            if now - audience.last_write >= self.settings.heartbeat:
                audience.broadcast(HEARTBEAT, now)
        for wire, (writes, since) in self._dashboards.items():
            if wire.writes != writes:
                self._dashboards[wire] = (wire.writes, now)
            elif now - since >= self.settings.heartbeat and not wire.paused:
                wire.write(ASGI_WEBSOCKET.join([encode(HEARTBEAT)]))


class _Session:
    """One connected client: what it says, and the wire to answer on."""

    def __init__(self, transport: WebSocketTransport, websocket: WebSocket) -> None:
        self.transport = transport
        self.wire = AsgiWire(
            websocket.send, timeout=transport.settings.send_timeout, last_words=transport.last_words
        )
        self._websocket = websocket

    async def run(self) -> None:
        await self.wire.run(self._listen())

    async def execute(self, command: Command) -> None:
        raise NotImplementedError

    def answer(self, kind: str, ref: Any, **fields: Any) -> None:
        """One frame back, with the client's ref."""
        reference = {} if ref is None else {"ref": ref}
        self.wire.write([_message(_text({"type": kind, **fields, **reference}))])

    def refuse(self, code: str, message: str, ref: Any, **fields: Any) -> None:
        """An `error` frame; the socket lives on."""
        self.answer("error", ref, code=code, message=message, **fields)

    def state(self, view: View, ref: Any) -> None:
        """The job's current state as a frame of its own."""
        feed = view.feed
        text = feed.state.text(feed.log.seen_at(feed.log.end))
        head = {"type": "state"} if ref is None else {"type": "state", "ref": ref}
        self.wire.write([_message(_spliced(_text(head), text))])

    async def _listen(self) -> Reason:
        loop = asyncio.get_running_loop()
        budget = Budget(loop.time())
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return Reason.LEFT
            text = message.get("text") or ""
            if len(text) > MAX_BYTES or len(message.get("bytes") or b"") > MAX_BYTES:
                return Reason.TOO_BIG
            if not budget.spend(loop.time()):
                return Reason.FLOOD
            await self.wire.flush()  # who does not read the answers is not asked for more questions
            try:
                await self.execute(parse(text))
            except Malformed as error:
                self.refuse(error.code, str(error), error.ref)


class _JobSession(_Session):
    """The socket of one job."""

    def __init__(self, transport: WebSocketTransport, websocket: WebSocket, view: View) -> None:
        super().__init__(transport, websocket)
        self._view = view

    async def run(self) -> None:
        view, wire = self._view, self.wire
        wire.write(ASGI_WEBSOCKET.join([encode(frame) for frame in view.preamble]))
        if view.begin.after is None:
            wire.seats.append(view.seat(wire, ASGI_WEBSOCKET))
            await super().run()
            return
        replaying = asyncio.create_task(
            self._replay()
        )  # beside the wire's own task, which sends what this reads
        try:
            await super().run()
        finally:
            replaying.cancel()
            await asyncio.wait([replaying])

    async def _replay(self) -> None:
        view, wire = self._view, self.wire
        try:
            async for frames in view.replay():
                wire.write(
                    ASGI_WEBSOCKET.join([encode(one) for one in frames if one.passes(view.wish.types)])
                )
                await wire.flush()
        except HubError:
            wire.finish(None, Reason.GAP)
            return
        wire.seats.append(view.seat(wire, ASGI_WEBSOCKET))
        wire.write([])  # wakes it, to catch up

    async def execute(self, command: Command) -> None:
        match command.op:
            case "ping":
                self.answer("pong", command.ref)
            case "state":
                self.state(self._view, command.ref)
            case "subscribe" | "unsubscribe":
                self.refuse("unsupported", "expected state or ping on the socket of one job", command.ref)


class _DashboardWire(AsgiWire):
    """A wire with many seats: the end of one job is not the end of the connection."""

    __slots__ = ("done",)
    done: Any

    def finish(self, seat: Seat[Any] | None, reason: Reason) -> None:
        if seat is not None and reason in (Reason.ENDED, Reason.GAP, Reason.TOO_SLOW):
            self.done(seat, reason)
        else:
            super().finish(seat, reason)


class _DashboardSession(_Session):
    """The socket of many jobs: a view of each, all on one wire."""

    def __init__(self, transport: WebSocketTransport, websocket: WebSocket, user: UserId) -> None:
        super().__init__(transport, websocket)
        self.wire: _DashboardWire = _DashboardWire(
            websocket.send, timeout=transport.settings.send_timeout, last_words=transport.last_words
        )
        self.wire.done = self._done
        self._user = user
        self._views: dict[JobId, View] = {}

    def close(self) -> None:
        """Leave every job."""
        for view in self._views.values():
            view.close()
        self._views.clear()

    async def execute(self, command: Command) -> None:
        job, ref = command.job, command.ref
        if command.op == "ping":
            self.answer("pong", ref)
        elif job is None:
            self.refuse("malformed", "expected a job, got none", ref)
        elif command.op == "subscribe":
            await self._subscribe(job, command)
        elif (view := self._views.get(job)) is None:
            self.refuse("not_subscribed", "expected a job of this socket, got another", ref, job_id=job)
        elif command.op == "state":
            self.state(view, ref)
        else:
            self._leave(job)
            self.answer("unsubscribed", ref, job_id=job)

    async def _subscribe(self, job: JobId, command: Command) -> None:
        ref = command.ref
        if job in self._views:
            self.refuse("already_subscribed", "expected a job that is not subscribed yet", ref, job_id=job)
            return
        limit = self.transport.settings.max_jobs_per_socket
        if len(self._views) >= limit:
            self.refuse("too_many_jobs", f"expected at most {limit} jobs on a socket", ref, job_id=job)
            return
        try:
            view = await self.transport.hub.view(self._user, job, command.wish)
        except JobNotFound:
            self.refuse("not_found", JobNotFound.detail, ref, job_id=job)
            return
        except HubError as error:
            code = "overloaded" if isinstance(error, Overloaded) else "unavailable"
            self.refuse(code, error.detail, ref, job_id=job)
            return
        self._views[job] = view
        await self._begin(job, view, ref)

    async def _begin(self, job: JobId, view: View, ref: Any) -> None:
        fmt = AsgiDashboard(job)
        self.answer("subscribed", ref, job_id=job, position=str(view.seen))
        self.wire.write(fmt.join([fmt.encode(frame) for frame in view.preamble]))
        try:
            async for frames in view.replay():
                self.wire.write(fmt.join([fmt.encode(one) for one in frames if one.passes(view.wish.types)]))
                await self.wire.flush()
        except HubError as error:
            self._leave(job)
            self.refuse("unavailable", error.detail, ref, job_id=job)
            return
        self.wire.seats.append(view.seat(self.wire, fmt))
        self.wire.write([])  # wakes it, to catch up

    def _done(self, seat: Seat[Any], reason: Reason) -> None:
        """One job is over for this socket; its `end` frame went out with the log."""
        for job, view in self._views.items():
            if view.feed.log is seat.audience.log:
                self._leave(job)
                if reason is not Reason.ENDED:
                    self.refuse("resume", reason.words, None, job_id=job)
                return

    def _leave(self, job: JobId) -> None:
        view = self._views.pop(job)
        self.wire.seats = [seat for seat in self.wire.seats if seat.audience.log is not view.feed.log]
        view.close()
