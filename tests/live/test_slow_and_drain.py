"""Viewers that do not read, and the drain."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from tests.support import producers
from tests.support.live import token
from tests.support.viewer import dashboard, view

TRANSPORTS = pytest.mark.parametrize("transport", ["sse", "websocket"])
FILL = "x" * 60_000


class Stalled:
    """A client on a plain socket with a small buffer, which reads nothing until the test says so."""

    def __init__(self, live, job: str, transport: str, query: str = "") -> None:
        self._address = ("127.0.0.1", live.port)
        path = f"/api/jobs/{job}/events/" + ("stream" if transport == "sse" else "ws") + query
        lines = [f"GET {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {token()}"]
        if transport == "websocket":
            lines += ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
            lines += ["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="]
        self._request = ("\r\n".join(lines) + "\r\n\r\n").encode()

    async def __aenter__(self) -> Stalled:
        loop = asyncio.get_running_loop()
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.sock.setblocking(False)
        await loop.sock_connect(self.sock, self._address)
        await loop.sock_sendall(self.sock, self._request)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    async def read_to_the_end(self) -> bytes:
        """Read everything until the hub closes or resets the connection."""
        loop, data = asyncio.get_running_loop(), b""
        try:
            while chunk := await asyncio.wait_for(loop.sock_recv(self.sock, 1 << 16), 10):
                data += chunk
        except ConnectionError:
            pass
        return data


async def publish_much(live, job, number: int, *, start: int = 0) -> None:
    """Publish events of 60 KB, more than all buffers on the way hold."""
    for n in range(start, start + number):
        await live.publisher.emit(job, "step", {"n": n, "fill": FILL})


@TRANSPORTS
async def test_a_stalled_viewer_is_closed_after_send_timeout_and_others_are_unaffected(start_hub, transport):
    """The statistics do not count it, viewers that read get everything, and the socket is freed."""
    async with start_hub(send_timeout=0.3, window_bytes=64 << 20) as live:
        job = await producers.job(live)
        async with asyncio.timeout(30), view(live, transport, job) as healthy:
            async with Stalled(live, job, transport) as stalled:
                await live.until(lambda: live.hub.statistics().viewers == 2)
                reading = asyncio.create_task(healthy.take(120))
                await publish_much(live, job, 120)
                assert producers.numbers(await reading) == list(range(120))
                await live.until(lambda: live.hub.statistics().viewers == 1)
                got = await stalled.read_to_the_end()
            assert b"event: end" not in got
            await live.publisher.ready(job)
            assert (await healthy.all())[-1].name == "end"
            assert healthy.closed == "ended"


@TRANSPORTS
async def test_a_viewer_that_stalls_in_its_replay_is_closed_after_send_timeout(start_hub, transport):
    """The send timeout applies also to the replay, before the viewer has a seat."""
    async with start_hub(send_timeout=0.3, window_events=5) as live:
        job = await producers.job(live)
        await publish_much(live, job, 120)
        async with Stalled(live, job, transport):
            await live.until(lambda: live.hub.statistics().viewers == 1)
            await live.until(lambda: live.hub.statistics().viewers == 0, timeout=8)


async def test_a_stalled_dashboard_harms_nobody(start_hub):
    """A dashboard that does not read is closed; other viewers of its jobs get everything."""
    async with start_hub(send_timeout=0.3, window_bytes=64 << 20) as live:
        jobs = [await producers.job(live) for _ in range(2)]
        async with asyncio.timeout(30), dashboard(live) as stalled, view(live, "sse", jobs[0]) as healthy:
            stalled.socket.transport.pause_reading()
            for job in jobs:
                await stalled.say("subscribe", job=job)
            await live.until(lambda: live.hub.statistics().viewers == 3)
            reading = asyncio.create_task(healthy.take(120))
            for job in jobs:
                await publish_much(live, job, 120)
            assert producers.numbers(await reading) == list(range(120))
            await live.until(lambda: live.hub.statistics().viewers == 1)
            stalled.socket.transport.abort()


@TRANSPORTS
async def test_a_viewer_that_pauses_and_reads_on_gets_everything(start_hub, transport):
    """A viewer slower than the job catches up from the log, in order and once."""
    async with start_hub(window_bytes=64 << 20) as live:
        job = await producers.job(live)
        async with asyncio.timeout(30), view(live, transport, job) as viewer:
            sock = viewer.viewer.writer.transport if transport == "sse" else viewer.socket.transport
            sock.pause_reading()
            await publish_much(live, job, 150)
            await live.publisher.ready(job)
            sock.resume_reading()
            seen = await viewer.all()
        assert producers.numbers(seen) == list(range(150))
        assert producers.contiguous(seen)
        assert viewer.closed == "ended"


async def test_a_websocket_that_never_answers_pings_is_closed(start_hub):
    """The socket is closed after two intervals without a Pong."""
    async with start_hub(heartbeat=0.2) as live:
        job = await producers.job(live)
        async with Stalled(live, job, "websocket") as silent:
            await live.until(lambda: live.hub.statistics().viewers == 1)
            data = await silent.read_to_the_end()
            await live.until(lambda: live.hub.statistics().viewers == 0)
            assert live.hub.totals.closed_unanswered == 1
        frames = data.split(b"\r\n\r\n", 1)[1]
        assert b"\x89" in frames  # a Ping
        assert b'{"type":"heartbeat"}' in frames


@TRANSPORTS
async def test_an_abrupt_end_of_the_drain_window_still_says_reconnect(start_hub, transport):
    """At shutdown every viewer gets `reconnect` with a delay, then the close; a WebSocket gets 1012."""
    async with start_hub(drain=0.3) as live:
        job = await producers.job(live, events=1)
        viewers = [view(live, transport, job) for _ in range(5)]
        for viewer in viewers:
            await viewer.__aenter__()
            await viewer.take(1)
        live.server.should_exit = True
        async with asyncio.timeout(10):
            for viewer in viewers:
                (away,) = await viewer.all()
                assert (away.name, viewer.closed) == ("reconnect", "reconnect")
                assert away.fields["after_ms"] > 0
                if transport == "sse":
                    assert viewer.viewer.parser.retry == away.fields["after_ms"]
                else:
                    assert viewer.code == 1012
                await viewer.__aexit__(None, None, None)


@pytest.mark.parametrize("jobs", [0, 2])
async def test_dashboards_are_drained_as_well(start_hub, jobs):
    """Dashboards with and without jobs get `reconnect` and 1012."""
    async with start_hub(drain=0.2) as live:
        async with dashboard(live) as board:
            for _ in range(jobs):
                await board.say("subscribe", job=await producers.job(live), ref=1)
                await board.answer(1)
            await board.say("ping", ref=2)
            await board.answer(2)
            live.server.should_exit = True
            (away,) = await board.all()
        assert (away.name, board.code) == ("reconnect", 1012)


@TRANSPORTS
async def test_new_viewers_are_refused_while_draining(start_hub, transport):
    """New viewers get the answer of a full hub; present viewers keep their cursor."""
    async with start_hub() as live:
        job = await producers.job(live, events=2)
        async with view(live, transport, job) as present:
            await present.take(2)
            cursor = present.cursor
            await live.context.drain()
            await present.all()
            assert (present.closed, present.cursor) == ("reconnect", cursor)
        async with view(live, transport, job) as late:
            await late.all()
            assert late.closed == "reconnect"
        assert live.hub.statistics().viewers == 0


async def test_a_new_dashboard_is_refused_while_draining(start_hub):
    """A new dashboard would be closed a moment later, so it gets 4013 or 1012 at once."""
    async with start_hub() as live:
        await live.context.drain()
        async with dashboard(live) as late:
            await asyncio.wait_for(late.all(), 3)
            assert late.closed == "reconnect"


@TRANSPORTS
async def test_a_viewer_that_was_drained_resumes_elsewhere_without_a_hole(start_hub, transport):
    """A small rolling deploy: two hubs, one worker, and one viewer that moves."""
    async with start_hub() as stays:
        async with start_hub() as goes:
            job = await producers.job(stays, events=3)
            async with view(goes, transport, job) as viewer:
                seen = await viewer.take(3)
                goes.server.should_exit = True
                await viewer.all()
        await producers.publish(stays, job, 3, start=3)
        async with view(stays, transport, job, cursor=viewer.cursor) as moved:
            await stays.publisher.ready(job)
            seen += await moved.all()
    assert producers.numbers(seen) == [0, 1, 2, 3, 4, 5]
    assert producers.contiguous(seen)
