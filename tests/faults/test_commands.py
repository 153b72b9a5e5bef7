"""Commands while workers are killed: each that was accepted is handled, in order, by a worker of its job."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from hub import watch
from tests.faults.rig.scale import number
from tests.support import producers
from tests.support.live import Live, live_hub, token

OBEDIENT = Path(__file__).parent / "rig" / "obedient.py"


@asynccontextmanager
async def killed_now_and_then(
    url: str, job: str, blocking: bool, chance: random.Random
) -> AsyncIterator[list]:
    """A worker that is killed at random and begun again; the kills so far."""
    kills: list[int] = []

    async def live_and_die() -> None:
        while True:
            more = ["blocking"] if blocking else []
            worker = subprocess.Popen([sys.executable, str(OBEDIENT), url, job, *more])
            try:
                await asyncio.sleep(0.8 + chance.uniform(0, 1))
            finally:
                worker.send_signal(signal.SIGKILL)
                worker.wait()
            kills.append(worker.pid)

    task = asyncio.create_task(live_and_die())
    yield kills
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def give(client: httpx.AsyncClient, live: Live, job: str, n: int) -> str:
    """Give command `n` until it is accepted; nobody may listen, or a hundred wait."""
    key = f"{job}-{n}"
    while True:
        got = await client.post(
            f"{live.url}/api/jobs/{job}/commands",
            json={"name": "step", "args": {"n": n, "job": job}},
            headers={"Idempotency-Key": key},
        )
        if got.status_code == 202:
            return got.json()["command"]
        assert got.status_code in (409, 429), got.text
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("blocking", [False, True], ids=["async", "blocking"])
async def test_no_command_is_lost_while_workers_are_killed(real_redis, redis_server, blocking):
    chance, many, jobs = random.Random(7), number(300, 3334), 3
    async with live_hub(real_redis, commands="step", max_commands=100_000) as live:
        names = [await producers.job(live, events=1) for _ in range(jobs)]

        async def viewer(job: str) -> list[dict]:
            seen: list[dict] = []
            async for frame in watch(live.url, job, token()):
                assert frame["type"] not in ("gap", "resync"), frame
                seen += [frame] * (frame["type"] == "command.done")
                if len(seen) == many:
                    return seen
            return seen

        async def giver(job: str) -> list[str]:
            async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token()}"}) as client:
                return [await give(client, live, job, n) for n in range(many)]

        async def one(job: str) -> tuple[list[str], list[dict], int]:
            async with killed_now_and_then(redis_server.url, job, blocking, chance) as kills:
                async with asyncio.timeout(number(120, 1200)):
                    given, seen = await asyncio.gather(giver(job), viewer(job))
                    while await live.client.xlen(f"push-hub:{{job:{job}}}:commands"):
                        await asyncio.sleep(0.05)  # the last one is handled when the next is asked for
            return given, seen, len(kills)

        told = await asyncio.gather(*map(one, names))
        for job, (given, seen, kills) in zip(names, told, strict=True):
            assert kills > 0
            assert [frame["command"] for frame in seen] == given, "each once, in the order of giving"
            assert [frame["n"] for frame in seen] == list(range(many))
            assert {frame["job"] for frame in seen} == {job}
