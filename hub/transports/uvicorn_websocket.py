"""Takes a WebSocket out of uvicorn's hands, as uvicorn_http.py does with a request, and bounds what its client may say.

Dashboards stay with uvicorn, and so does everybody whose socket cannot be handed over: for them the bounds are here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from hub.fanout.wire import Reason
from hub.transports.commands import spend
from hub.transports.handoff import GONE, Handoff, Taken, is_plain

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent
    from websockets.frames import Frame
    from websockets.http11 import Request


TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
"""The answer to a head that is more than anybody needs."""

_PIECE = 2048
"""Bytes that a WebSocket's parser is given at once: 340 of the shortest frames, while 200 are allowed at once."""


class _WebSocketHandoff:
    """One WebSocket's way out."""

    __slots__ = ("_protocol",)

    def __init__(self, protocol: HandoffWebSocketProtocol) -> None:
        self._protocol: HandoffWebSocketProtocol | None = protocol

    def cut(self) -> None:
        if self._protocol is not None:
            self._protocol.transport.abort()

    def take(self, last: bytes | None) -> Taken | None:
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
            and is_plain(protocol.transport)
        )
        if not plain:
            return None
        taken = Taken(protocol.transport, protocol.connections)
        protocol.stop_keepalive()
        protocol.connections.discard(protocol)
        protocol.disconnected = True
        protocol.transport = GONE
        protocol.let_go()
        protocol.conn = None  # type: ignore[assignment]
        return taken

    def let_go(self) -> None:
        """The protocol's scope holds this: apart they are freed at once and not by the garbage collector."""
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
        """The parser's generator holds `conn`, which holds it; so do scope and way out."""
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
            self.transport.write(TOO_LARGE)
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
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.abort)
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
