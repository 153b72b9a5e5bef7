"""A small TCP proxy that makes faults: latency, cut, half-open, slices, bandwidth, changed as it runs."""

from __future__ import annotations

import asyncio
import contextlib
import random

CHUNK = 1 << 16


class Proxy:
    """Listens on `port` and forwards to `target` (host, port). Attributes may be changed at any time.

    `latency`: seconds each way. `slices`: most bytes per write (0: no limit). `bandwidth`: bytes per second
    in each direction (0: no limit). `half_open` drops all bytes and keeps connections open, as a dead
    middlebox does. `mute` drops only the target's bytes. `refuse` accepts no new connection. `gentle` closes in
    order what the other side has closed.
    """

    def __init__(self, host: str, port: int, *, seed: int = 0, gentle: bool = False) -> None:
        self.target = (host, port)
        self.port = 0
        self.latency = 0.0
        self.slices = 0
        self.bandwidth = 0
        self.half_open = False
        self.mute = False
        self.refuse = False
        self.gentle = gentle
        self.connections = 0
        self.asked = 0  # connections on which a client has said something
        self._random = random.Random(seed)
        self._open: set[asyncio.StreamWriter] = set()
        self._generation = 0  # of connections; those before it are silent
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))

    def cut(self) -> None:
        """Reset every connection."""
        for writer in list(self._open):
            writer.transport.abort()

    def silence(self) -> None:
        """Let the present connections carry nothing any more, and nobody close them: a cable is out."""
        self._generation += 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "the server made one"
        self._tasks.add(task)
        self._open.add(writer)
        self.connections += 1
        other: asyncio.StreamWriter | None = None
        try:
            if self.refuse:
                return
            there, other = await asyncio.open_connection(*self.target)
            self._open.add(other)
            ways = [
                asyncio.ensure_future(self._pump(reader, other, self._generation)),
                asyncio.ensure_future(self._pump(there, writer, self._generation, answers=True)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.wait(ways)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for one in (writer, other):
                if one is not None:
                    self._open.discard(one)
                    one.close() if self.gentle else one.transport.abort()
            self._tasks.discard(task)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        generation: int,
        *,
        answers: bool = False,
    ) -> None:
        is_first = not answers
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                self.asked += is_first
                is_first = False
                if self.latency:
                    await asyncio.sleep(self.latency)
                if self.half_open or (answers and self.mute) or generation < self._generation:
                    continue
                for piece in self._pieces(data):
                    writer.write(piece)
                    await writer.drain()
                    if self.bandwidth:
                        await asyncio.sleep(len(piece) / self.bandwidth)

    def _pieces(self, data: bytes) -> list[bytes]:
        most = self.slices or (max(1, self.bandwidth // 20) if self.bandwidth else len(data))
        pieces, at = [], 0
        while at < len(data):
            size = self._random.randint(1, most) if self.slices else most
            pieces.append(data[at : at + size])
            at += size
        return pieces
