"""Detaches an HTTP request's socket from uvicorn, so that the push engine writes to it and the task ends.

uvicorn itself swaps protocols in this way to upgrade to WebSocket. The protocol class here, and the one in
uvicorn_websocket.py, only add one entry to `scope["extensions"]`. The start of the response, its headers and
its first bytes go through ASGI before the hand-over, so middleware sees them. The hand-over is refused unless
each of its conditions is met; then the portable wire (portable.py) serves the same bytes. What this module
relies on inside uvicorn is held by tests/live/test_handoff.py.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, cast

from httptools import HttpParserUpgrade
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from hub.transports.epoll import moved
from hub.transports.handoff import Detached, Handoff, is_plain
from hub.transports.uvicorn_limits import LimitedHttpProtocol
from hub.transports.uvicorn_websocket import HandoffWebSocketProtocol

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent


class _HttpHandoff:
    """The `Handoff` of one HTTP request.

    It wraps uvicorn's `send` to see each body object, which shows whether a middleware replaces or buffers
    bodies.
    """

    __slots__ = ("_cycle", "_is_unchunked", "_last", "_protocol", "_send")

    def __init__(self, protocol: HandoffHttpProtocol, cycle: RequestResponseCycle) -> None:
        self._protocol: HandoffHttpProtocol | None = protocol
        self._cycle: RequestResponseCycle | None = cycle
        self._is_unchunked = False
        self._send = cycle.send
        self._last: bytes | None = None
        cast(Any, cycle).send = self.send

    async def send(self, message: ASGISendEvent) -> None:
        """As uvicorn's; also remembers the body."""
        if self._cycle is not None and self._cycle.scope["http_version"] == "1.0":
            self._send_unchunked(self._cycle, message)
        self._last = None  # it may be a megabyte, and the client may not take the next one
        await self._send(message)
        if message["type"] == "http.response.body":
            self._last = message.get("body")

    @property
    def unsent(self) -> int:
        return 0 if self._protocol is None else self._protocol.transport.get_write_buffer_size()

    def _send_unchunked(self, cycle: Any, message: ASGISendEvent) -> None:
        """Make uvicorn send a body without a length as it is, up to the close:
        HTTP/1.0 has no chunks (RFC 9112, 6.1).
        """
        if message["type"] == "http.response.start":
            self._is_unchunked = not any(name.lower() == b"content-length" for name, _ in message["headers"])
            cycle.chunked_encoding = False if self._is_unchunked else None
        elif message["type"] == "http.response.body" and self._is_unchunked:
            # uvicorn would complain of a body that is longer, or shorter, than its length.
            cycle.expected_content_length = len(message.get("body", b"")) + message.get("more_body", False)

    def cut(self) -> None:
        if self._protocol is not None:
            self._protocol.transport.abort()

    def detach(self, last: bytes | None, /) -> Detached | None:
        protocol, cycle = self._protocol, self._cycle
        if protocol is None or cycle is None or self._last is not last or not _is_plain_stream(cycle):
            return None  # with another `last`, a middleware has rewritten the body (compression)
        detached = protocol.detach(cycle)
        if detached is not None:
            self.release()
        return detached

    @property
    def is_open(self) -> bool:
        """Returns True while the request is being answered."""
        return self._cycle is not None and not self._cycle.response_complete

    def lose(self) -> None:
        """Tell the request that its client is gone; uvicorn tells only the last pipelined request."""
        if self._cycle is not None:
            self._cycle.disconnected = True
            self._cycle.message_event.set()
        self.release()

    def release(self) -> None:
        """Break the reference cycle of protocol, uvicorn's cycle, scope and this: all are freed at once."""
        if self._cycle is not None:
            del self._cycle.send
        self._protocol = self._cycle = None
        self._send = _send_nothing


def _is_plain_stream(cycle: RequestResponseCycle) -> bool:
    """Returns True if the response of `cycle` is an unfinished chunked body, which chunks can continue."""
    return (
        cycle.response_started
        and not cycle.response_complete
        and not cycle.disconnected
        and cycle.chunked_encoding is True  # False for HTTP/1.0, HEAD, or a response with a length
        and cycle.scope["http_version"] == "1.1"
        and cycle.scope["method"] == "GET"
    )


class HandoffHttpProtocol(LimitedHttpProtocol):
    """uvicorn's HTTP protocol with limits, and with a `Handoff` in each request's scope."""

    _handoffs: tuple[_HttpHandoff, ...] = ()  # of the requests that are not answered yet

    def detach(self, cycle: Any) -> Detached | None:
        """Give up the socket, which streams the response of uvicorn's `cycle`; None if that is not possible
        now.
        """
        possible = (
            asyncio.current_task() in self.tasks  # False in a middleware's own task (BaseHTTPMiddleware)
            and not self.pipeline
            and not self._held  # a request behind the stream: the portable wire leaves it unread
            and not self.flow.write_paused
            and is_plain(self.transport)
        )
        if not possible:
            return None
        cycle.response_complete = True  # so that uvicorn does not complain when the task ends
        cycle.message_event.set()
        self.connections.discard(self)
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        self.parser = self.cycle = None
        self._forget()
        return Detached(moved(self.transport), self.connections)

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn's, and frees what the connection held."""
        super().connection_lost(exc)
        self.cycle = None  # its `on_response` holds the protocol
        for handoff in self._handoffs:
            handoff.lose()
        self._handoffs = ()

    def _begin(self) -> None:
        """As uvicorn's, which makes cycle and task here; adds the `Handoff` before the task runs."""
        before = self.cycle
        super()._begin()
        if self.cycle is not before:  # the same cycle means an upgrade to WebSocket
            handoff = _HttpHandoff(self, self.cycle)
            self._handoffs = (*(one for one in self._handoffs if one.is_open), handoff)
            cast(Any, self.scope)["extensions"] = {Handoff.NAME: handoff}

    def handle_websocket_upgrade(self) -> None:
        """As uvicorn's, which gives the transport to the WebSocket protocol.

        uvicorn drops the bytes that the client sent right after the handshake; this passes them on.
        """
        upgrade = sys.exception()  # uvicorn calls this method while it handles the parser's exception
        assert isinstance(upgrade, HttpParserUpgrade), "uvicorn calls this only for that exception"
        self._become_websocket(self._read[upgrade.args[0] :])

    def _become_websocket(self, early: bytes) -> None:
        self._forget()
        super().handle_websocket_upgrade()
        if early:
            protocol = cast(HandoffWebSocketProtocol, self.transport.get_protocol())
            protocol.data_received(early)
        self.parser = None  # breaks the reference cycle of parser and protocol


async def _send_nothing(message: ASGISendEvent) -> None:
    """Drop a message that a middleware sends after the socket is detached or lost."""
