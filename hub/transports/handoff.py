"""Takes the socket out of uvicorn's hands, so that the push engine writes to it and the ASGI task can end.

uvicorn itself swaps protocols this way to upgrade to WebSocket. Our protocol classes only add one entry to
`scope["extensions"]`; response start, headers and first bytes have gone through plain ASGI by then, so middleware has
seen them. Feature-detected, never assumed: whatever is not exactly the plain case is refused, and the portable wire
(asgi.py) serves with the same bytes. What is relied upon inside uvicorn is pinned down by tests/unit/test_handoff.py.
"""

from __future__ import annotations

import asyncio
from asyncio import TimerHandle
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from hub.transports.commands import spend
from hub.transports.socket import Handoff, Taken
from hub.wire import Reason

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent
    from websockets.frames import Frame
    from websockets.http11 import Request


MAX_HEAD = 16 * 1024
"""Bytes of a request's line and headers: an ALB's own limit, twice the largest token."""

HEAD_TIMEOUT = 10.0
"""Seconds until a head must be there, from the connection or from its first byte; a browser takes one round trip."""

_PIECE = 2048
"""Bytes that a WebSocket's parser is given at once: 340 of the shortest frames, while 200 are allowed at once."""

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class _HttpHandoff:
    """One HTTP request's way out. Also sees each body go by, to know that nothing between us and uvicorn holds it."""

    __slots__ = ("_cycle", "_last", "_protocol", "_send")

    def __init__(self, protocol: HandoffHttpProtocol, cycle: RequestResponseCycle) -> None:
        self._protocol: HandoffHttpProtocol | None = protocol
        self._cycle: RequestResponseCycle | None = cycle
        self._send = cycle.send
        self._last: bytes | None = None
        cycle.send = self.send  # type: ignore[method-assign]

    async def send(self, message: ASGISendEvent) -> None:
        """As uvicorn's own."""
        await self._send(message)
        if message["type"] == "http.response.body":
            self._last = message.get("body")

    def cut(self) -> None:
        if self._protocol is not None:
            self._protocol.transport.abort()

    def take(self, last: bytes | None) -> Taken | None:
        protocol, cycle = self._protocol, self._cycle
        if protocol is None or cycle is None:
            return None
        plain = (
            asyncio.current_task() in protocol.tasks  # else a middleware stands between (BaseHTTPMiddleware)
            and self._last is last  # else one has rewritten the body (compression)
            and cycle.response_started
            and not cycle.response_complete
            and not cycle.disconnected
            and cycle.chunked_encoding is True  # else HTTP/1.0, HEAD, or a length
            and cycle.scope["http_version"] == "1.1"
            and cycle.scope["method"] == "GET"
            and not protocol.pipeline
            and not protocol.flow.write_paused
            and _is_plain(protocol.transport)
        )
        if not plain:
            return None
        taken = Taken(protocol.transport, protocol.connections)
        cycle.response_complete = True  # so that uvicorn does not complain when the task ends
        cycle.message_event.set()
        protocol.connections.discard(protocol)
        protocol._unset_keepalive_if_required()  # noqa: SLF001  # ours: we subclass it
        protocol.flow.resume_reading()
        protocol.parser = None  # type: ignore[assignment]
        protocol.cycle = None  # type: ignore[assignment]
        self.let_go()
        return taken

    def let_go(self) -> None:
        """Protocol, cycle, scope and this hold each other; apart they are freed at once and not by the garbage collector."""
        if self._cycle is not None:
            del self._cycle.send
        self._protocol = self._cycle = None
        self._send = _say_nothing


class HandoffHttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with the way out in each request's scope, and bounds on a request's head.

    httptools has none: it took 91 MB of headers, and who sends half a head may stay for ever.
    """

    _head: TimerHandle | None = None  # runs while a head is expected
    _head_bytes = 0
    _head_refused = False
    _read = b""  # what is being parsed
    _way_out: _HttpHandoff | None = None  # of the latest request

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first head is expected at once."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """No head comes any more."""
        self._have_head()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn keeps it, and all this with it, after a reset
        self.cycle = None  # type: ignore[assignment]  # its `on_response` holds this
        if self._way_out is not None:
            self._way_out.let_go()

    def data_received(self, data: bytes) -> None:
        """As uvicorn's, while the head stays within `MAX_HEAD`."""
        self._read = data
        super().data_received(data)
        self._read = b""
        if self._head is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD and not self.transport.is_closing():
                self._head_refused = True
                self.send_400_response("")

    def on_message_begin(self) -> None:
        """The next head on a connection that is kept alive."""
        super().on_message_begin()
        if self._head is None:
            self._expect_head()

    def send_400_response(self, msg: str) -> None:
        """As uvicorn's, or 431 for a head that is too large."""
        if not self._head_refused:
            super().send_400_response(msg)
            return
        self.transport.write(_TOO_LARGE)
        self.transport.close()

    def _expect_head(self) -> None:
        self._head_bytes = 0
        self._head = self.loop.call_later(HEAD_TIMEOUT, self.transport.close)

    def _have_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def on_headers_complete(self) -> None:
        """uvicorn makes the cycle and its task here; the task first runs after us."""
        self._have_head()
        if sum(len(name) + len(value) for name, value in self.headers) + len(self.url) > MAX_HEAD:
            self._head_refused = True
            raise ValueError("head too large")  # the parser stops, uvicorn calls `send_400_response`
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:  # else an upgrade to WebSocket
            self._way_out = _HttpHandoff(self, self.cycle)
            cast(Any, self.scope)["extensions"] = {Handoff.NAME: self._way_out}

    def handle_websocket_upgrade(self) -> None:
        """uvicorn gives the transport to another protocol here, but not what the client has said already.

        This one and its parser hold each other, as above.
        """
        super().handle_websocket_upgrade()
        _, _, early = self._read.partition(b"\r\n\r\n")
        if early:
            protocol = cast(HandoffWebSocketProtocol, self.transport.get_protocol())
            protocol.data_received(early)
        self.parser = None  # type: ignore[assignment]


class _WebSocketHandoff:
    """One WebSocket's way out."""

    __slots__ = ("_protocol",)

    def __init__(self, protocol: HandoffWebSocketProtocol) -> None:
        self._protocol: HandoffWebSocketProtocol | None = protocol

    def cut(self) -> None:
        if self._protocol is not None:
            self._protocol.transport.abort()

    def take(self, last: bytes | None) -> Taken | None:  # noqa: ARG002  # SSE needs it
        protocol = self._protocol
        if protocol is None:
            return None
        plain = (
            protocol.handshake_complete
            and not protocol.close_sent
            and not protocol.disconnected
            and protocol.queue.empty()  # else the client has spoken already
            and not protocol.frames
            and not protocol.conn.reader.buffer
            and not protocol.conn.extensions  # else frames may be compressed
            and protocol.writable.is_set()
            and _is_plain(protocol.transport)
        )
        if not plain:
            return None
        taken = Taken(protocol.transport, protocol.connections)
        protocol.stop_keepalive()
        protocol.connections.discard(protocol)
        protocol.disconnected = True
        protocol.transport = _Gone()
        protocol.let_go()
        protocol.conn = None  # type: ignore[assignment]
        return taken

    def let_go(self) -> None:
        """The protocol's scope holds this, as above."""
        self._protocol = None


class HandoffWebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, with the way out in the scope, and bounds on what a client may send."""

    _due = 0.0  # when its budget of frames is full again
    _is_deaf = False  # it has said too much, and is not read any more
    _way_out: _WebSocketHandoff | None = None

    def handle_connect(self, event: Request) -> None:
        """uvicorn makes scope and task here; the task first runs after us."""
        super().handle_connect(event)
        if hasattr(self, "scope"):  # else the handshake was refused
            self._way_out = _WebSocketHandoff(self)
            cast(Any, self.scope)["extensions"][Handoff.NAME] = self._way_out

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn's."""
        super().connection_lost(exc)
        self.let_go()

    def let_go(self) -> None:
        """The parser's generator holds `conn`, which holds it; and see above."""
        self.conn.parser.close()
        if self._way_out is not None:
            self._way_out.let_go()

    def data_received(self, data: bytes) -> None:
        """As uvicorn's, piece by piece: one read can bring 40,000 frames, half a second of parsing.

        uvicorn says nothing, for ever, to a handshake that the `websockets` library cannot read.
        """
        for start in range(0, len(data), _PIECE):
            if self._is_deaf or self.transport.is_closing():
                return
            super().data_received(data[start : start + _PIECE])
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self.handshake_initiated = True
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def handle_ping(self) -> None:
        """As uvicorn's, within the budget that a client has for frames."""
        if self._may_speak():
            super().handle_ping()

    def handle_pong(self, event: Frame) -> None:
        """The same."""
        if self._may_speak():
            super().handle_pong(event)

    def handle_cont(self, event: Frame) -> None:
        """The same: pieces may be empty, so the bound on a message does not bound their number."""
        if self._may_speak():
            super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        """The same; but uvicorn logs a traceback for each text that is not UTF-8, which any client can send."""
        if not self._may_speak():
            return
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.conn.fail(Reason.NOT_TEXT.close_code, Reason.NOT_TEXT.words)
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()

    def _may_speak(self) -> bool:
        due = spend(self._due, self.loop.time())
        if due is not None:
            self._due = due
        elif self.close_sent:
            self.transport.close()
        else:
            self._stop_listening()
        return due is not None

    def _stop_listening(self) -> None:
        # Not closed at once: what the client has sent meanwhile would make that a reset, and it would never read why.
        code, reason = Reason.FLOOD.close_code, Reason.FLOOD.words
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = self._is_deaf = True
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.close)
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.read_paused = False  # so that nobody resumes it
        self.transport.pause_reading()

    def pause_writing(self) -> None:
        """As uvicorn's; and who does not read us is not read either, or its unread Pongs would pile up here."""
        super().pause_writing()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """As uvicorn's."""
        super().resume_writing()
        if not self.read_paused and not self._is_deaf:
            self.transport.resume_reading()

    async def send(self, message: ASGISendEvent) -> None:
        """As uvicorn's; but it would log an error for who leaves during the handshake, and for each one that is refused."""
        if not self.handshake_complete and self.transport.is_closing():
            self.handshake_complete = True
            self.disconnected = True
        refuses = message["type"].startswith("websocket.http.response.")
        if refuses and self.disconnected:
            return
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True


async def _say_nothing(message: ASGISendEvent) -> None:
    """What a middleware sends after the socket is gone: nothing."""


class _Gone(asyncio.Transport):
    """Stands where the transport was: uvicorn closes it when the task ends."""

    def close(self) -> None:
        """Nothing."""

    def is_closing(self) -> bool:
        """It is."""
        return True


def _is_plain(transport: asyncio.Transport) -> bool:
    return not transport.is_closing() and transport.get_extra_info("ssl_object") is None
