"""Server-Sent Events (WHATWG HTML, section 9.2): encoder, response, heartbeat, closing.

Invariant: data events have no `event:` field, so `EventSource.onmessage` gets them all; control frames are named. The
first bytes go out at once and carry the position, so that even a stream without events can be resumed.
"""

from __future__ import annotations

import json
import random
import re

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hub.errors import BrokerUnavailable
from hub.hub import Hub
from hub.log import Frame
from hub.transports.asgi import AsgiWire, Message, Messages
from hub.transports.heartbeat import Heartbeat
from hub.view import View
from hub.wire import Reason

HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache, no-transform",
    "Connection": "keep-alive",
    "X-Accel-Buffering": "no",  # nginx would hold events back
}

# The three line ends of the format; any of them in a body would end its `data:` line.
_LINE_END = re.compile(r"\r\n|\r|\n")

HEARTBEAT = Frame.control("heartbeat", {})


def encode(frame: Frame) -> bytes:
    """One frame as the bytes of an event stream."""
    head = f"id: {frame.id}\n" if frame.id is not None else ""
    if frame.name is not None:
        head += f"event: {frame.name}\n"
    body = frame.body
    if "\n" in body or "\r" in body:
        body = _LINE_END.sub("\ndata: ", body)
    return f"{head}data: {body}\n\n".encode()


class AsgiSse:
    """`Format`: what one ASGI body message carries."""

    def encode(self, frame: Frame) -> bytes:
        """See `encode`."""
        return encode(frame)

    def join(self, parts: list[bytes]) -> Messages:
        """One message for all."""
        return [_body(b"".join(parts))]


ASGI_SSE = AsgiSse()


class SseTransport:
    """The SSE side of one hub: its heartbeat, and what its streams share."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.settings = hub.settings
        self.heartbeat = Heartbeat("sse", self._beat, heartbeat=self.settings.heartbeat)

    def retry_ms(self) -> int:
        """Milliseconds before a browser reconnects: jittered, so that a deploy does not bring all back at once."""
        return int(self.settings.retry * random.uniform(0.8, 1.2) * 1000)

    def _beat(self, now: float) -> None:
        for audience in self.hub.audiences(ASGI_SSE):
            if now - audience.last_write >= self.settings.heartbeat:
                audience.broadcast(HEARTBEAT, now)


class EventStream(Response):
    """The response of a stream. A plain `Response`, so everything before it (404, 204) stays FastAPI's.

    `prologue` is the JSON text of a first event that is not from the log (the older status stream has one).
    """

    def __init__(self, transport: SseTransport, view: View, *, prologue: str | None = None) -> None:
        super().__init__(status_code=200, headers=HEADERS)
        del self.headers["content-length"]
        self._transport = transport
        self._view = view
        self._prologue = prologue

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # ASGI
        """Stream until the job ends, the client leaves or the hub drains."""
        with self._view as view:
            wire = AsgiWire(send, timeout=self._transport.settings.send_timeout, last_words=self._last_words)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send(_body(self._head()))
            try:
                async for frames in view.replay():
                    await send(
                        _body(b"".join(encode(frame) for frame in frames if frame.passes(view.wish.types)))
                    )
            except BrokerUnavailable:
                wire.finish(None, Reason.GAP)
            else:
                wire.seats.append(view.seat(wire, ASGI_SSE))
            await wire.run(_until_disconnect(receive))

    def _head(self) -> bytes:
        head = f"retry: {self._transport.retry_ms()}\nid: {self._view.seen}\n\n".encode()
        if self._prologue is not None:
            head += f"data: {self._prologue}\n\n".encode()
        return head + b"".join(encode(frame) for frame in self._view.preamble)

    def _last_words(self, reason: Reason) -> Messages:
        words = b"" if reason is Reason.ENDED else reconnect(self._transport.retry_ms(), reason)
        return [{"type": "http.response.body", "body": words, "more_body": False}]


def reconnect(after_ms: int, reason: Reason) -> bytes:
    """The frame that sends a browser away for a while; it comes back with its cursor."""
    data = json.dumps({"after_ms": after_ms, "reason": reason.words})
    return f"retry: {after_ms}\nevent: reconnect\ndata: {data}\n\n".encode()


def overloaded(transport: SseTransport) -> Response:
    """The answer when there is no room: a status other than 200 would make an EventSource give up for ever."""
    return Response(reconnect(transport.retry_ms(), Reason.OVERLOADED), headers=HEADERS)


def _body(data: bytes) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": True}


async def _until_disconnect(receive: Receive) -> Reason:
    while (await receive())["type"] != "http.disconnect":
        pass
    return Reason.LEFT
