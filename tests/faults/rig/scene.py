"""The start of most scenarios: a worker, its jobs, and viewers of each job on both transports."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from websockets.asyncio.client import connect

from hub.job.event import EventId
from tests.faults.rig.judge import Published
from tests.faults.rig.process import Hub, until
from tests.faults.rig.producer import Worker
from tests.faults.rig.watcher import BOTH, Crowd, Watcher
from tests.support.live import USER, token
from tests.support.sse import SseViewer
from tests.support.viewer import view


@dataclass
class Scene:
    """A worker, its jobs and their viewers."""

    worker: Worker
    jobs: list[Published]
    crowd: Crowd

    @property
    def job(self) -> Published:
        """The only job."""
        (job,) = self.jobs
        return job

    @property
    def watchers(self) -> list[Watcher]:
        return self.crowd.watchers

    async def publish(self, number: int, *, start: int = 0) -> None:
        """Publish events on each job."""
        for job in self.jobs:
            await self.worker.stream(job, number, rate=5000, start=start)

    async def end(self, status: str = "ready") -> None:
        """Publish the terminal event of each job."""
        for job in self.jobs:
            await self.worker.end(job, status)

    async def caught_up(self, timeout: float = 10) -> float:
        """Wait until every viewer has the last event of its job. Returns the seconds it took."""
        return await until(
            lambda: all(
                watcher.verdict.cursor == last(watcher.verdict.published) for watcher in self.watchers
            ),
            "every viewer has the last event",
            timeout=timeout,
        )

    async def noticed(self, notice: str, timeout: float = 10) -> float:
        """Wait until every viewer has this notice and the state. Returns the seconds it took."""
        return await until(
            lambda: all(
                notice in watcher.verdict.notices and not watcher.verdict._owes_state
                for watcher in self.watchers
            ),
            f"every viewer gets {notice}",
            timeout=timeout,
        )


@asynccontextmanager
async def watched(
    hubs: Hub | list[Hub],
    url: str,
    *,
    jobs: int = 1,
    each: int = 1,
    prefix: str = "job",
    transports: Sequence[str] = BOTH,
    blocking: bool = False,
) -> AsyncIterator[Scene]:
    """Jobs published through `url`, each with `each` viewers per transport, spread over `hubs`."""
    places = hubs if isinstance(hubs, list) else [hubs]
    chance = random.Random(len(places))
    crowd = Crowd()
    async with Worker(url, blocking=blocking) as worker:
        published = [await worker.job(f"{prefix}-{number}") for number in range(jobs)]
        for job in published:
            crowd.add(lambda: chance.choice(places).url, job, each=each, transports=transports)
        try:
            await crowd.wait_connected()
            yield Scene(worker, published, crowd)
        finally:
            await crowd.stop()


class Place:
    """Adapts a hub process to the strict viewers of tests/support/viewer.py: `view(Place(hub), ...)`."""

    def __init__(self, hub: Hub) -> None:
        self.url = hub.url
        self.port = hub.port

    def sse(self, job: str, query: str = "", *, user: str = USER, **more) -> SseViewer:
        """Returns a viewer over SSE."""
        return SseViewer(
            f"{self.url}/api/jobs/{job}/events/stream{query}",
            token(user),
            headers={"Sec-Fetch-Mode": "cors"},
            **more,
        )

    def websocket(self, job: str, query: str = "", *, user: str = USER) -> connect:
        """Returns a viewer over WebSocket."""
        url = f"ws://127.0.0.1:{self.port}/api/jobs/{job}/events/ws{query}"
        headers = {"Authorization": f"Bearer {token(user)}", "Sec-Fetch-Mode": "websocket"}
        return connect(url, additional_headers=headers, max_size=None, close_timeout=1)


def last(published: Published) -> EventId | None:
    """Returns the id that was acknowledged last."""
    return next(reversed(published.acknowledged), None)


async def connected(hub: Hub, *, timeout: float = 3) -> float:
    """Wait until the hub's subscription is up: 2 s after Redis is back are promised. Returns the seconds."""
    return await until(lambda: hub.metric("connected") == 1, "the hub is connected", timeout=timeout)


async def disconnected(hub: Hub, *, timeout: float = 12) -> float:
    """Wait until the hub knows that Redis is away: 8 s are promised for a frozen one."""
    return await until(lambda: hub.metric("connected") == 0, "the hub notices", timeout=timeout)


async def sent_away(hub: Hub, job: str) -> None:
    """A new viewer of `job` is told in time to come back, on both transports; it is not told 404."""

    async def come(transport: str) -> str:
        async with asyncio.timeout(10), view(Place(hub), transport, job) as refused:
            await refused.all()
        return refused.closed

    assert await asyncio.gather(come("sse"), come("websocket")) == ["reconnect", "reconnect"]


async def together(*waiting) -> None:
    """Wait for all. The first that fails cancels the others."""
    async with asyncio.TaskGroup() as group:
        for one in waiting:
            group.create_task(one)


def complaints(said: str) -> Counter[str]:
    """Counts the warnings and errors in a hub's log by cause: the logger and the first words."""
    lines = re.findall(r"^\S+ \S+ (?:WARNING|ERROR|CRITICAL) (\S+ \S+ \S+ \S+ \S+)", said, re.MULTILINE)
    return Counter(re.sub(r"\d+", "N", line) for line in lines)


def at_most_one_a_second(said: str, seconds: float, *, except_for: Iterable[str] = ()) -> None:
    """Fails if one cause has more than about one line per second."""
    for cause, lines in complaints(said).items():
        if not cause.startswith(tuple(except_for)):
            assert lines <= seconds + 2, f"{lines} lines in {seconds:.1f} s: {cause}"
