"""Nodes of a cluster that do what the test says: what real ones do too rarely, or too fast."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hub.broker.topology import slot_of

Command = list[str]


class ScriptedNode:
    """A server that speaks enough of Redis for subscriptions. `map` is what it answers to CLUSTER SLOTS, as
    (first, last, port); `owned` are the slots that it serves, and `elsewhere` is where it sends the others.
    """

    def __init__(self) -> None:
        self.map: list[tuple[int, int, int]] = []
        self.owned: set[int] = set()
        self.elsewhere = 0  # a port
        self.epoch = 1
        self.state = "ok"
        self.down: set[int] = set()  # slots that nobody serves
        self.before_reply: dict[str, bytes] = {}  # a verb -> bytes that go out before its answer, once
        self.got: list[Command] = []
        self.lines: list[asyncio.StreamWriter] = []  # connections that have subscribed
        self.port = 0
        self._rung = asyncio.Event()

    @property
    def verbs(self) -> Counter[str]:
        """How many commands of each kind came."""
        return Counter(command[0] for command in self.got)

    def channels(self, verb: str) -> list[str]:
        """All channels that commands of this kind named."""
        return [channel for command in self.got if command[0] == verb for channel in command[1:]]

    def say(self, kind: str, channel: str, body: bytes | None = None) -> None:
        """Send a message (`smessage`) or a kick (`sunsubscribe`) on the newest line."""
        self.lines[-1].write(push(kind, channel, body))

    async def until(self, condition) -> None:
        """Return when `condition(self)` is true; checks again after each command."""
        async with asyncio.timeout(10):
            while not condition(self):
                self._rung.clear()
                await self._rung.wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while command := await _read(reader):
                self.got.append(command)
                writer.write(self.before_reply.pop(command[0], b"") + self._answer(command, writer))
                self._rung.set()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def _answer(self, command: Command, writer: asyncio.StreamWriter) -> bytes:
        verb, *channels = command
        match verb:
            case "CLUSTER" if channels[0] == "INFO":
                return _bulk(f"cluster_state:{self.state}\r\ncluster_current_epoch:{self.epoch}\r\n".encode())
            case "CLUSTER":
                rows = [
                    b"*3\r\n:%d\r\n:%d\r\n*3\r\n%s:%d\r\n%s"
                    % (first, last, _bulk(b"127.0.0.1"), port, _bulk(b"%d" % port))
                    for first, last, port in self.map
                ]
                return b"*%d\r\n%s" % (len(rows), b"".join(rows))
            case "PING":
                return b"*2\r\n" + _bulk(b"pong") + _bulk(b"") if writer in self.lines else b"+PONG\r\n"
            case "SUBSCRIBE" | "UNSUBSCRIBE":
                if writer not in self.lines:
                    self.lines.append(writer)
                return b"".join(push(verb.lower(), channel) for channel in channels)
            case "SSUBSCRIBE" | "SUNSUBSCRIBE":
                slot = slot_of(channels[0])
                if slot in self.down:
                    return b"-CLUSTERDOWN Hash slot not served\r\n"
                if slot not in self.owned:
                    return f"-MOVED {slot} 127.0.0.1:{self.elsewhere}\r\n".encode()
                return b"".join(push(verb.lower(), channel) for channel in channels)
            case _:
                return b"+OK\r\n"


def push(kind: str, channel: str, body: bytes | None = None) -> bytes:
    """The bytes of a message, a confirmation or a kick."""
    last = b":1\r\n" if body is None else _bulk(body)
    return b"*3\r\n" + _bulk(kind.encode()) + _bulk(channel.encode()) + last


@asynccontextmanager
async def nodes(number: int) -> AsyncIterator[list[ScriptedNode]]:
    """Scripted nodes that listen. The first owns every slot, and all say so."""
    made = [ScriptedNode() for _ in range(number)]
    servers = [await asyncio.start_server(node.serve, "127.0.0.1", 0) for node in made]
    for node, server in zip(made, servers, strict=True):
        node.port = server.sockets[0].getsockname()[1]
    made[0].owned = set(range(16384))
    for node in made:
        node.map = [(0, 16383, made[0].port)]
        node.elsewhere = made[0].port
    yield made
    for server in servers:
        server.close()


def _bulk(data: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(data), data)


async def _read(reader: asyncio.StreamReader) -> Command | None:
    head = await reader.readline()
    if not head:
        return None
    words = []
    for _ in range(int(head[1:])):
        size = int((await reader.readline())[1:])
        words.append((await reader.readexactly(size + 2))[:-2].decode())
    return words
