"""The transport on an epoll of its own, on real sockets, handed over from both kinds of loop."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import uvloop

from hub.transports import epoll
from hub.transports.epoll import HIGH_WATER, EpollTransport, moved

EPOLL = "anon_inode:[eventpoll]"
Scenario = Callable[["Rig"], Awaitable[None]]


class Recorder(asyncio.Protocol):
    """Remembers what a transport tells its protocol."""

    def __init__(self) -> None:
        self.read = b""
        self.told: list[str] = []
        self.news = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        if data == b"raise":
            raise RuntimeError("a fault of this viewer")
        self.read += data
        self.news.set()

    def pause_writing(self) -> None:
        self.told.append("pause")
        self.news.set()

    def resume_writing(self) -> None:
        self.told.append("resume")
        self.news.set()

    def connection_lost(self, _exc: Exception | None) -> None:
        self.told.append("lost")
        self.news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.news.clear()
                await self.news.wait()

    async def lost(self) -> None:
        await self.until(lambda: "lost" in self.told)


class Rig:
    """A socket whose server side was moved; `client` is the other end."""

    def __init__(self, client: socket.socket, transport: asyncio.Transport, protocol: Recorder) -> None:
        self.client = client
        self.transport = transport
        self.protocol = protocol

    @classmethod
    async def make(cls, before: bytes = b"") -> Rig:
        server, client = socket.socketpair()
        client.setblocking(False)
        for one in (server, client):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, server)
        if before:
            transport.write(before)
        ours = moved(transport)
        protocol = Recorder()
        ours.set_protocol(protocol)
        return cls(client, ours, protocol)

    async def receive(self, size: int) -> bytes:
        """Read `size` bytes at the client, or all up to the end of the stream."""
        data = b""
        while len(data) < size:
            more = await asyncio.get_running_loop().sock_recv(self.client, 65536)
            if not more:
                break
            data += more
        return data

    async def settled(self) -> None:
        """Wait until the loop's transport is gone."""
        assert isinstance(self.transport, EpollTransport)
        while self.transport._before is not None:
            await asyncio.sleep(0)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Runs a coroutine function on a loop of one kind, and checks that no descriptor is left open."""

    def runner(scenario: Callable[[], Awaitable[None]]) -> None:
        gc.collect()
        before = descriptors(EPOLL)
        with asyncio.Runner(loop_factory=request.param) as one:

            async def checked() -> None:
                before = descriptors("socket:")
                await asyncio.wait_for(scenario(), 20)
                for _ in range(5):
                    await asyncio.sleep(0)
                assert descriptors("socket:") == before

            one.run(checked())
        del one
        gc.collect()
        assert descriptors(EPOLL) == before

    return runner


def descriptors(kind: str) -> int:
    """The number of open ones; libuv opens /dev/null for itself."""
    links = []
    for name in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the directory's own
            links.append(str(name.readlink()))
    return sum(link.startswith(kind) for link in links)


def test_what_was_written_before_the_move_goes_first(run) -> None:
    async def scenario() -> None:
        rig = await Rig.make(before=b"one ")
        assert isinstance(rig.transport, EpollTransport)
        rig.transport.write(b"two ")  # while the loop's transport still holds the first
        await rig.settled()
        rig.transport.write(b"three")
        assert await rig.receive(13) == b"one two three"
        await leave(rig)

    run(scenario)


def test_a_large_answer_before_the_move_stays_whole(run) -> None:
    async def scenario() -> None:
        first = os.urandom(300_000)  # the loop's transport is blocked when it is told to close
        rig = await Rig.make(before=first)
        rig.transport.write(b"then")
        assert rig.transport.get_write_buffer_size() > 4
        assert await rig.receive(len(first) + 4) == first + b"then"
        await leave(rig)

    run(scenario)


def test_a_client_that_does_not_read_pauses_and_loses_nothing(run) -> None:
    async def scenario() -> None:
        rig = await Rig.make()
        await rig.settled()
        sent = b""
        while "pause" not in rig.protocol.told:
            piece = os.urandom(10_000)
            rig.transport.write(piece)
            sent += piece
        assert HIGH_WATER < rig.transport.get_write_buffer_size() <= HIGH_WATER + 10_000
        assert await rig.receive(len(sent)) == sent
        await rig.protocol.until(lambda: "resume" in rig.protocol.told)
        assert rig.protocol.told == ["pause", "resume"]
        assert rig.transport.get_write_buffer_size() == 0
        rig.transport.write(b"again")
        assert await rig.receive(5) == b"again"
        await leave(rig)

    run(scenario)


def test_close_writes_what_waits(run) -> None:
    async def scenario() -> None:
        rig = await Rig.make(before=b"head ")
        sent = os.urandom(200_000)
        rig.transport.write(sent)
        rig.transport.close()
        rig.transport.write(b"dropped")
        assert rig.transport.is_closing()
        assert await rig.receive(10**9) == b"head " + sent
        await rig.protocol.lost()
        rig.client.close()

    run(scenario)


@pytest.mark.parametrize("when", ["before", "after"])
def test_abort_drops_what_waits(run, when: str) -> None:
    async def scenario() -> None:
        rig = await Rig.make(before=os.urandom(300_000))
        if when == "after":
            got = await rig.receive(300_000)
            await rig.settled()
            rig.transport.write(os.urandom(300_000))
            assert len(got) == 300_000
        rig.transport.abort()
        rig.transport.abort()
        await rig.protocol.lost()
        assert len(await rig.receive(10**9)) < 300_000
        assert rig.protocol.told.count("lost") == 1
        rig.client.close()

    run(scenario)


def test_what_a_client_says_arrives_once_reading_goes_on(run) -> None:
    async def scenario() -> None:
        rig = await Rig.make()
        rig.client.send(b"early ")  # before the descriptor is ours
        rig.transport.pause_reading()
        await rig.settled()
        rig.client.send(b"late")
        for _ in range(5):
            await asyncio.sleep(0)
        assert rig.protocol.read == b""
        rig.transport.resume_reading()
        await rig.protocol.until(lambda: rig.protocol.read == b"early late")
        await leave(rig)

    run(scenario)


@pytest.mark.parametrize("reading", [True, False])
def test_a_reset_connection_is_lost_while_nothing_is_written(run, reading: bool) -> None:
    async def scenario() -> None:
        rig = await Rig.make()
        await rig.settled()
        if not reading:
            rig.transport.pause_reading()
        rig.client.close()
        await rig.protocol.lost()
        rig.transport.write(b"too late")
        assert rig.protocol.told == ["lost"]

    run(scenario)


def test_a_client_that_left_during_the_move_is_lost(run) -> None:
    async def scenario() -> None:
        rig = await Rig.make(before=os.urandom(300_000))
        rig.client.close()
        await rig.protocol.lost()

    run(scenario)


def test_one_viewers_fault_ends_that_viewer_only(run) -> None:
    async def scenario() -> None:
        faults: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: faults.append(context))
        bad, good = await Rig.make(), await Rig.make()
        await bad.settled()
        await good.settled()
        bad.client.send(b"raise")
        good.client.send(b"fine")
        await bad.protocol.lost()
        await good.protocol.until(lambda: good.protocol.read == b"fine")
        assert [str(one["exception"]) for one in faults] == ["a fault of this viewer"]
        bad.client.close()
        await leave(good)

    run(scenario)


def test_more_sockets_than_one_slice_are_all_read(run) -> None:
    async def scenario() -> None:
        rigs = [await Rig.make() for _ in range(3 * epoll.SLICE)]
        for rig in rigs:
            rig.client.send(b"x")
        for rig in rigs:
            await rig.protocol.until(lambda one=rig: one.protocol.read == b"x")  # type: ignore[misc]
        for rig in rigs:
            await leave(rig)

    run(scenario)


def test_without_a_descriptor_or_an_epoll_the_loops_transport_stays(run, monkeypatch) -> None:
    async def scenario() -> None:
        with broken(monkeypatch, "os.dup", OSError("too many open files")):
            rig = await Rig.make(before=b"one ")
            assert not isinstance(rig.transport, EpollTransport)
        with monkeypatch.context() as patched:
            patched.delattr("select.epoll")
            other = await Rig.make()
            assert not isinstance(other.transport, EpollTransport)
        rig.transport.write(b"two")
        assert await rig.receive(7) == b"one two"
        await leave(rig)
        await leave(other)

    run(scenario)


def test_where_no_epoll_is_to_be_had_the_loops_transport_stays(run, monkeypatch) -> None:
    async def scenario() -> None:
        with broken(monkeypatch, "hub.transports.epoll.Sockets.__init__", OSError("too many open files")):
            rig = await Rig.make(before=b"one ")
        assert not isinstance(rig.transport, EpollTransport)
        rig.transport.write(b"two")
        assert await rig.receive(7) == b"one two"
        await leave(rig)
        later = await Rig.make()
        assert isinstance(later.transport, EpollTransport)
        await later.settled()
        await leave(later)

    run(scenario)


def test_a_socket_that_the_kernel_does_not_watch_is_lost_and_waits_for_nothing(run, monkeypatch) -> None:
    async def scenario() -> None:
        first = await Rig.make()
        await first.settled()
        with broken(monkeypatch, "hub.transports.epoll.Sockets.add", OSError("no space left on device")):
            rig = await Rig.make(before=b"head")
            rig.transport.write(b"rest")
            await rig.protocol.lost()
        assert await rig.receive(10**6) == b"head"
        assert rig.transport.is_closing()
        rig.client.close()
        await leave(first)

    run(scenario)


async def leave(rig: Rig) -> None:
    rig.client.close()
    await rig.protocol.lost()


@contextmanager
def broken(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception) -> Iterator[None]:
    def fails(*_: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(name, fails)
        yield
