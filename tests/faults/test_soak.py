"""Very many events, and random faults: seeded, limited in time, every job judged (tests/faults/run)."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from itertools import count

import pytest

from hub.errors import BrokerUnavailable
from tests.faults.rig.burst import burst
from tests.faults.rig.judge import Published
from tests.faults.rig.process import Hub, RedisProcess, until
from tests.faults.rig.producer import Worker
from tests.faults.rig.report import note
from tests.faults.rig.scale import number, seconds
from tests.faults.rig.traffic import saw_everything
from tests.faults.rig.turns import at_random
from tests.faults.rig.watcher import Crowd, Watcher

SEED = int(os.environ.get("PUSH_HUB_FAULTS_SEED", "1"))

MINUTES = float(os.environ.get("PUSH_HUB_FAULTS_MINUTES", "10"))

LOT = 100
"""Events of one burst."""

SLOTS = 6
"""Jobs at a time. When one ends, another begins."""


@pytest.mark.parametrize(("portable", "lots"), [(False, 12), (True, 2)], ids=["fast", "portable"])
async def test_a_million_deliveries_are_complete_in_order_and_once(start_redis, start_hub, portable, lots):
    """Twenty jobs with forty viewers each, events in bursts, and no viewer gets a notice."""
    redis = start_redis()
    hub = start_hub(redis.url, log_level="warning", portable=portable)
    crowd = Crowd()
    async with Worker(redis.url) as worker:
        jobs = [await worker.job(f"job-{n}") for n in range(20)]
        for job in jobs:
            watch(crowd, hub, job)
        await crowd.wait_connected()
        for lot in range(number(lots, 10 * lots)):
            await asyncio.gather(*(burst(worker, job, LOT, start=lot * LOT) for job in jobs))
            due = (lot + 1) * LOT * len(crowd.watchers)
            await until(lambda due=due: crowd.deliveries >= due, "everybody has this lot", timeout=30)
        for job in jobs:
            await worker.end(job)
        saw_everything(await crowd.finish(30))
    assert hub.metric("gaps_total") == hub.metric("resyncs_total") == hub.metric("lagged_total") == 0


def watch(crowd: Crowd, hub: Hub, job: Published) -> None:
    """Most of them over SSE, whose client costs less here."""
    for transport, viewers in (("sse", 32), ("websocket", 8)):
        for n in range(viewers):
            name = f"{transport} viewer {n} of {job.job}"
            crowd.watchers.append(Watcher(lambda: hub.url, job, transport, name=name).start())


class Soak:
    """Jobs that begin and end again and again, and faults of Redis, of hubs and of viewers, each in a loop of
    its own.
    """

    def __init__(self, redis: RedisProcess, hubs: list[Hub], worker: Worker) -> None:
        self.redis = redis
        self.hubs = hubs
        self.worker = worker
        self.over = asyncio.Event()
        self.faults: Counter[str] = Counter()
        self.crowds: dict[str, Crowd] = {}  # of the jobs that publish now
        self.jobs = self.viewers = self.deliveries = self.connections = 0
        self._names = count()

    async def run(self, duration: float) -> None:
        """Run all loops for the given seconds, and until the last job has ended."""
        async with asyncio.TaskGroup() as group:
            for slot in range(SLOTS):
                group.create_task(self._live(random.Random(f"{SEED} jobs {slot}")))
            loops = {"redis": self._hurt_redis, "hub": self._hurt_hub, "viewers": self._hurt_viewers}
            for name, hurt in loops.items():
                group.create_task(self._repeat(hurt, random.Random(f"{SEED} {name}")))
            await asyncio.sleep(duration)
            self.over.set()

    # --- jobs

    async def _live(self, rng: random.Random) -> None:
        while not self.over.is_set():
            job = await self._begin()
            crowd = self.crowds[job.job] = Crowd()
            crowd.add(at_random(self.hubs, rng), job, each=rng.randint(3, 12))
            await self._produce(job, rng)
            await self.worker.end(job)
            del self.crowds[job.job]  # from now on its viewers are not moved
            saw_everything(await crowd.finish(60))
            self._add_up(crowd)

    async def _begin(self) -> Published:
        while True:
            try:
                return await self.worker.job(f"job-{next(self._names)}")
            except BrokerUnavailable:
                await asyncio.sleep(0.1)

    async def _produce(self, job: Published, rng: random.Random) -> None:
        for n in range(rng.randint(50, 400)):
            await self.worker.emit(job, n=n, fill="x" * rng.choice((0, 0, 0, 100, 5000)))
            if rng.random() < 0.3:
                await asyncio.sleep(rng.uniform(0, 0.04))

    def _add_up(self, crowd: Crowd) -> None:
        self.jobs += 1
        self.viewers += len(crowd.watchers)
        self.deliveries += crowd.deliveries
        self.connections += sum(watcher.verdict.connections for watcher in crowd.watchers)
        for watcher in crowd.watchers:
            assert set(watcher.statuses) <= {204}, f"an EventSource would give up at {watcher.statuses}"

    # --- faults

    async def _repeat(self, hurt, rng: random.Random) -> None:
        while not self.over.is_set():
            await asyncio.sleep(rng.uniform(0.2, 1.5))
            self.faults[await hurt(rng)] += 1

    async def _hurt_redis(self, rng: random.Random) -> str:
        what = rng.choice(("pubsub cut", "pubsub cut", "Redis frozen", "Redis killed and restarted"))
        if what == "pubsub cut":
            await asyncio.to_thread(self.redis.command_now, "CLIENT", "KILL", "TYPE", "pubsub")
        elif what == "Redis frozen":
            await frozen(self.redis, rng)
        else:
            self.redis.kill()
            await asyncio.sleep(rng.uniform(0, 1))
            await asyncio.to_thread(self.redis.start)
        return what

    async def _hurt_hub(self, rng: random.Random) -> str:
        what = rng.choice(("hub terminated", "hub killed", "hub frozen"))
        hub = rng.choice(self.hubs)
        if what == "hub frozen":
            await frozen(hub, rng)
            return what
        if what == "hub terminated":
            hub.terminate()
            assert await hub.wait(15) == 0
        else:
            hub.kill()
        await asyncio.to_thread(hub.start)
        return what

    async def _hurt_viewers(self, rng: random.Random) -> str:
        for crowd in list(self.crowds.values()):
            for watcher in rng.sample(crowd.watchers, len(crowd.watchers) // 3):
                if watcher.task is not None and not watcher.task.done():
                    await watcher.stop()
                    watcher.start()
        return "a third of the viewers leaves and comes back"


async def frozen(process, rng: random.Random) -> None:
    """For a moment, in the long set sometimes for longer than a hub waits for Redis."""
    process.freeze()
    try:
        await asyncio.sleep(rng.choice((rng.uniform(0.1, 1), rng.uniform(1, seconds(2, 15)))))
    finally:
        process.thaw()


async def test_whatever_goes_wrong_at_random_every_job_is_seen_whole(start_redis, start_hub):
    """Redis, hubs and viewers fail at the same time: every viewer gets its whole job, and nothing is left."""
    redis = start_redis(durable=True)
    more = {"drain": 1, "heartbeat": 1, "position_check": 2, "linger": 1, "stream_age": 20}
    hubs = [start_hub(redis.url, portable=portable, **more) for portable in (False, True)]
    async with Worker(redis.url) as worker:
        soak = Soak(redis, hubs, worker)
        await soak.run(seconds(9, MINUTES * 60))
    for hub in hubs:
        for gauge in ("viewers", "jobs", "inbox", "window_bytes"):
            await until(lambda hub=hub, gauge=gauge: hub.metric(gauge) == 0, f"no {gauge} are left")
    await until(
        lambda: redis.command_now("PUBSUB", "CHANNELS") == [b"push-hub:control"], "no subscription is left"
    )
    faults = ", ".join(f"{times} x {what}" for what, times in sorted(soak.faults.items()))
    note(
        f"soak with seed {SEED}: {soak.jobs} jobs, {soak.viewers} viewers on {soak.connections} connections, "
        f"{soak.deliveries:,} deliveries judged; {faults}"
    )
