"""Viewers leave nothing behind: thousands join and leave, or are cancelled at any await."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from collections.abc import AsyncIterator, Callable

import pytest

from tests.faults.rig.judge import Published
from tests.faults.rig.process import Hub, until
from tests.faults.rig.producer import Worker
from tests.faults.rig.report import note
from tests.faults.rig.rude import CLOSE, DASHBOARD, TEXT, Rude, company, frame, held, path_of, request
from tests.faults.rig.scale import number
from tests.faults.rig.telling import TELLING, tasks
from tests.support.live import USER, Live, live_hub, token

MIB = 1 << 20
WIRES = pytest.mark.parametrize("wire", ["door", "fast", "portable"])


@pytest.fixture(autouse=True)
def rude_company():
    """See `company`."""
    with company():
        yield


# --- row 33


async def visit(hub: Hub, job: str, rng: random.Random) -> None:
    """Join in a random way, stay for a moment or less, and leave in a random way."""
    kind = rng.choice(["sse", "sse", "websocket", "websocket", "dashboard", "page"])
    rude = await Rude(hub.port).connect()
    with contextlib.suppress(ConnectionError, AssertionError):
        if kind == "page":
            await rude.send(request(f"/api/jobs/{job}/events?wait=30&after=9-9"))
        else:
            await rude.send(request(DASHBOARD if kind == "dashboard" else path_of(job, kind)))
        answered = rng.random() < 0.5 and kind != "page"
        if answered:
            await rude.read_until(b"\r\n\r\n")
            if kind == "dashboard":
                await rude.send(frame(TEXT, json.dumps({"op": "subscribe", "job": job}).encode()))
        if rng.random() < 0.5:
            await asyncio.sleep(rng.random() * 0.01)
        if answered and rng.random() < 0.5 and kind != "sse":
            await rude.send(frame(CLOSE, b"\x03\xe8"))
            await rude.read_to_end()
    if rng.random() < 0.5:
        rude.reset()
    else:
        rude.close()


async def many_visits(hub: Hub, jobs: list[str], count: int, rng: random.Random) -> None:
    """Let `count` visitors come and go, fifty at a time."""
    left = itertools.count()

    async def visitor() -> None:
        while next(left) < count:
            await visit(hub, rng.choice(jobs), rng)

    await asyncio.gather(*(visitor() for _ in range(50)))


async def emptied(hub: Hub) -> None:
    """Wait until neither the hub nor the kernel has a visitor left."""
    await until(lambda: hub.metric("viewers") == 0 and hub.metric("jobs") == 0, "nobody is left", timeout=45)
    await until(lambda: held(hub.port) == 0, "no socket is left")


@WIRES
async def test_a_hundred_thousand_joins_and_leaves_leave_nothing_behind(start_redis, start_hub, wire):
    """Tasks, files, subscriptions and memory are as before. (A few thousand joins in the usual run.)"""
    redis = start_redis()
    more = {"telling_portable": 1} if wire == "portable" else {}
    hub = start_hub(redis.url, program=TELLING, linger=0.1, send_timeout=2, window_events=50, **more)
    rng = random.Random(33)
    count = number(2000, 100_000)
    async with Worker(
        redis.url, kept=50
    ) as worker:  # else the number of events to remember would grow, and memory with it
        jobs = [await worker.job(f"j{place}") for place in range(20)]
        names = [job.job for job in jobs]
        for job in jobs[:3]:
            await worker.end(job)  # a visitor is told that the job has ended
        working = asyncio.create_task(work(worker, jobs[3:]))
        try:
            await many_visits(hub, [*names, "nobody's"], 1000, rng)
            await emptied(hub)
            base = hub.memory, await tasks(hub), hub.files
            await many_visits(hub, [*names, "nobody's"], count, rng)
            await emptied(hub)
        finally:
            worker.over = True
            await asyncio.wait([working])
    memory, files = hub.memory, hub.files
    note(f"{count:,} visits, {wire}: memory {base[0] / MIB:.1f} -> {memory / MIB:.1f} MiB")
    async with asyncio.timeout(10):
        while await tasks(hub) > base[1]:
            await asyncio.sleep(0.05)  # a command to Redis is a task, too
    assert files <= base[2] + 50, "the hub's connections to Redis are at most fifty"
    assert redis.command_now("PUBSUB", "CHANNELS") == [b"push-hub:control"]
    # Requests of uvicorn's own protocols are freed by the garbage collector, which takes long.
    most = 40 * MIB if wire == "portable" else 10 * MIB
    assert memory - base[0] < most, f"{(memory - base[0]) / count:.0f} bytes a visit"


async def work(worker: Worker, jobs: list[Published]) -> None:
    """Keeps publishing in all jobs."""
    for n in itertools.count():
        for job in jobs:
            if worker.over:
                return
            await worker.emit(job, n=n)
        await asyncio.sleep(0.02)


# --- row 34


class Server:
    """The ASGI side below an application: sends one request and keeps the answer."""

    def __init__(self, path: str, words: str = "") -> None:
        is_websocket = path.endswith("/ws")
        path, _, query = path.partition("?")
        self.answered = ""
        self.scope = {
            "type": "websocket" if is_websocket else "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(b"host", b"hub"), (b"authorization", f"Bearer {token()}".encode())],
            "subprotocols": [],
            "extensions": {},
            "state": {},
        }
        self._requests = [{"type": "websocket.connect"} if is_websocket else {"type": "http.request"}]
        if words:
            self._requests.append({"type": "websocket.receive", "text": words})

    async def receive(self) -> dict:
        if not self._requests:
            await asyncio.Event().wait()
        return self._requests.pop(0)

    async def send(self, message: dict) -> None:
        await asyncio.sleep(0)
        self.answered += message.get("text") or message.get("body", b"").decode()

    def start(self, live: Live) -> asyncio.Task[None]:
        return asyncio.create_task(live.app(self.scope, self.receive, self.send))


REQUESTS: dict[str, Callable[[str], Server]] = {
    "sse": lambda job: Server(path_of(job, "sse")),
    "websocket": lambda job: Server(path_of(job, "websocket")),
    "dashboard": lambda job: Server(DASHBOARD, json.dumps({"op": "subscribe", "job": job})),
    "page": lambda job: Server(f"/api/jobs/{job}/events?wait=30&after=9-9"),
}


@contextlib.asynccontextmanager
async def somebody_else(live: Live, job: str) -> AsyncIterator[None]:
    """A viewer that joins at the same time, and must get the events published after the block."""
    stays = Server(path_of(job, "sse"))
    staying = stays.start(live)
    yield
    await live.until(lambda: "id: " in stays.answered)
    await live.publisher.emit(job, "step")
    await live.until(lambda: "step" in stays.answered)
    staying.cancel()
    await asyncio.wait([staying])


TURNS = 200
"""Of the loop, in each of which a visitor is cancelled once; most of them wait for Redis. A last one is let
in whole.
"""


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "in company"])
async def test_who_is_cancelled_at_any_await_leaves_nothing_behind(real_redis, kind, alone):
    """Nor does it disturb another that asks for the same job. Each is cancelled one turn later."""
    async with live_hub(real_redis, linger=0) as live:
        await live.until(lambda: live.hub.broker.subscriber.connected)
        before = asyncio.all_tasks()
        for turn in range(TURNS + 1):
            job = f"{kind}-{turn}"
            await live.jobs.create_job(job, user_id=USER)
            visitor = REQUESTS[kind](job).start(live)
            async with contextlib.nullcontext() if alone else somebody_else(live, job):
                if turn < TURNS:
                    for _ in range(turn):
                        await asyncio.sleep(0)
                else:
                    await live.until(lambda: live.hub.statistics().viewers == (1 if alone else 2))
                visitor.cancel()
                await asyncio.wait([visitor])
        await live.until(lambda: not live.hub.statistics().jobs)
        assert live.hub.statistics().viewers == 0
        # `before` may have had a command to Redis under way, which is a task in redis-py
        await live.until(lambda: asyncio.all_tasks() <= before)
        assert await real_redis.pubsub_channels() == [b"push-hub:control"]
        assert live.hub.statistics().redis_reconnects == 0
