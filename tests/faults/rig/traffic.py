"""Jobs that publish while something goes wrong, and end afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from tests.faults.rig.judge import Published, Verdict
from tests.faults.rig.producer import Worker


@asynccontextmanager
async def traffic(worker: Worker, jobs: Sequence[Published], *, rate: float) -> AsyncIterator[None]:
    """Each job publishes about `rate` events per second during the block, and ends after it."""
    over = asyncio.Event()

    async def produce(job: Published) -> None:
        n = 0
        while not over.is_set():
            await worker.emit(job, n=n)
            n += 1
            await asyncio.sleep(1 / rate)
        await worker.end(job)

    producing = [asyncio.create_task(produce(job)) for job in jobs]
    try:
        yield
    finally:
        over.set()
        await asyncio.gather(*producing)


def saw_everything(verdicts: Sequence[Verdict]) -> None:
    """Fails if a viewer has missed an acknowledged event of its job."""
    for verdict in verdicts:
        assert verdict.deliveries == len(verdict.published.acknowledged), verdict.name
