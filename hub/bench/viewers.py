"""The viewers of a benchmark: raw sockets that count what they get.

Invariant: nothing in Python runs per event. A viewer counts the marker of a whole chunk in C, so that one core follows
a million deliveries a second; only a few probes read the timestamps. No parser: a server that sends nonsense around
the marker passes (the contract tests are for that).
"""

from __future__ import annotations

import asyncio
import socket
import time
from typing import cast

from hub.bench.target import Target, Transport, masked

MARK = b'sent_at":'
"""Stands in every event once. The `s` occurs in it once, so a cut marker is found by its first letter, and it shares no
letter (modulo 64, which CPython's search skips by) with the filler."""

DIGITS = 16
"""Digits of the timestamp behind the marker: microseconds since 1970, until the year 2286. Nanoseconds would not
survive a server that reads JSON numbers as doubles."""

FILLER = "x"

PROBES = 5
"""Viewers that read timestamps: enough for a p99.9 of some thousand events, few enough to cost the client nothing."""

AT_ONCE = 128
"""Connections on their way at a time: keeps the server busy, and the accept queue (4,096) far from full."""

PER_SOURCE = 20_000
"""Connections from one local address: Linux has 28,000 ephemeral ports for each."""

JOIN_TIMEOUT = 30.0
"""Seconds until a viewer must have its response: a server that takes longer in a storm has failed it."""

_BUFFER = 256 * 1024
_CLOSE, _PING = b"\x88", b"\x89"


class Viewer(asyncio.BufferedProtocol):
    """One viewer. All share one receive buffer: the loop fills it and hands it over before the next is read."""

    __slots__ = ("_crowd", "_cut", "_head", "answered", "index", "refusal", "seen", "transport")

    def __init__(self, crowd: Crowd, index: int) -> None:
        self.seen = 0  # events
        self.answered: asyncio.Future[None] = crowd.loop.create_future()
        self.refusal = ""
        self.transport: asyncio.Transport | None = None
        self._crowd = crowd
        self.index = index
        self._cut = 0  # bytes of a marker at the end of the last chunk
        self._head: bytes | None = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask at once."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by class
        self.transport.write(self._crowd.target.request(self.index))

    def get_buffer(self, sizehint: int) -> bytearray:
        """The shared buffer."""
        return self._crowd.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """A chunk has come."""
        data = self._crowd.buffer
        if self._head is not None:
            self._answer(self._head + data[:nbytes])
            return
        if self._crowd.websocket:
            self._control(data, nbytes)
        self._take(data, nbytes)

    def connection_lost(self, exc: Exception | None) -> None:
        """The server, or `Crowd.leave`, ended it."""
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
        # an event stream has no length; what has one is a polite "come back later", as any status but 200 would end an
        # EventSource for ever
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
        """Answer a Ping, obey a Close. Neither opcode byte can be in ASCII text, only in a frame's length."""
        at = data.find(_PING, 0, size)
        if at >= 0 and at + 1 < size and data[at + 1] <= 125 and self.transport is not None:
            # a length of 137 looks the same, and gets a Pong that nobody asked for, which RFC 6455 allows
            self.transport.write(masked(0xA, bytes(data[at + 2 : at + 2 + data[at + 1]])))
        at = data.rfind(_CLOSE, max(0, size - 127), size)
        if at >= 0 and at + 1 < size and at + 2 + data[at + 1] == size and self.transport is not None:
            if not self.answered.done():
                code = int.from_bytes(data[at + 2 : at + 4])
                self.refusal = f"closed at once with code {code}"
            self.transport.abort()  # `connection_lost` counts it


class Probe(Viewer):
    """A viewer that also notes how long each event took."""

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
        self._crowd.latencies.extend(now - int(piece[:DIGITS]) for piece in stamped)


def _cut(data: bytes | bytearray, size: int) -> int:
    """How many bytes at the end of `data[:size]` begin a marker that the next chunk may end."""
    at = data.rfind(MARK[:1], max(0, size - len(MARK) + 1), size)
    return size - at if at >= 0 and MARK.startswith(data[at:size]) else 0


class Crowd:
    """All viewers of one target. Must be made on the loop that serves it."""

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
        """Viewers that were answered."""
        return len(self.viewers)

    @property
    def seen(self) -> int:
        """Events that reached viewers since `reset`."""
        return sum(viewer.seen for viewer in self.viewers)

    def reset(self) -> None:
        """Count from zero."""
        self.latencies = []
        for viewer in self.viewers:
            viewer.seen = 0

    async def join(self, count: int) -> None:
        """Connect `count` viewers as fast as the server answers. Who is refused is in `refused`, not in `viewers`."""
        indices = iter(range(count))
        # among all that join, and not the first: a server that writes in the order of joining would show its best
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
        """`viewer`'s connection is gone."""
        self._open -= 1
        if not self._leaving and not viewer.refusal:
            self.closed += 1
        if self._open == 0:
            self._gone.set()

    async def leave(self) -> None:
        """Close every connection; return when all are gone."""
        self._leaving = True
        self._gone.clear()
        for viewer in self.viewers:
            if viewer.transport is not None:
                viewer.transport.abort()
        if self._open:
            async with asyncio.timeout(JOIN_TIMEOUT):
                await self._gone.wait()
        self.viewers.clear()
