"""The end of a process: what it waits for, and how long."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
import uvicorn
from fastapi import FastAPI

from hub.fanout.blocked import Blocked
from hub.serve import server as module
from hub.serve.server import Server
from hub.totals import Totals

pytestmark = pytest.mark.looptime
DRAIN = 5.0


class Socket:
    """A socket whose peer takes nothing."""

    finished = True
    unsent = 100

    def __init__(self) -> None:
        self.aborted_at: float | None = None

    def abort(self) -> None:
        self.aborted_at = asyncio.get_running_loop().time()


class Context:
    """A hub with nobody to move away, and the sockets that are blocked at the end."""

    def __init__(self) -> None:
        self.blocked = Blocked(60, Totals())
        self.closed = False
        statistics = SimpleNamespace(moved=0)
        hub = SimpleNamespace(
            settings=SimpleNamespace(drain=DRAIN), blocked=self.blocked, statistics=lambda: statistics
        )
        self.services = [SimpleNamespace(hub=hub)]

    async def drain(self) -> None:
        pass

    async def aclose(self) -> None:
        self.closed = True


class Ending:
    """A server that ends, and how: `at` is when uvicorn closes what is left, in loop time, and `force` what it was told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.context = Context()
        self.server = Server(uvicorn.Config(FastAPI()), self.context)
        self.server.servers = []
        self.at: float | None = None
        self.force: bool | None = None
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=loop.time))

        async def shutdown(server: Server, sockets: object = None) -> None:
            self.at, self.force = loop.time(), server.force_exit

        monkeypatch.setattr(uvicorn.Server, "shutdown", shutdown)

    async def run(self) -> None:
        async with asyncio.timeout(10 * DRAIN):
            await self.server.shutdown()

    def block(self) -> Socket:
        socket = Socket()
        self.context.blocked.add(socket)
        return socket


async def test_a_process_waits_for_its_blocked_sockets(monkeypatch):
    """They take their last bytes, or say goodbye, and are not cut off."""
    ending = Ending(monkeypatch)
    slow, slower = ending.block(), ending.block()
    loop = asyncio.get_running_loop()
    loop.call_later(1.0, ending.context.blocked.discard, slow)
    loop.call_later(2.0, ending.context.blocked.discard, slower)
    await ending.run()
    assert (slow.aborted_at, slower.aborted_at) == (None, None)
    assert 2.0 <= ending.at <= 2.2


async def test_a_socket_that_stays_blocked_is_aborted_after_the_drain_window(monkeypatch):
    """Before uvicorn closes it, which would wait for its bytes."""
    ending = Ending(monkeypatch)
    socket = ending.block()
    await ending.run()
    assert DRAIN <= socket.aborted_at <= ending.at <= DRAIN + 0.4


async def test_without_blocked_sockets_a_process_ends_at_once(monkeypatch):
    """The wait costs nothing then."""
    ending = Ending(monkeypatch)
    await ending.run()
    assert ending.at < 0.2
    assert not ending.context.closed


async def test_a_second_signal_ends_the_wait(monkeypatch):
    """The application's own shutdown runs all the same."""
    ending = Ending(monkeypatch)
    socket = ending.block()
    asyncio.get_running_loop().call_later(1.0, setattr, ending.server, "force_exit", True)
    await ending.run()
    assert socket.aborted_at == pytest.approx(ending.at)
    assert ending.at <= 1.2
    assert ending.context.closed
    assert ending.force is False
