"""The viewers of a benchmark: raw sockets that count the events they receive.

Invariant: no Python code runs per event. A viewer counts the markers in a whole chunk with one call in C, so
that one core can count a million deliveries a second; only a few probes read timestamps. Nothing is parsed,
so a server that sends nonsense around the marker passes (contract tests check the format).
"""

from __future__ import annotations

import asyncio
import socket
import time
from typing import cast

from hub.bench.target import Target, Transport, masked

MARK = b'sent_at":'
"""Every event contains this once. It has only one `s`, so a marker cut by the end of a chunk is found by its
first letter. It shares no letter (modulo 64, by which CPython's search skips) with the filler, so the search
is fast.
"""

DIGITS = 16
"""Digits of the timestamp after the marker: microseconds since 1970, until the year 2286. Nanoseconds would
be rounded by a server that reads JSON numbers as doubles.
"""

FILLER = "x"

PROBES = 5
"""Viewers that read timestamps: enough for a p99.9 of some thousand events, too few to slow the client."""

AT_ONCE = 128
"""Connections being opened at a time: enough to keep the server busy, and few for its accept queue (4,096).
"""

PER_SOURCE = 20_000
"""Most connections from one local address: Linux has 28,000 ephemeral ports for each address."""

JOIN_TIMEOUT = 30.0
"""Seconds until a viewer must have its response; after that it counts as refused."""

_BUFFER = 256 * 1024
_CLOSE, _PING = b"\x88", b"\x89"


class Viewer(asyncio.BufferedProtocol):
    """One viewer. All share one receive buffer: a viewer has read it before the loop fills it again."""

    __slots__ = ("_crowd", "_cut", "_head", "answered", "index", "refusal", "seen", "transport")

    def __init__(self, crowd: Crowd, index: int) -> None:
        self.seen = 0  # events
        self.answered: asyncio.Future[None] = crowd.loop.create_future()
        self.refusal = ""
        self.transport: asyncio.Transport | None = None
        self._crowd = crowd
        self.index = index
        self._cut = 0  # bytes at the end of the last chunk that begin a marker
        self._head: bytes | None = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self.transport.write(self._crowd.target.request(self.index))

    def get_buffer(self, _sizehint: int) -> bytearray:
        """Returns the shared buffer."""
        return self._crowd.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Count a chunk, or read the response's head."""
        data = self._crowd.buffer
        if self._head is not None:
            self._answer(self._head + data[:nbytes])
            return
        if self._crowd.websocket:
            self._control(data, nbytes)
        self._take(data, nbytes)

    def connection_lost(self, exc: Exception | None) -> None:
        """The server or `Crowd.leave` closed the connection."""
        if not self.answered.done():
            self.refusal = self.refusal or f"closed before it answered ({exc})"
            self.answered.set_result(None)
        self._crowd.left(self)

    def _answer(self, head: bytes) -> None:
        first, end, rest = head.partition(b"\r\n\r\n")
        if not end:
            self._head = head
            return
        self._head = None
        self._judge(first)
        if self._crowd.websocket:
            self._control(bytearray(rest), len(rest))
        if not self.answered.done():
            self.answered.set_result(None)
        self._take(bytearray(rest), len(rest))

    def _judge(self, head: bytes) -> None:
        crowd = self._crowd
        first, *lines = head.decode("latin-1").lower().split("\r\n")
        # An event stream has no length. A response with one asks the viewer to come back later: the hub sends
        # that with status 200 too, because any other status would stop an EventSource for ever.
        finite = not crowd.websocket and any(line.startswith("content-length:") for line in lines)
        if first[9:12] != crowd.expected_status or finite:
            self.refusal = f"answered {first!r}"
        elif crowd.target.greeting and self.transport is not None:
            self.transport.write(crowd.target.greeting)

    def _take(self, data: bytearray, size: int) -> None:
        if self._cut:
            data = bytearray(MARK[: self._cut]) + data[:size]
            size += self._cut
        self.seen += data.count(MARK, 0, size)
        self._cut = _cut(data, size)

    def _control(self, data: bytearray, size: int) -> None:
        """Answer a Ping, end at a Close. ASCII text has neither first
        byte; a frame's length may look like one.
        """
        at = data.find(_PING, 0, size)
        if at >= 0 and at + 1 < size and data[at + 1] <= 125 and self.transport is not None:
            # A frame length of 137 looks like a Ping. It gets an unsolicited Pong, which RFC 6455 allows.
            self.transport.write(masked(0xA, bytes(data[at + 2 : at + 2 + data[at + 1]])))
        at = data.rfind(_CLOSE, max(0, size - 127), size)
        if at >= 0 and at + 1 < size and at + 2 + data[at + 1] == size and self.transport is not None:
            if not self.answered.done():
                code = int.from_bytes(data[at + 2 : at + 4])
                self.refusal = f"closed at once with code {code}"
            self.transport.abort()  # `connection_lost` counts it


class Probe(Viewer):
    """A viewer that also records the latency of each event."""

    __slots__ = ("_rest",)

    def __init__(self, crowd: Crowd, index: int) -> None:
        super().__init__(crowd, index)
        self._rest = b""

    def _take(self, data: bytearray, size: int) -> None:
        now = time.time_ns() // 1000
        first, *stamped = (self._rest + data[:size]).split(MARK)
        self._rest = b""
        last = stamped[-1] if stamped else first
        if stamped and len(last) < DIGITS:
            self._rest = MARK + stamped.pop()
        elif cut := _cut(last, len(last)):
            self._rest = MARK[:cut]
        self.seen += len(stamped)
        times = [piece[:DIGITS] for piece in stamped]
        # The end of a chunk may fall into a time (Go's servers cut after 2 KB); such an event has no latency.
        self._crowd.latencies.extend(now - int(one) for one in times if one.isdigit())


def _cut(data: bytes | bytearray, size: int) -> int:
    """Returns how many bytes at the end of `data[:size]` are the beginning of a marker."""
    at = data.rfind(MARK[:1], max(0, size - len(MARK) + 1), size)
    return size - at if at >= 0 and MARK.startswith(data[at:size]) else 0


class Crowd:
    """All viewers of one target. Must be made on the event loop that runs them."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.loop = asyncio.get_running_loop()
        self.buffer = bytearray(_BUFFER)
        self.websocket = target.transport is Transport.WEBSOCKET
        self.expected_status = "101" if self.websocket else "200"
        self.viewers: list[Viewer] = []
        self.latencies: list[int] = []  # microseconds, of the probes
        self.refused: list[str] = []
        self.closed = 0  # by the server
        self._leaving = False
        self._open = 0
        self._gone = asyncio.Event()

    @property
    def joined(self) -> int:
        """The number of viewers that got a good response."""
        return len(self.viewers)

    @property
    def seen(self) -> int:
        """The number of events that viewers received since `reset`."""
        return sum(viewer.seen for viewer in self.viewers)

    def reset(self) -> None:
        """Set all counts to zero."""
        self.latencies = []
        for viewer in self.viewers:
            viewer.seen = 0

    async def join(self, count: int) -> None:
        """Connect `count` viewers as fast as the server answers. `viewers` gets no refused one."""
        indices = iter(range(count))
        # Spread over all viewers: a server that writes in the order of joining serves the first ones soonest.
        probes = {(2 * number + 1) * count // (2 * PROBES) for number in range(PROBES)}

        async def one_after_another() -> None:
            for index in indices:
                await self._join(index, Probe if index in probes else Viewer)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(AT_ONCE, count)):
                group.create_task(one_after_another())

    async def _join(self, index: int, kind: type[Viewer]) -> None:
        viewer = kind(self, index)
        try:
            async with asyncio.timeout(JOIN_TIMEOUT):
                await self.loop.create_connection(lambda: viewer, sock=await self._connect(index))
                self._open += 1
                await viewer.answered
        except (OSError, TimeoutError) as error:
            viewer.refusal = repr(error)
        if viewer.refusal:
            self.refused.append(viewer.refusal)
            if viewer.transport is not None:
                viewer.transport.abort()
        else:
            self.viewers.append(viewer)

    async def _connect(self, index: int) -> socket.socket:
        sock = socket.socket()
        try:
            sock.setblocking(False)
            if self.target.host.startswith("127.") and index >= PER_SOURCE:
                sock.bind((f"127.0.0.{1 + index // PER_SOURCE}", 0))
            await self.loop.sock_connect(sock, (self.target.host, self.target.port))
        except BaseException:
            sock.close()
            raise
        return sock

    def left(self, viewer: Viewer) -> None:
        """Note that the connection of `viewer` is closed."""
        self._open -= 1
        if not self._leaving and not viewer.refusal:
            self.closed += 1
        if self._open == 0:
            self._gone.set()

    async def leave(self) -> None:
        """Close every connection, and return when all are closed."""
        self._leaving = True
        self._gone.clear()
        for viewer in self.viewers:
            if viewer.transport is not None:
                viewer.transport.abort()
        if self._open:
            async with asyncio.timeout(JOIN_TIMEOUT):
                await self._gone.wait()
        self.viewers.clear()
