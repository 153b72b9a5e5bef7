"""Hostile or broken clients: floods, wrong frames, half or endless requests. Others notice nothing."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator

import pytest

from tests.faults.rig.impatient import IMPATIENT
from tests.faults.rig.process import Hub, RedisProcess, until
from tests.faults.rig.producer import Worker
from tests.faults.rig.rude import (
    BINARY,
    CLOSE,
    CONT,
    DASHBOARD,
    PING,
    PONG,
    TEXT,
    Rude,
    company,
    frame,
    held,
    path_of,
    request,
    status,
)
from tests.faults.rig.scale import LONG, number, seconds
from tests.faults.rig.watcher import Crowd

HEAD = seconds(2, 10)
"""Seconds until a head must be complete; the long set uses the hub's own limit."""

KINDS = pytest.mark.parametrize("kind", ["websocket", "dashboard", "portable"])
MIB = 1 << 20
_names = map("job-{}".format, itertools.count())


@pytest.fixture(scope="module")
def places():
    """One Redis, a hub with our protocols and one with uvicorn's own: strangers may not harm them, so one
    each is enough.
    """
    redis = RedisProcess()
    started = [redis]
    try:
        for more in ({}, {"impatient_portable": 1}):
            hub = Hub(
                redis.url,
                program=IMPATIENT,
                impatient_head=HEAD,
                send_timeout=2,
                linger=0.2,
                log_level="warning",
                **more,
            )
            started.append(hub)
        yield started
        said = "".join(hub.said for hub in started[1:])
    finally:
        for process in reversed(started):
            process.close()
    assert "Traceback" not in said, said[max(0, said.find("Traceback") - 500) :][:6000]


@pytest.fixture(autouse=True)
def rude_company():
    """See `company`."""
    with company():
        yield


@contextlib.asynccontextmanager
async def undisturbed(redis: RedisProcess, hub: Hub, *, memory: int) -> AsyncIterator[str]:
    """Viewers on both transports watch a job while the block runs: they get everything, and the hub grows by
    `memory` at most.

    The hub is warm by then: what it keeps from one test to the next is no growth.
    """
    crowd = Crowd()
    async with Worker(redis.url) as worker:
        published = await worker.job(next(_names))
        crowd.add(lambda: hub.url, published, each=2)
        await crowd.wait_connected()
        base = hub.memory
        streaming = asyncio.create_task(worker.stream(published, 100_000, rate=50))
        try:
            yield published.job
            worker.over = True
            await streaming
            grown = hub.memory - base
            await worker.emit(published, n=-1)
            await worker.end(published)
            verdicts = await crowd.finish(20)
        finally:
            worker.over = True
            await asyncio.wait([streaming])
            await crowd.stop()
    assert all(verdict.connections == 1 for verdict in verdicts), "nobody was thrown out"
    assert grown < memory, f"grown by {grown / MIB:.1f} MiB"
    await until(lambda: hub.metric("viewers") == 0, "their places are free")


async def enter(hub: Hub, job: str, kind: str, *more: str) -> Rude:
    """Opens a WebSocket; a dashboard subscribes to one job."""
    rude = await Rude(hub.port).connect()
    path = DASHBOARD if kind == "dashboard" else path_of(job, "websocket")
    await rude.send(request(path, more=more))
    await rude.read_until(b"\r\n\r\n")
    if kind == "dashboard":
        await rude.send(frame(TEXT, json.dumps({"op": "subscribe", "job": job}).encode()))
        await rude.read_until(b'"subscribed"')
    return rude


# --- row 21

FRAGMENT = b"x" * 30_000
WRONG = {
    "2^63 bytes": (frame(BINARY, b"x" * 100, says=1 << 63), 1009),
    "2^63 - 1 bytes": (frame(TEXT, b"x" * 100, says=(1 << 63) - 1), 1009),
    "64 KiB and one": (frame(TEXT, b"x" * (65_536 + 1)), 1009),
    "fragments": (frame(TEXT, FRAGMENT, fin=False) + 20 * frame(CONT, FRAGMENT, fin=False), 1009),
    "compressed": (frame(TEXT, b"\xaa" * 100, rsv1=True), 1002),
    "unknown opcode": (frame(3, b"x"), 1002),
    "not masked": (b"\x81\x04ping", 1002),
    "long ping": (frame(PING, b"x" * 126), 1002),
    "half a ping": (frame(PING, b"x", fin=False), 1002),
    "no beginning": (frame(CONT, b"x"), 1002),
    "not UTF-8": (frame(TEXT, b"\xff\xfe"), 1007),
}


@KINDS
async def test_a_wrong_frame_closes_with_its_code(places, kind):
    """Each has a code in RFC 6455 section 7.4.1. Afterwards the socket is closed and its place is free."""
    redis, ours, portable = places
    hub = portable if kind == "portable" else ours
    async with undisturbed(redis, hub, memory=8 * MIB) as job:

        async def send(data: bytes) -> int | None:
            rude = await enter(hub, job, kind)
            with contextlib.suppress(ConnectionError):
                await rude.send(data)
            code = await rude.read_close()
            with contextlib.suppress(ConnectionError):
                await rude.send(frame(CLOSE, b"\x03\xe8"))  # or uvicorn waits 10 s for it
            await rude.read_to_end()
            return code

        wrong = dict(WRONG)
        if kind == "portable":
            del wrong["not UTF-8"]  # uvicorn's own protocol logs a traceback for it
        codes = await asyncio.gather(*(send(data) for data, _ in wrong.values()))
        assert dict(zip(wrong, codes, strict=True)) == {name: code for name, (_, code) in wrong.items()}
        await until(lambda: hub.metric("viewers") == 4, "they are gone")


@KINDS
async def test_compression_is_declined(places, kind):
    """A client that offers permessage-deflate gets none, so it cannot send a compression bomb."""
    redis, ours, portable = places
    hub = portable if kind == "portable" else ours
    async with undisturbed(redis, hub, memory=8 * MIB) as job:
        rude = await enter(
            hub, job, kind, "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
        )
        head = rude.got.partition(b"\r\n\r\n")[0].lower()
        assert b"sec-websocket-extensions" not in head or b"deflate" not in head, head


async def flood(rude: Rude, data: bytes, *, reads: bool, lasts: float) -> int | None:
    """Send `data` again and again, until the hub ends it or takes no more; the code in its Close, if that
    could be read.
    """
    reading = asyncio.create_task(rude.read_close()) if reads else None
    with contextlib.suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(lasts):
            while True:
                await rude.send(data)
                await asyncio.sleep(0)
    return await (reading or rude.read_close())


FLOODS = {
    "pings": (frame(PING, b"x" * 125) * 500, {"websocket", "dashboard"}),
    "commands": (frame(TEXT, b'{"op":"state","job":"%s"}' % (b"x" * 100)) * 500, {"websocket", "dashboard", "portable"}),
    "junk": (frame(TEXT, b"}{" * 1000) * 50, {"websocket", "dashboard", "portable"}),
    "pongs": (frame(PONG, b"x" * 125) * 500, {"websocket", "dashboard"}),
    "empty fragments": (frame(TEXT, fin=False) + frame(CONT, fin=False) * 500 + frame(CONT), {"websocket", "dashboard"}),
}  # fmt: skip
"""What is sent, and where it ends with 1008. uvicorn's own protocol has no budget for control frames."""


@pytest.mark.parametrize("reads", [True, False], ids=["read", "unread"])
@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name, (_, kinds) in FLOODS.items() for kind in sorted(kinds)]
)
async def test_a_flood_is_ended_and_costs_nothing(places, name, kind, reads):
    """Over its budget a client gets 1008, or is aborted if it does not read that; memory stays flat."""
    redis, ours, portable = places
    hub = portable if kind == "portable" else ours
    data, _ = FLOODS[name]
    flooders = 4
    async with undisturbed(redis, hub, memory=flooders * MIB + 6 * MIB) as job:
        rudes = [await enter(hub, job, kind) for _ in range(flooders)]
        floods = [flood(rude, data, reads=reads, lasts=seconds(1, 10)) for rude in rudes]
        ended = await asyncio.gather(*floods)
        assert set(ended) <= {1008, None}, (
            ended
        )  # a reset takes with it what was not read yet, also the Close
        await until(lambda: hub.metric("viewers") == 4, "they are out")
        if not LONG:  # uvicorn waits 10 s for the other side's Close, but not for one that has left
            for rude in rudes:
                rude.reset()
        await until(lambda: held(hub.port) == 4, "their sockets are gone", timeout=15)


# --- row 22


async def trickle(rude: Rude, head: bytes) -> float:
    """Send a byte at a time; the seconds until the hub has had enough."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    with contextlib.suppress(ConnectionError):
        for byte in itertools.cycle(head):
            await rude.send(bytes([byte]))
            await asyncio.sleep(HEAD / 40)
    return loop.time() - began


async def test_half_a_request_is_gone_after_its_deadline(places):
    """Nothing, half a head, a byte at a time, half a second request: all are closed, no socket is left."""
    redis, hub, _ = places
    async with undisturbed(redis, hub, memory=12 * MIB) as job:
        whole = request(path_of(job, "sse"))
        half = [await Rude(hub.port).connect() for _ in range(number(200, 1000))]
        for place, rude in enumerate(half):
            await rude.send(whole[: (0, 1, 20, len(whole) - 2)[place % 4]])
        slow = await Rude(hub.port).connect()
        trickling = asyncio.create_task(trickle(slow, b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000))
        again = await Rude(hub.port).connect()
        await again.send(request("/healthz"))
        await again.read_until(b'"ok"')
        await again.send(request("/healthz")[:30])
        await until(lambda: held(hub.port) == 4, "all of them are closed", timeout=HEAD * 1.5 + 2)
        assert await trickling < HEAD * 1.5 + 2
        for rude in [*half, again]:
            await rude.read_to_end()
            assert status(rude.got) in (0, 200), rude.got


async def endless(rude: Rude, begin: bytes, more: bytes, limit: int) -> tuple[int, bytes]:
    """Send `more` until the hub ends it, `limit` bytes at most: how many it took, and what it said."""
    sent = 0
    with contextlib.suppress(ConnectionError, TimeoutError):
        await rude.send(begin)
        async with asyncio.timeout(HEAD * 1.5 + 2):
            while sent < limit:
                await rude.send(more)
                sent += len(more)
    return sent, await rude.read_to_end()


ENDLESS = {
    "headers": (b"GET /healthz HTTP/1.1\r\nHost: hub\r\n", b"X-Filler: " + b"x" * 1000 + b"\r\n"),
    "one header": (b"GET /healthz HTTP/1.1\r\nHost: hub\r\nX-Filler: ", b"x" * 1000),
    "header name": (b"GET /healthz HTTP/1.1\r\nHost: hub\r\n", b"x" * 1000),
    "URL": (b"GET /healthz?", b"x" * 1000),
    "handshake": (request(DASHBOARD)[:-2], b"X-Filler: " + b"x" * 1000 + b"\r\n"),
    "second head": (
        request("/healthz") + b"GET /healthz HTTP/1.1\r\n",
        b"X-Filler: " + b"x" * 1000 + b"\r\n",
    ),
}


@pytest.mark.parametrize("name", ENDLESS)
async def test_an_endless_head_is_cut_off(places, name):
    """After 16 KiB: 431 (400 if no head can be recognised), or the connection ends; memory stays flat."""
    redis, hub, _ = places
    begin, more = ENDLESS[name]
    async with undisturbed(redis, hub, memory=8 * MIB):
        rude = await Rude(hub.port).connect()
        sent, got = await endless(rude, begin, more, 91_000_000)
        assert sent < 16 * MIB, f"it took {sent / MIB:.0f} MiB"  # most of it in the kernel's buffers
        last = got[got.rfind(b"HTTP/1.1 ") :] if got else b""
        assert status(last) in ((0, 431, 200) if name == "second head" else (0, 400, 431)), got[:300]
        # What one write brings is seen at once, whatever the kernel had taken.
        rude = await Rude(hub.port).connect()
        await rude.send(begin + more * 20 + b"\r\n\r\n")
        got = await rude.read_to_end()
        if (
            name == "second head"
        ):  # behind a request that is unanswered: the connection closes after the answer
            assert got.count(b"HTTP/1.1 ") == 1 and b"connection: close" in got, got[:300]
        else:
            assert b"431" in got or name == "header name" and b"400" in got, got[:300]


@pytest.mark.parametrize("path", ["/healthz", "sse", "websocket"])
async def test_a_large_head_that_is_legal_works(places, path):
    """12 KiB of headers: a token and cookies. The `websockets` library takes lines of at most 8 KiB."""
    redis, hub, _ = places
    async with undisturbed(redis, hub, memory=8 * MIB) as job:
        for more in (
            ("X-One: " + "x" * 6000, "X-Two: " + "x" * 6000),
            tuple(f"X-{n}: " + "x" * 100 for n in range(100)),
        ):
            rude = await Rude(hub.port).connect()
            await rude.send(request(path if path == "/healthz" else path_of(job, path), more=more))
            await rude.read_until(b"\r\n\r\n")
            assert status(rude.got) in (200, 101), rude.got
            rude.close()


@pytest.mark.parametrize("transport", ["sse", "plain"])
async def test_a_body_that_nobody_asked_for_costs_nothing(places, transport):
    """A GET with an endless body, announced or chunked: nobody reads it, and the stream does not last."""
    redis, hub, _ = places
    async with undisturbed(redis, hub, memory=8 * MIB) as job:
        path = path_of(job, "sse") if transport == "sse" else f"/api/jobs/{job}/events?wait=30&after=9-9"
        for more, chunk in (
            ("Content-Length: 91000000", b"x" * 65_536),
            ("Transfer-Encoding: chunked", b"10000\r\n" + b"x" * 65_536 + b"\r\n"),
        ):
            rude = await Rude(hub.port).connect()
            await rude.send(request(path, more=(more,)))
            with contextlib.suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(seconds(1, 5)):
                    while True:
                        await rude.send(chunk)
            rude.reset()
        await until(lambda: hub.metric("viewers") == 4, "they are gone")
