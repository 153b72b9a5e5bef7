"""uvicorn's HTTP protocol with limits for strangers: the size of a head and a body, the time that each may
take, and one unanswered request per connection.

httptools has no limits: it accepted 91 MB of headers, and a client that sends half a head may stay for ever.
"""

from __future__ import annotations

import re
from asyncio import BaseTransport, TimerHandle, Transport
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hub.transports.uvicorn_websocket import TOO_LARGE

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
"""Connections without a viewer: more than come at once after a deploy. At more the one that is idle the
longest goes; `serve` lowers it to a quarter of the files.
"""

_BODY_TOO_LARGE = b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"

_HOST = re.compile(rb"[A-Za-z0-9._~%!$&'()*+,;=:\[\]-]*")
"""The characters of a host and a port (RFC 3986, 3.2.2)."""

MAX_HELD = MAX_HEAD
"""Bytes that may wait behind an unanswered request. With more the connection closes after the answer."""

_HEAD_END = b"\r\n\r\n"


class LimitedHttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with limits on what a client may send."""

    parser: Any  # set to None when no longer needed, which uvicorn's types do not allow
    cycle: Any  # the same
    _head_timer: TimerHandle | None = None  # runs while a head is expected
    _head_bytes = 0
    _body_timer: TimerHandle | None = None  # runs until the request's body is there
    _body_bytes = 0
    _drain_timer: TimerHandle | None = None  # runs while the client takes nothing
    _refusal = b""  # the answer to a request that is too large
    _read = b""  # the bytes that are being parsed
    _held = b""  # what came behind the request that is being answered
    _next = 0  # where in `_held` the next request begins

    def connection_made(self, transport: BaseTransport) -> None:
        """As uvicorn's; the first head is expected at once."""
        super().connection_made(cast(Transport, transport))
        self._expect_head()
        _WAITING[self] = None
        if len(_WAITING) > MOST_WAITING:
            _make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn's, and frees what the connection held."""
        self._forget()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # after a reset uvicorn keeps the timer, which holds the protocol

    def _forget(self) -> None:
        """The connection is gone, or somebody else's."""
        self._stop_timers()
        self._held = b""
        _WAITING.pop(self, None)

    def data_received(self, data: bytes) -> None:
        """As uvicorn's, but parses the next request when the one before is answered.

        One packet of 14,000 requests took the loop for four seconds.
        """
        self._parse(self._held[self._next :] + data if self._held else data, 0)

    def on_response_complete(self) -> None:
        """As uvicorn's; goes on with what came behind the request."""
        super().on_response_complete()
        if self._held:
            self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._held and not self.transport.is_closing():
            self._parse(self._held, self._next)

    def _parse(self, data: bytes, start: int) -> None:
        """Parse up to the end of a head at a time, and keep the rest while a request is unanswered."""
        self._held = b""
        while start < len(data) and not self.transport.is_closing():
            if self._is_answering:
                self._hold(data, start)
                return
            end = data.find(_HEAD_END, start)
            piece = data[start:] if end < 0 else data[start : end + len(_HEAD_END)]
            start += len(piece)
            self._parse_piece(piece)
            if self.transport.get_protocol() is not self:  # the request was an upgrade
                if start < len(data):
                    cast(Any, self.transport.get_protocol()).data_received(data[start:])
                return

    def _hold(self, data: bytes, start: int) -> None:
        self.flow.pause_reading()
        if len(data) - start > MAX_HELD:
            self.cycle.keep_alive = False
        else:
            self._held, self._next = data, start

    @property
    def _is_answering(self) -> bool:
        """Returns True if a request is complete and unanswered."""
        cycle = self.cycle
        return (
            cycle is not None and not cycle.response_complete and (not cycle.more_body or bool(self.pipeline))
        )

    def _parse_piece(self, data: bytes) -> None:
        self._read = data
        super().data_received(data)
        self._read = b""
        if self._head_timer is None and self.is_idle:
            # uvicorn's keep-alive timer ended with these bytes, which are no head yet: a line end, or the
            # rest of a body that nobody waited for.
            self._expect_head()
        elif self._head_timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD and not self.transport.is_closing():
                self._refusal = TOO_LARGE
                self.send_400_response("")

    @property
    def is_idle(self) -> bool:
        """Returns True if the client is to send the next head: nothing
        is unanswered, and it is still HTTP.
        """
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
        """As uvicorn's; answers 431 or 413 instead if the request is too
        large, and nothing within an answer.
        """
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
        """As uvicorn's, which makes cycle and task here; refuses what is too large or against the RFC."""
        self._head_timer = _cancelled(self._head_timer)
        self._check_head()
        if self.pipeline:  # a body ends without a mark, so the next head may have been parsed with it
            raise ValueError("pipelined requests")  # answered with 400
        self._begin()

    def _begin(self) -> None:
        """The head is complete, and nothing is wrong with it."""
        super().on_headers_complete()

    def _check_head(self) -> None:
        """Raises ValueError for a head or a body that is too large, and
        for what RFC 9112 does not allow (3.2).
        """
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


_WAITING: dict[LimitedHttpProtocol, None] = {}
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
