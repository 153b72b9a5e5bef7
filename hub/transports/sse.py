"""Server-Sent Events (WHATWG HTML, section 9.2): encoder, response, heartbeat, closing.

Invariant: data events have no `event:` field, so `EventSource.onmessage` gets all of them; control frames
have one. The first bytes are sent at once and contain the position, so that a stream without events can be
resumed too.
"""

from __future__ import annotations

import json
import re

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hub.engine.hub import Hub
from hub.engine.view import View
from hub.errors import BrokerUnavailable
from hub.fanout.wire import Reason
from hub.job.frame import Frame
from hub.settings import Settings
from hub.transports.answers import text
from hub.transports.door import Headers, lines
from hub.transports.fast import SseWire
from hub.transports.handoff import Detached, Handoff
from hub.transports.headers import PRIVATE
from hub.transports.heartbeat import Heartbeat
from hub.transports.hello import hello, retry_ms
from hub.transports.portable import AsgiWire, Message, Messages

HEADERS = {
    **PRIVATE,
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-store, no-transform",
    "X-Accel-Buffering": "no",  # otherwise nginx buffers events
}

_KEEP_ALIVE = (b"connection", b"keep-alive")

_RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]

_ANSWER = lines([*_RAW_HEADERS, _KEEP_ALIVE, (b"transfer-encoding", b"chunked")]) + b"\r\n"
"""The headers of a stream that needs no ASGI, and the end of the head."""

# The three line ends of the format. Each of them in a body ends the `data:` line, so the body needs another
# one.
_LINE_END = re.compile(r"\r\n|\r|\n")

# Clients that split with `str.splitlines` end a line at these too. JSON can escape them.
_ODD_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}

HEARTBEAT = Frame.control("heartbeat", {})


def encode(frame: Frame) -> bytes:
    """One frame as the bytes of an event stream."""
    head = f"id: {frame.id}\n" if frame.id is not None else ""
    if frame.name is not None:
        head += f"event: {frame.name}\n"
    body = frame.body
    if not body.isascii() and frame.event.is_object:
        body = body.translate(_ODD_ENDS)
    if "\n" in body or "\r" in body:
        body = _LINE_END.sub("\ndata: ", body)
    return f"{head}data: {body}\n\n".encode()


class AsgiSse:
    """`Format`: ASGI messages, for the portable wire."""

    transport = "sse"

    def encode(self, frame: Frame) -> bytes:
        """See `encode`."""
        return encode(frame)

    def join(self, parts: list[bytes]) -> Messages:
        """Make one ASGI message of all parts."""
        return [_body(b"".join(parts))]


class RawSse:
    """`Format`: chunks of a chunked HTTP/1.1 body (RFC 9112, 7.1), for the fast wire."""

    transport = "sse"

    def encode(self, frame: Frame) -> bytes:
        """See `encode`."""
        return encode(frame)

    def join(self, parts: list[bytes]) -> bytes:
        """Make one chunk of all parts."""
        return _chunk(b"".join(parts))


ASGI_SSE = AsgiSse()
RAW_SSE = RawSse()


class SseTransport:
    """The SSE transport of one hub: its heartbeat, and what its streams share."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.settings = hub.settings
        self.blocked = hub.blocked
        self.heartbeat = Heartbeat("sse", self._beat, heartbeat=self.settings.heartbeat)

    def retry_ms(self) -> int:
        """See `hello.retry_ms`."""
        return retry_ms(self.settings)

    def last_words(self, reason: Reason) -> bytes:
        """The bytes that end a stream: a `reconnect` frame, unless the job has ended or is not found."""
        match reason:
            case Reason.ENDED | Reason.NOT_FOUND:  # after NOT_FOUND the browser reconnects and gets a 404
                return b""
            case (
                Reason.EXPIRED | Reason.REVOKED
            ):  # its page may have newer credentials; else the answer is 404
                return reconnect(0, reason)
            case Reason.AGED:  # streams age at different times, so reconnecting soon makes no burst
                return reconnect(self.retry_ms() // 10, reason)
            case _:
                return reconnect(self.retry_ms(), reason)

    def closing(self, reason: Reason) -> bytes:
        """The last bytes of a detached socket: the last words, and the end of the chunked body."""
        return _chunk(self.last_words(reason)) + b"0\r\n\r\n"

    def head(self, view: View, prologue: str | None = None) -> bytes:
        """The first bytes. A job that is over, and the older stream, begin with data: `retry` is a part of
        it. `prologue`: see `EventStream`.
        """
        retry = self.retry_ms()
        if prologue is not None:
            head = f"retry: {retry}\nid: {view.seen}\ndata: {prologue}\n\n"
        elif view.log.closed:
            head = f"retry: {retry}\n"
        else:
            place = "" if view.preamble else f"id: {view.seen}\n"
            fields = text(hello(self.settings, retry, view)).decode()
            head = f"retry: {retry}\n{place}event: hello\ndata: {fields}\n\n"
        return head.encode() + b"".join(encode(frame) for frame in view.preamble)

    def begin(self, detached: Detached, view: View, headers: Headers) -> SseWire:
        """Begin a stream on a socket on which nothing was sent. `headers`: the server's."""
        wire = SseWire(detached, view, RAW_SSE, self)
        wire.start(b"HTTP/1.1 200 OK\r\n" + lines(headers) + _ANSWER + _chunk(self.head(view)))
        return wire

    async def _beat(self, now: float) -> None:
        self.blocked.abort(now)
        for audience in self.hub.feeds.pace.silent(now, ASGI_SSE, RAW_SSE):
            await audience.beat(audience.format.join([HEARTBEAT.encoded(audience.format)]), now)


class EventStream(Response):
    """The response that is an event stream. FastAPI makes the other answers (404, 204) of the endpoint.

    `prologue` is the JSON text of a first event that is not in the log (the older status stream has one).
    """

    def __init__(self, transport: SseTransport, view: View, *, prologue: str | None = None) -> None:
        # Not `super().__init__`: it would encode the same headers for each stream, and add a content length.
        self.status_code = 200
        self.background = None
        self.body = b""
        self.raw_headers = list(_RAW_HEADERS)
        self._transport = transport
        self._view = view
        self._prologue = prologue

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the socket over and return, or stream until the job ends, the client leaves or the hub drains.

        Cancel-safe: a view whose socket was not handed over is closed in any case.
        """
        handed = False
        try:
            handed = await self._stream(scope, receive, send)
        finally:
            if not handed:
                self._view.close()

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> bool:
        view, transport = self._view, self._transport
        handoff = Handoff.of(scope)
        whose = view.job_id, view.user
        wire = AsgiWire(send, transport.blocked, last_words=self._last_words, handoff=handoff, whose=whose)
        last = transport.head(view, self._prologue)
        try:
            if _stays(scope):
                self.raw_headers.append(_KEEP_ALIVE)
            start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            await wire.send_now([start, _body(last)])
            while payload := await transport.hub.read_payload(view, ASGI_SSE):
                last = payload[-1]["body"]
                await wire.send_now(payload)
        except BrokerUnavailable:
            wire.finish(Reason.GAP)
        except OSError:
            return False
        else:
            if handoff is not None and (detached := handoff.detach(last)) is not None:
                SseWire(detached, view, RAW_SSE, transport).start()
                return True
            wire.catch_up = view.seat(wire, ASGI_SSE).catch_up
        await wire.run(_until_disconnect(receive))
        view.why = wire.why
        return False

    def _last_words(self, reason: Reason) -> Messages:
        return [
            {"type": "http.response.body", "body": self._transport.last_words(reason), "more_body": False}
        ]


def reconnect(after_ms: int, reason: Reason) -> bytes:
    """The `reconnect` frame: the browser reconnects after `after_ms` milliseconds, with its cursor."""
    data = json.dumps({"after_ms": after_ms, "reason": reason.words})
    return f"retry: {after_ms}\nevent: reconnect\ndata: {data}\n\n".encode()


def overloaded(settings: Settings, after: float = 0.0) -> Response:
    """The answer of an overloaded hub, to come back after `after` seconds at the earliest. Its status is 200,
    because an EventSource gives up on any other."""
    return Response(reconnect(int(after * 1000) + retry_ms(settings), Reason.OVERLOADED), headers=HEADERS)


def _stays(scope: Scope) -> bool:
    """Returns True unless the connection ends with this answer: HTTP/1.0, or a client that says so."""
    if scope["http_version"] != "1.1":
        return False
    return not any(name == b"connection" and b"close" in value.lower() for name, value in scope["headers"])


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""  # an empty chunk would end the body


def _body(data: bytes) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": True}


async def _until_disconnect(receive: Receive) -> Reason:
    while (await receive())["type"] != "http.disconnect":
        pass
    return Reason.LEFT
