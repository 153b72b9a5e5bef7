"""The portable wire, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from hub import quiet
from hub.fanout.blocked import Blocked
from hub.fanout.wire import Reason
from hub.totals import Totals
from hub.transports.portable import AsgiWire

pytestmark = pytest.mark.looptime


class Server:
    """An ASGI `send` that can be held up, and a client that can leave."""

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


def made(server: Server, blocked: Blocked | None = None) -> AsgiWire:
    bound = Blocked(10, Totals()) if blocked is None else blocked  # an empty one is false
    return AsgiWire(server.send, bound, last_words=lambda reason: [message(reason.name)])


async def looked_at(blocked: Blocked) -> None:
    """Check for blocked wires once a second, as the heartbeats do."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(1)
        blocked.abort(loop.time())


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_payloads_go_out_in_order_and_then_the_last_words():
    """Payloads are sent in order; the last words come last."""
    server = Server()
    wire = made(server)
    running = asyncio.create_task(wire.run(server.listen()))
    wire.write([message("a"), message("b")])
    assert wire.paused
    await turns()
    assert not wire.paused
    wire.write([message("c")])
    wire.finish(Reason.ENDED)
    await running
    assert server.sent == ["a", "b", "c", "ENDED"]
    assert wire.paused


async def test_the_first_reason_stands():
    """A second `finish` has no effect."""
    server = Server()
    wire = made(server)
    wire.finish(Reason.TOO_SLOW)
    wire.finish(Reason.ENDED)
    await wire.run(server.listen())
    assert server.sent == ["TOO_SLOW"]


async def test_a_client_that_left_is_sent_nothing_more():
    """A client that left gets no last words."""
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
    """It is aborted at the timeout plus at most a tick, is counted, and no wire stays blocked."""
    server = Server()
    server.free.clear()
    blocked = Blocked(7, Totals())
    wire = made(server, blocked)
    looking = asyncio.create_task(looked_at(blocked))
    wire.write([message("a")])
    began = asyncio.get_running_loop().time()
    await wire.run(server.listen())
    assert 7 < asyncio.get_running_loop().time() - began <= 8.1
    assert wire.reason is Reason.LEFT
    assert server.sent == []
    assert (blocked._totals.blocked, len(blocked)) == (1, 0)
    looking.cancel()


async def test_a_blocked_send_that_is_cancelled_from_outside_is_cancelled():
    """A cancellation that does not come from `abort` is passed on."""
    server = Server()
    server.free.clear()
    blocked = Blocked(7, Totals())
    wire = made(server, blocked)
    running = asyncio.create_task(wire.run(server.listen()))
    wire.write([message("a")])
    await turns()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (blocked._totals.blocked, len(blocked)) == (0, 0)


@pytest.mark.parametrize("error", [OSError, ConnectionResetError, BrokenPipeError])
async def test_a_broken_send_is_a_client_that_left(error):
    """An OSError in `send` ends the wire without a traceback."""
    server = Server()
    server.error = error()
    wire = made(server)
    wire.write([message("a")])
    await wire.run(server.listen())
    assert wire.reason is Reason.LEFT


async def test_a_listener_that_fails_ends_the_wire():
    """An error while reading closes with 1011; otherwise nothing would read from the viewer."""
    server = Server()
    wire = made(server)

    async def listen() -> Reason:
        raise ZeroDivisionError

    await wire.run(listen())
    assert server.sent == ["FAILED"]


async def test_what_the_listener_says_is_the_end():
    """The reason that the listener returns, a flood for example, ends the wire."""
    server = Server()
    wire = made(server)

    async def listen() -> Reason:
        return Reason.FLOOD

    await wire.run(listen())
    assert server.sent == ["FLOOD"]


async def test_flush_returns_when_all_is_sent():
    """`flush` waits until the last waiting message is sent."""
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
    wire.finish(Reason.ENDED)
    await running


async def test_flush_returns_when_nothing_ever_will_be_sent():
    """If the wire ends by timeout while a task waits in `flush`, that task returns."""
    server = Server()
    server.free.clear()
    blocked = Blocked(1, Totals())
    wire = made(server, blocked)
    looking = asyncio.create_task(looked_at(blocked))
    wire.write([message("a")])
    flushing = asyncio.create_task(wire.flush())
    await wire.run(server.listen())
    await asyncio.wait_for(flushing, 1)
    looking.cancel()


async def test_a_cancelled_run_leaves_no_task():
    """Cancelling `run` ends the listener."""
    server = Server()
    wire = made(server)
    before = asyncio.all_tasks()
    running = asyncio.create_task(wire.run(server.listen()))
    await turns()
    running.cancel()
    await asyncio.wait([running])
    assert asyncio.all_tasks() == before
    assert wire.paused


async def test_a_command_that_fails_is_in_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """The client gets 1011, and the log has the traceback."""
    monkeypatch.setattr(quiet, "INTERVAL", 0.0)

    async def broken() -> Reason:
        raise LookupError("a defect")

    wire = made(Server())
    await wire.run(broken())
    assert wire.reason is Reason.FAILED
    records = [one for one in caplog.records if one.name == "hub.transports"]
    assert [one.exc_info[0] for one in records if one.exc_info] == [LookupError]
