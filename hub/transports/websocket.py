"""WebSocket (RFC 6455): encoder, the socket of one job, heartbeat, closing. Dashboards are in dashboard.py.

Invariant: each text frame is one flat JSON object; an event's first member is its `id`. Events, ids and
guarantees are those of SSE.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.frames import Close, Opcode
from websockets.frames import Frame as WireFrame
from websockets.utils import accept_key

from hub.engine.hub import Hub
from hub.engine.view import View
from hub.errors import BrokerUnavailable
from hub.fanout.wire import Reason
from hub.job.event import RESERVED, JobId, without
from hub.job.frame import Frame
from hub.transports.answering import Answering
from hub.transports.answers import error_text, splice, text
from hub.transports.commands import MAX_BYTES, Command, Malformed, charge, parse, spend
from hub.transports.door import Headers, lines
from hub.transports.fast_websocket import WebSocketWire
from hub.transports.handoff import Detached, Handoff
from hub.transports.heartbeat import Heartbeat
from hub.transports.hello import ARRIVED_LATE, hello, retry_ms
from hub.transports.portable import AsgiWire, Message, Messages
from hub.transports.renewal import Verify

_SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
)

HEARTBEAT = Frame.control("heartbeat", {})


def encode(frame: Frame, job: JobId | None = None) -> bytes:
    """One frame as JSON text. With `job`, the text has that `job_id`, whatever the producer wrote."""
    event = frame.event
    is_object, job_is_said = event.is_object, job is None or event.job == job
    if frame.name is None:
        if event.type in RESERVED:
            is_object = False  # a client must not take it for a control frame
        elif is_object and frame.id is not None and job_is_said and not event.has_id:
            return splice(f'{{"id":"{frame.id}"}}'.encode(), frame.body)  # as below, for nearly every event
    head: dict[str, Any] = {}
    if frame.name is not None:
        head["type"] = frame.name
    elif frame.id is not None:
        head["id"] = str(frame.id)
    if not is_object:
        head |= {"type": "raw", "data": frame.body}
    if not (job_is_said and is_object) and job is not None:
        head["job_id"] = job
    if not is_object:
        return text(head)
    body = frame.body
    if frame.name is None and (event.has_id or (event.job is not None and "job_id" in head)):
        # Of duplicate names, clients' parsers keep the last one, which would be the producer's.
        body = without(body, head.keys() | {"id"})
    return splice(text(head), body)


def message(data: bytes) -> Message:
    """An ASGI message that sends JSON text."""
    return {"type": "websocket.send", "text": data.decode()}


class AsgiWebSocket:
    """`Format`: ASGI messages, for the portable wire of one job."""

    transport = "websocket"

    def encode(self, frame: Frame) -> bytes:
        """See `encode`."""
        return encode(frame)

    def join(self, parts: list[bytes]) -> Messages:
        """Make one ASGI message of each part."""
        return [message(part) for part in parts]


class RawWebSocket:
    """`Format`: RFC 6455 frames as bytes, for the fast wire."""

    transport = "websocket"

    def encode(self, frame: Frame) -> bytes:
        """See `encode`."""
        return wire_frame(encode(frame))

    def join(self, parts: list[bytes]) -> bytes:
        """Concatenate the parts, so that any number of frames is one write."""
        return b"".join(parts)


def wire_frame(data: bytes, opcode: Opcode = Opcode.TEXT) -> bytes:
    """One unmasked RFC 6455 frame, as servers send it."""
    return WireFrame(opcode, data).serialize(mask=False)


ASGI_WEBSOCKET = AsgiWebSocket()
RAW_WEBSOCKET = RawWebSocket()

# On the portable wire, uvicorn sends the Pings (hub/serve/server.py sets their interval).
_ASGI_BEAT = [message(encode(HEARTBEAT))]
_RAW_BEAT = wire_frame(encode(HEARTBEAT)) + wire_frame(b"", Opcode.PING)


class Dashboards(Protocol):
    """What heartbeat and drain need of the dashboard sockets (dashboard.py)."""

    def beat(self, now: float, payload: Messages) -> None: ...

    def drain(self) -> None: ...


class WebSocketTransport:
    """The WebSocket transport of one hub: its heartbeat, and what its sockets share."""

    def __init__(self, hub: Hub, verify: Verify | None = None) -> None:
        self.hub = hub
        self.verify = verify
        self.settings = hub.settings
        self.blocked = hub.blocked
        self.heartbeat = Heartbeat("websocket", self._beat, heartbeat=self.settings.heartbeat)
        self.dashboards: Dashboards | None = None
        self._answering = Answering(hub, verify, wire_frame)

    async def serve(self, websocket: WebSocket, view: View) -> None:
        """Serve the socket of one job: hand it over and return, or serve it until it ends."""
        handed = False
        try:
            await websocket.accept()
            handed = await self._serve(websocket, view)
        except WebSocketDisconnect:
            pass  # the client left during the replay
        finally:
            if not handed:
                view.close()

    async def _serve(self, websocket: WebSocket, view: View) -> bool:
        handoff = Handoff.of(websocket.scope)
        wire = AsgiWire(
            websocket.send,
            self.blocked,
            last_words=self.last_words,
            handoff=handoff,
            late=(late := _late(view)),
            whose=(view.job_id, view.user),
        )
        opening = self._opening(view)
        try:
            if handoff is None or view.begin.after is not None:
                await wire.send_now(ASGI_WEBSOCKET.join(opening))
                opening = []
            while payload := await self.hub.read_payload(view, ASGI_WEBSOCKET):
                await wire.send_now(payload)
        except BrokerUnavailable:
            wire.finish(Reason.GAP)
        except OSError:
            return False
        else:
            if handoff is not None and (detached := handoff.detach(None)) is not None:
                first = b"".join(wire_frame(data) for data in opening)
                WebSocketWire(detached, view, RAW_WEBSOCKET, self, late=late).start(first)
                return True
            wire.write(ASGI_WEBSOCKET.join(opening))
            wire.catch_up = view.seat(wire, ASGI_WEBSOCKET).catch_up
        await wire.run(self._listen(websocket, wire, view))
        view.why = wire.why
        return False

    def begin(self, detached: Detached, view: View, headers: Headers, key: bytes) -> WebSocketWire:
        """Begin on a socket on which nothing was sent: answer the handshake. `headers`: the server's.

        `key`: `Sec-WebSocket-Key` of the handshake.
        """
        answer = _SWITCHING + accept_key(key.decode()).encode() + b"\r\n" + lines(headers) + b"\r\n"
        wire = WebSocketWire(detached, view, RAW_WEBSOCKET, self, late=_late(view))
        wire.start(answer + b"".join(wire_frame(data) for data in self._opening(view)))
        return wire

    def _opening(self, view: View) -> list[bytes]:
        """The first frames. A job that is over begins with its events."""
        frames = [encode(frame) for frame in view.preamble]
        return frames if view.log.closed else [self.hello_text(view), *frames]

    def hello_text(self, view: View | None = None) -> bytes:
        """The `hello` frame."""
        return text({"type": "hello", **hello(self.settings, retry_ms(self.settings), view)})

    async def _listen(self, websocket: WebSocket, wire: AsgiWire, view: View) -> Reason:
        async def execute(command: Command) -> int:
            answer = await self._answering.execute(view, command)
            if answer is None:
                wire.finish(Reason.EXPIRED)
                return 0
            wire.write([message(answer)])
            return len(answer)

        return await listen(websocket, wire, execute)

    def answer(self, wire: WebSocketWire, view: View, data: str) -> bytes:
        """See `SpeakingSide`."""
        return self._answering.answer(wire, view, data)

    async def aclose(self) -> None:
        """End the tasks."""
        await self._answering.aclose()
        await self.heartbeat.aclose()

    def last_words(self, reason: Reason) -> Messages:
        """The ASGI messages that end a socket."""
        close: Message = {"type": "websocket.close", "code": reason.close_code, "reason": reason.words}
        return [*(message(data) for data in self._advice(reason)), close]

    def closing(self, reason: Reason) -> bytes:
        """The last bytes of a detached socket."""
        close = wire_frame(Close(reason.close_code, reason.words).serialize(), Opcode.CLOSE)
        return b"".join([*(wire_frame(data) for data in self._advice(reason)), close])

    def _advice(self, reason: Reason) -> list[bytes]:
        """The `reconnect` frame for a client that is to reconnect: during a drain, or by age."""
        if reason not in (Reason.RESTART, Reason.AGED):
            return []
        after = int(
            self.settings.retry * random.uniform(0.2, 1) * (1000 if reason is Reason.RESTART else 100)
        )
        return [text({"type": "reconnect", "after_ms": after})]

    async def _beat(self, now: float) -> None:
        self.blocked.abort(now)
        for audience in self.hub.feeds.pace.silent(now, ASGI_WEBSOCKET, RAW_WEBSOCKET):
            await audience.beat(_RAW_BEAT if audience.format is RAW_WEBSOCKET else _ASGI_BEAT, now)
        if self.dashboards is not None:
            self.dashboards.beat(now, _ASGI_BEAT)


def _late(view: View) -> float:
    """Seconds until the close."""
    return ARRIVED_LATE if view.log.closed else 0.0


async def listen(
    websocket: WebSocket, wire: AsgiWire, execute: Callable[[Command], Awaitable[int]]
) -> Reason:
    """Read and execute commands until the client leaves or breaks a rule; returns the reason to end.

    `execute` returns the bytes of its answer, for which the client is charged.
    """
    loop = asyncio.get_running_loop()
    due = 0.0
    while True:
        got = await websocket.receive()
        if got["type"] == "websocket.disconnect":
            return Reason.LEFT
        data = got.get("text") or ""  # a binary message is not a command
        if len(data) > MAX_BYTES or len(got.get("bytes") or b"") > MAX_BYTES:
            return Reason.TOO_BIG
        later = spend(due, loop.time())
        if later is None:
            return Reason.FLOOD
        due = later
        await wire.flush()  # backpressure: no further command until the client has read the answers
        try:
            due = charge(due, await execute(parse(data)))
        except Malformed as error:
            wire.write([message(error_text(error.code, str(error), error.ref))])
