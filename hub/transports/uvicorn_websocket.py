"""Detaches a WebSocket from uvicorn, as uvicorn_http.py does a request, and limits what clients may send.

The limits here are for sockets that stay with uvicorn: dashboards, and those that cannot be handed over.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from hub.fanout.wire import Reason
from hub.transports.commands import MAX_BYTES, spend
from hub.transports.door import VISIT, Visit
from hub.transports.epoll import moved
from hub.transports.handoff import GONE, Detached, Handoff, is_plain

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent
    from websockets.frames import Frame
    from websockets.http11 import Request


TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
"""The answer to a request whose head is too large."""

_PIECE = 2048
"""Bytes that the parser gets at once: 340 of the shortest frames, while a client may send 200 at once."""


class _WebSocketHandoff:
    """The `Handoff` of one WebSocket."""

    __slots__ = ("_protocol",)

    def __init__(self, protocol: HandoffWebSocketProtocol) -> None:
        self._protocol: HandoffWebSocketProtocol | None = protocol

    @property
    def unsent(self) -> int:
        return 0 if self._protocol is None else self._protocol.transport.get_write_buffer_size()

    def cut(self) -> None:
        if self._protocol is not None:
            self._protocol.transport.abort()

    def detach(self, _last: bytes | None, /) -> Detached | None:
        return None if self._protocol is None else self._protocol.detach()

    def release(self) -> None:
        """Break the reference cycle with the protocol, whose scope holds this object."""
        self._protocol = None


class HandoffWebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, with a `Handoff` in the scope, and limits on what a client may send."""

    conn: Any  # set to None by `detach`, which uvicorn's types do not allow
    _due = 0.0  # loop time at which the client's budget of frames is full again
    _is_deaf = False  # True after a flood: nothing more is read
    _early = b""  # what came before the handshake was answered
    _handoff: _WebSocketHandoff | None = None

    def __init__(self, *args: Any, visit: Visit | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._visit = visit  # that was at the door first
        self.conn.logger, self.conn.debug = logging.getLogger("hub.websockets"), False

    def send_keepalive_ping(self) -> None:
        """As uvicorn's; later, while the client is slow: the Ping would wait behind a large event."""
        if self.writable.is_set():
            super().send_keepalive_ping()
        else:
            self.schedule_ping()

    def keepalive_timeout(self) -> None:
        """As uvicorn's, but not while bytes wait for the client, and its Pong behind them: `Blocked` looks at
        those."""
        if self.writable.is_set():
            super().keepalive_timeout()
        elif self.ping_timeout is not None:
            self.pong_timer = self.loop.call_later(self.ping_timeout, self.keepalive_timeout)

    def detach(self) -> Detached | None:
        """Give up the socket; None if that is not possible now."""
        possible = (
            self.handshake_complete
            and not self.close_sent
            and not self.disconnected
            and self.queue.empty()  # else the client has already sent a message
            and not self.frames
            and not self.conn.reader.buffer
            and not self.conn.extensions  # else frames may be compressed
            and self.writable.is_set()
            and is_plain(self.transport)
        )
        if not possible:
            return None
        detached = Detached(moved(self.transport), self.connections)
        self.stop_keepalive()
        self.connections.discard(self)
        self.disconnected = True
        self.transport = GONE
        self.release()
        self.conn = None
        return detached

    def handle_connect(self, event: Request) -> None:
        """As uvicorn's, which makes scope and task here; adds the `Handoff` before the task runs."""
        super().handle_connect(event)
        if hasattr(self, "scope"):  # there is none if the handshake was refused
            self._handoff = _WebSocketHandoff(self)
            cast(Any, self.scope)["extensions"][Handoff.NAME] = self._handoff
            if self._visit is not None:
                cast(Any, self.scope)[VISIT] = self._visit

    async def run_asgi(self) -> None:
        """As uvicorn's; gives back what was found at the door, if the application did not take it."""
        try:
            await super().run_asgi()
        finally:
            if self._visit is not None:
                self._visit.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn's, and frees what the connection held."""
        super().connection_lost(exc)
        if self._visit is not None and not hasattr(self, "scope"):
            self._visit.close()  # the handshake was refused, so the application never got it
        self.release()

    def release(self) -> None:
        """Break two reference cycles: `conn` with its parser's generator, the scope with the `Handoff`."""
        self.conn.parser.close()
        if self._handoff is not None:
            self._handoff.release()

    def data_received(self, data: bytes) -> None:
        """As uvicorn's, but in pieces: one read may have 40,000 frames, which take half a second to parse.

        Also answers a handshake that the `websockets` library cannot parse; uvicorn would leave it without an
        answer.
        """
        if self.handshake_initiated and not self.handshake_complete:
            self._keep_early(data)
            return
        for start in range(0, len(data), _PIECE):
            if self._is_deaf or self.transport.is_closing():
                return
            super().data_received(data[start : start + _PIECE])
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self.handshake_initiated = True
            self.transport.write(TOO_LARGE)
            self.transport.close()

    def _keep_early(self, data: bytes) -> None:
        """Keep what came before the handshake is answered: an answer to it would stand before that one."""
        self._early += data
        if len(self._early) > MAX_BYTES:
            self.transport.abort()

    def handle_ping(self) -> None:
        """As uvicorn's, if the client's budget of frames allows it."""
        if self._within_budget():
            super().handle_ping()

    def handle_pong(self, event: Frame) -> None:
        """As uvicorn's, if the client's budget of frames allows it."""
        if self._within_budget():
            super().handle_pong(event)

    def handle_cont(self, event: Frame) -> None:
        """As uvicorn's, within the budget: fragments may be empty, so no size limit limits their number."""
        if self._within_budget():
            super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        """As uvicorn's, within the budget. Closes the socket for a text that is not UTF-8, without a
        traceback.

        uvicorn would log a traceback for each such text, and any client can send many.
        """
        if not self._within_budget():
            return
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.conn.fail(Reason.NOT_TEXT.close_code, Reason.NOT_TEXT.words)
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()

    def _within_budget(self) -> bool:
        due = spend(self._due, self.loop.time())
        if due is not None:
            self._due = due
        elif self.close_sent:
            self.transport.close()
        else:
            self._refuse_flood()
        return due is not None

    def _refuse_flood(self) -> None:
        # Do not close at once: unread bytes of the client would turn that into a reset, and the client would
        # not get the Close frame.
        code, reason = Reason.FLOOD.close_code, Reason.FLOOD.words
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = self._is_deaf = True
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.abort)
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.read_paused = False  # so that uvicorn does not resume reading
        self.transport.pause_reading()

    def pause_writing(self) -> None:
        """As uvicorn's; also stops reading, because answers to a client that does not read would pile up."""
        super().pause_writing()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """As uvicorn's; also reads again."""
        super().resume_writing()
        if not self.read_paused and not self._is_deaf:
            self.transport.resume_reading()

    async def send(self, message: ASGISendEvent) -> None:
        """As uvicorn's, without its error log for a client that leaves during the handshake or is refused.
        After the accept it reads what came early.
        """
        if not self.handshake_complete and self.transport.is_closing():
            self.handshake_complete = True
            self.disconnected = True
        refuses = message["type"].startswith("websocket.http.response.")
        if refuses and self.disconnected:
            return
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True
        elif message["type"] == "websocket.accept" and self._early:
            early, self._early = self._early, b""
            self.data_received(early)
