"""Takes an HTTP request's socket out of uvicorn's hands, so that the push engine writes to it and the ASGI task can end.

uvicorn itself swaps protocols this way to upgrade to WebSocket. Our protocol classes (the other is uvicorn_websocket.py) only add
one entry to `scope["extensions"]`; response start, headers and first bytes have gone through plain ASGI by then, so middleware has
seen them. Feature-detected, never assumed: whatever is not exactly the plain case is refused, and the portable wire
(portable.py) serves with the same bytes. What is relied upon inside uvicorn is pinned down by tests/live/test_handoff.py.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import TimerHandle
from typing import TYPE_CHECKING, Any, cast

from httptools import HttpParserUpgrade
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from hub.transports.handoff import Handoff, Taken, is_plain
from hub.transports.uvicorn_websocket import TOO_LARGE, HandoffWebSocketProtocol

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent


MAX_HEAD = 16 * 1024
"""Bytes of a request's line and headers: an ALB's own limit, twice the largest token."""

HEAD_TIMEOUT = 10.0
"""Seconds until a head must be there, from the connection or from its first byte; a browser takes one round trip."""


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
            and is_plain(protocol.transport)
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

    @property
    def is_open(self) -> bool:
        """Whether its request is still being answered."""
        return self._cycle is not None and not self._cycle.response_complete

    def lose(self) -> None:
        """The client is gone. uvicorn tells only the latest of several requests on a connection."""
        if self._cycle is not None:
            self._cycle.disconnected = True
            self._cycle.message_event.set()
        self.let_go()

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
    _ways_out: tuple[_HttpHandoff, ...] = ()  # of the requests that are not answered yet

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
        for way_out in self._ways_out:
            way_out.lose()
        self._ways_out = ()

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
        self.transport.write(TOO_LARGE)
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
            way_out = _HttpHandoff(self, self.cycle)
            self._ways_out = (*(way for way in self._ways_out if way.is_open), way_out)
            cast(Any, self.scope)["extensions"] = {Handoff.NAME: way_out}

    def handle_websocket_upgrade(self) -> None:
        """uvicorn gives the transport to another protocol here, but not what the client has said already.

        This one and its parser hold each other, as above.
        """
        super().handle_websocket_upgrade()
        upgrade = sys.exception()  # uvicorn calls this where it caught the parser's
        assert isinstance(upgrade, HttpParserUpgrade), "that is how it knows"
        if early := self._read[upgrade.args[0] :]:
            protocol = cast(HandoffWebSocketProtocol, self.transport.get_protocol())
            protocol.data_received(early)
        self.parser = None  # type: ignore[assignment]


async def _say_nothing(message: ASGISendEvent) -> None:
    """What a middleware sends after the socket is gone: nothing."""
