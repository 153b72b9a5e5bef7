"""Detaches an HTTP request's socket from uvicorn, so that the push engine writes to it and the task ends.

uvicorn itself swaps protocols in this way to upgrade to WebSocket. The protocol class here, and the one in
uvicorn_websocket.py, only add one entry to `scope["extensions"]`. The start of the response, its headers and
its first bytes go through ASGI before the hand-over, so middleware sees them. The hand-over is refused unless
each of its conditions is met; then the portable wire (portable.py) serves the same bytes. What this module
relies on inside uvicorn is held by tests/live/test_handoff.py.
"""

from __future__ import annotations

import asyncio
import re
import sys
from asyncio import TimerHandle
from typing import TYPE_CHECKING, Any, cast

from httptools import HttpParserUpgrade
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from hub.transports.handoff import Detached, Handoff, is_plain
from hub.transports.uvicorn_websocket import TOO_LARGE, HandoffWebSocketProtocol

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent


MAX_HEAD = 16 * 1024
"""Largest size in bytes of a request's URL and headers: the limit of an ALB, and twice the largest token."""

HEAD_TIMEOUT = 10.0
"""Seconds that a client has to send a head, counted from the connection, or for a later request from its
first byte. A browser needs one round trip."""


MAX_BODY = 64 * 1024
"""Largest body of a request in bytes; that of a new ticket has thirty."""

STALLED = 10.0
"""Seconds in which a client must take something of an answer that is too large for the buffers."""

MOST_WAITING = 5000
"""Connections without a viewer: more than come at once after a deploy. At more the one that is idle the longest goes;
`serve` lowers it to a quarter of the files."""

_BODY_TOO_LARGE = b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"

_HOST = re.compile(rb"[A-Za-z0-9._~%!$&'()*+,;=:\[\]-]*")
"""The characters of a host and a port (RFC 3986, 3.2.2)."""

MAX_PIPELINED = 8
"""Requests of a connection that may wait for the answer to another one. Browsers do not pipeline; a stranger
puts 14,000 requests into one packet."""


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
        await self._send(message)
        if message["type"] == "http.response.body":
            self._last = message.get("body")

    @property
    def unsent(self) -> int:
        return 0 if self._protocol is None else self._protocol.transport.get_write_buffer_size()

    def _send_unchunked(self, cycle: Any, message: ASGISendEvent) -> None:
        """Make uvicorn send a body without a length as it is, up to the close: HTTP/1.0 has no chunks (RFC 9112,
        6.1)."""
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


class HandoffHttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with a `Handoff` in each request's scope, and limits on a request's head.

    httptools has no limits: it accepted 91 MB of headers, and a client that sends half a head may stay for
    ever.
    """

    parser: Any  # set to None when no longer needed, which uvicorn's types do not allow
    cycle: Any  # the same
    _head_timer: TimerHandle | None = None  # runs while a head is expected
    _head_bytes = 0
    _body_timer: TimerHandle | None = None  # runs until the request's body is there
    _body_bytes = 0
    _drain_timer: TimerHandle | None = None  # runs while the client takes nothing
    _refusal = b""  # the answer to a request that is too large
    _read = b""  # the bytes that are being parsed
    _handoffs: tuple[_HttpHandoff, ...] = ()  # of the requests that are not answered yet

    def detach(self, cycle: RequestResponseCycle) -> Detached | None:
        """Give up the socket, which streams the response of `cycle`; None if that is not possible now."""
        possible = (
            asyncio.current_task() in self.tasks  # False in a middleware's own task (BaseHTTPMiddleware)
            and not self.pipeline
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
        self._stop_timers()
        _WAITING.pop(self, None)
        return Detached(self.transport, self.connections)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As uvicorn's; the first head is expected at once."""
        super().connection_made(cast(asyncio.Transport, transport))
        self._expect_head()
        _WAITING[self] = None
        if len(_WAITING) > MOST_WAITING:
            _make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn's, and frees what the connection held."""
        self._stop_timers()
        _WAITING.pop(self, None)
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # after a reset uvicorn keeps the timer, which holds the protocol
        self.cycle = None  # its `on_response` holds the protocol
        for handoff in self._handoffs:
            handoff.lose()
        self._handoffs = ()

    def data_received(self, data: bytes) -> None:
        """As uvicorn's, but refuses a head that is larger than `MAX_HEAD`."""
        self._read = data
        super().data_received(data)
        self._read = b""
        if self._head_timer is None and self.is_idle:
            # uvicorn's keep-alive timer ended with these bytes, which are no head yet: a line end, or the rest
            # of a body that nobody waited for.
            self._expect_head()
        elif self._head_timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD and not self.transport.is_closing():
                self._refusal = TOO_LARGE
                self.send_400_response("")

    @property
    def is_idle(self) -> bool:
        """Returns True if the client is to send the next head: nothing is unanswered, and it is still HTTP."""
        return (
            self.parser is not None
            and self.transport.get_protocol() is self
            and not self.transport.is_closing()
            and (self.cycle is None or self.cycle.response_complete)
        )

    def on_message_begin(self) -> None:
        """As uvicorn's; starts the timer for the next head on a connection that is kept alive."""
        super().on_message_begin()
        if self._head_timer is None:
            self._expect_head()

    def send_400_response(self, msg: str) -> None:
        """As uvicorn's; answers 431 or 413 instead if the request is too large, and nothing within an answer."""
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.abort()
        elif not self._refusal:
            super().send_400_response(msg)
        else:
            self.transport.write(self._refusal)
            self.transport.close()

    def pause_writing(self) -> None:
        """As uvicorn's; a client that takes nothing of a large answer is cut off."""
        super().pause_writing()
        if self._drain_timer is None:
            self._watch_drain(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """As uvicorn's."""
        super().resume_writing()
        self._drain_timer = _cancelled(self._drain_timer)

    def _watch_drain(self, unsent: int) -> None:
        self._drain_timer = self.loop.call_later(STALLED, self._look_at_drain, unsent)

    def _look_at_drain(self, before: int) -> None:
        now = self.transport.get_write_buffer_size()
        if now == before:
            self.transport.abort()
        else:
            self._watch_drain(now)

    def on_body(self, body: bytes) -> None:
        """As uvicorn's, up to `MAX_BODY`."""
        self._body_bytes += len(body)
        if self._body_bytes > MAX_BODY:
            self._refusal = _BODY_TOO_LARGE
            raise ValueError("body too large")  # stops the parser; uvicorn then calls `send_400_response`
        super().on_body(body)

    def on_message_complete(self) -> None:
        """As uvicorn's; the body is there."""
        self._body_timer = _cancelled(self._body_timer)
        super().on_message_complete()

    def _expect_head(self) -> None:
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT, self.transport.close)

    def _stop_timers(self) -> None:
        self._head_timer = _cancelled(self._head_timer)
        self._body_timer = _cancelled(self._body_timer)
        self._drain_timer = _cancelled(self._drain_timer)

    def on_headers_complete(self) -> None:
        """As uvicorn's, which makes cycle and task here; adds the `Handoff` before the task runs."""
        self._head_timer = _cancelled(self._head_timer)
        self._check_head()
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many pipelined requests")  # answered with 400
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:  # the same cycle means an upgrade to WebSocket
            handoff = _HttpHandoff(self, self.cycle)
            self._handoffs = (*(one for one in self._handoffs if one.is_open), handoff)
            cast(Any, self.scope)["extensions"] = {Handoff.NAME: handoff}

    def _check_head(self) -> None:
        """Raises ValueError for a head or a body that is too large, and for what RFC 9112 does not allow (3.2)."""
        size, hosts, has_body = len(self.url), 0, False
        for name, value in self.headers:
            size += len(name) + len(value)
            if name == b"host":
                hosts += 1
                if not _HOST.fullmatch(value):
                    raise ValueError("expected a host")
            elif name == b"content-length":
                has_body |= value != b"0"
                if len(value) > 10 or (value.isdigit() and int(value) > MAX_BODY):
                    self._refusal = _BODY_TOO_LARGE
                    raise ValueError("body too large")
            elif name == b"transfer-encoding":
                has_body = True
        if size > MAX_HEAD:
            self._refusal = TOO_LARGE
            raise ValueError("head too large")  # stops the parser; uvicorn then calls `send_400_response`
        version = self.parser.get_http_version()
        if hosts > 1 or (version != "1.0" if hosts == 0 else version not in ("1.0", "1.1")):
            raise ValueError("expected HTTP/1.1 with one Host")
        self._body_bytes = 0
        if has_body:
            self._body_timer = _cancelled(self._body_timer)
            self._body_timer = self.loop.call_later(HEAD_TIMEOUT, self.transport.close)

    def handle_websocket_upgrade(self) -> None:
        """As uvicorn's, which gives the transport to the WebSocket protocol.

        uvicorn drops the bytes that the client sent right after the handshake; this passes them on.
        """
        self._stop_timers()
        _WAITING.pop(self, None)
        super().handle_websocket_upgrade()
        upgrade = sys.exception()  # uvicorn calls this method while it handles the parser's exception
        assert isinstance(upgrade, HttpParserUpgrade), "uvicorn calls this only for that exception"
        if early := self._read[upgrade.args[0] :]:
            protocol = cast(HandoffWebSocketProtocol, self.transport.get_protocol())
            protocol.data_received(early)
        self.parser = None  # breaks the reference cycle of parser and protocol


_WAITING: dict[HandoffHttpProtocol, None] = {}
"""Connections without a viewer, in the order in which they came."""


def _make_room() -> None:
    """Close the oldest connection that is idle."""
    for protocol in _WAITING:
        if protocol.is_idle:
            protocol.transport.abort()
            del _WAITING[protocol]
            return


def _cancelled(timer: TimerHandle | None) -> TimerHandle | None:
    """Returns None in place of the timer."""
    if timer is not None:
        timer.cancel()
    return None


async def _send_nothing(message: ASGISendEvent) -> None:
    """Drop a message that a middleware sends after the socket is detached or lost."""
