"""The portable wire, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from hub.transports.asgi import AsgiWire
from hub.wire import Reason

pytestmark = pytest.mark.looptime


class Server:
    """An ASGI `send` that can hold, and a client that can leave."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.free = asyncio.Event()
        self.free.set()
        self.gone = asyncio.Event()
        self.error: Exception | None = None

    async def send(self, message):
        await self.free.wait()
        if self.error is not None:
            raise self.error
        self.sent.append(message["n"])

    async def listen(self) -> Reason:
        await self.gone.wait()
        return Reason.LEFT


def message(n: str) -> dict:
    return {"n": n}


def made(server: Server, timeout: float = 10.0) -> AsgiWire:
    return AsgiWire(server.send, timeout=timeout, last_words=lambda reason: [message(reason.name)])


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_payloads_go_out_in_order_and_then_the_last_words():
    """The reason is the last thing said."""
    server = Server()
    wire = made(server)
    running = asyncio.create_task(wire.run(server.listen()))
    wire.write([message("a"), message("b")])
    assert wire.paused
    await turns()
    assert not wire.paused
    wire.write([message("c")])
    wire.finish(None, Reason.ENDED)
    await running
    assert server.sent == ["a", "b", "c", "ENDED"]
    assert wire.paused


async def test_the_first_reason_stands():
    """Only one end."""
    server = Server()
    wire = made(server)
    wire.finish(None, Reason.TOO_SLOW)
    wire.finish(None, Reason.ENDED)
    await wire.run(server.listen())
    assert server.sent == ["TOO_SLOW"]


async def test_a_client_that_left_is_sent_nothing_more():
    """No last words for nobody."""
    server = Server()
    wire = made(server)
    running = asyncio.create_task(wire.run(server.listen()))
    await turns()
    wire.write([message("a")])
    server.gone.set()
    await running
    assert wire.reason is Reason.LEFT
    assert server.sent in ([], ["a"])


async def test_a_blocked_client_is_closed_after_the_timeout():
    """Seconds of loop time, neither fewer nor more."""
    server = Server()
    server.free.clear()
    wire = made(server, timeout=7)
    wire.write([message("a")])
    began = asyncio.get_running_loop().time()
    await wire.run(server.listen())
    assert asyncio.get_running_loop().time() - began == pytest.approx(7, abs=0.1)
    assert wire.reason is Reason.LEFT
    assert server.sent == []


@pytest.mark.parametrize("error", [OSError, ConnectionResetError, BrokenPipeError])
async def test_a_broken_send_is_a_client_that_left(error):
    """No traceback."""
    server = Server()
    server.error = error()
    wire = made(server)
    wire.write([message("a")])
    await wire.run(server.listen())
    assert wire.reason is Reason.LEFT


async def test_a_listener_that_fails_ends_the_wire():
    """An error in reading is 1011, and not a viewer without ears."""
    server = Server()
    wire = made(server)

    async def listen() -> Reason:
        raise ZeroDivisionError

    await wire.run(listen())
    assert server.sent == ["FAILED"]


async def test_what_the_listener_says_is_the_end():
    """A flood, say."""
    server = Server()
    wire = made(server)

    async def listen() -> Reason:
        return Reason.FLOOD

    await wire.run(listen())
    assert server.sent == ["FLOOD"]


async def test_flush_returns_when_all_is_sent():
    """And not before."""
    server = Server()
    server.free.clear()
    wire = made(server)
    running = asyncio.create_task(wire.run(server.listen()))
    wire.write([message("a")])
    flushing = asyncio.create_task(wire.flush())
    await turns()
    assert not flushing.done()
    server.free.set()
    await flushing
    assert server.sent == ["a"]
    wire.finish(None, Reason.ENDED)
    await running


async def test_flush_returns_when_nothing_ever_will_be_sent():
    """The wire ended by timeout while somebody waited."""
    server = Server()
    server.free.clear()
    wire = made(server, timeout=1)
    wire.write([message("a")])
    flushing = asyncio.create_task(wire.flush())
    await wire.run(server.listen())
    await asyncio.wait_for(flushing, 1)


async def test_a_cancelled_run_leaves_no_task():
    """The listener ends with it."""
    server = Server()
    wire = made(server)
    before = asyncio.all_tasks()
    running = asyncio.create_task(wire.run(server.listen()))
    await turns()
    running.cancel()
    await asyncio.wait([running])
    assert asyncio.all_tasks() == before
    assert wire.paused
