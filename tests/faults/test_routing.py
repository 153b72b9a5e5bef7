"""Proxies that route by job, as docs/scaling.md says, in front of several hubs; on a single Redis and on a cluster."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from tests.faults.rig import haproxy, nginx
from tests.faults.rig.cluster import ClusterProcesses
from tests.faults.rig.haproxy import RoutingHaproxy
from tests.faults.rig.nginx import RoutingNginx
from tests.faults.rig.process import Hub, until
from tests.faults.rig.scene import Scene, connected, watched
from tests.support.browser import ROOT

JOBS = 8

pytestmark = [
    pytest.mark.skipif(not Path(haproxy.BINARY).exists(), reason="there is no haproxy"),
    pytest.mark.skipif(not Path(nginx.BINARY).exists(), reason="there is no nginx"),
]


def watching(server, job: str) -> int:
    """How many hubs watch a job."""
    return int(server.command_now("PUBSUB", "NUMSUB", f"job:{job}:events")[1])


@pytest.mark.parametrize(("proxy", "most"), [(RoutingHaproxy, 1.7), (RoutingNginx, 1.0)])
async def test_all_viewers_of_a_job_are_at_one_hub(start_redis, start_hub, processes, proxy, most):
    """On both transports, whatever the query; jobs are spread over the hubs. What is published comes once.

    HAProxy sends some elsewhere, because it bounds the share of a hub. Chance would give 2.4 hubs for each job.
    """
    server = start_redis()
    hubs = [start_hub(server.url) for _ in range(3)]
    front = proxy(*hubs, read_timeout=30)
    processes.append(front)
    async with watched(front, server.url, jobs=24, each=2) as scene:
        await scene.publish(5)
        await scene.caught_up()
        assert sum(watching(server, job.job) for job in scene.jobs) <= most * len(scene.jobs)
        assert all(hub.metric("viewers") for hub in hubs), "no hub is left out"
        await scene.end()
        for verdict in await scene.crowd.finish(10):
            assert verdict.deliveries == 6


async def test_a_hot_job_is_not_pinned(start_redis, start_hub, processes):
    """HAProxy sends what is more than one and a half shares to other hubs."""
    server = start_redis()
    hubs = [start_hub(server.url) for _ in range(3)]
    front = RoutingHaproxy(*hubs, read_timeout=30)
    processes.append(front)
    async with watched(front, server.url, jobs=1, each=30) as scene:
        await scene.publish(5)
        await scene.caught_up()
        assert max(hub.metric("viewers") for hub in hubs) <= 60 / 3 * 1.5 + 3
        await scene.end()
        await scene.crowd.finish(10)


def test_the_configuration_of_envoy_has_its_form():
    """Envoy is not run here. The expression is: it takes the job out of each path of ours."""
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/scaling.md").read_text(), re.DOTALL)
    found = re.search(r'regex: "(.+)"', text)
    assert found is not None
    for path in ("/api/jobs/a-1/events/stream", "/api/jobs/a-1/events/ws?last_event_id=1-2", "/api/jobs/a-1"):
        assert re.sub(found[1], r"\1", path) == "a-1"
    assert "RING_HASH" in text
    assert "hash_balance_factor: 150" in text


async def test_hubs_of_a_cluster_die_come_and_are_rolled(start_hub, processes):
    """Three of them behind HAProxy, under load: cursors are good at every hub, and the viewers are counted."""
    cluster = await asyncio.to_thread(ClusterProcesses, processes)
    settings = {"drain": 1, "position_check": 2}
    hubs = [await asyncio.to_thread(start_hub, cluster.url, **settings) for _ in range(3)]
    spare = await asyncio.to_thread(start_hub, cluster.url, **settings)
    spare.terminate()
    await spare.wait(10)
    front = RoutingHaproxy(*hubs, spare, read_timeout=30)
    processes.append(front)
    for hub in hubs:
        await connected(hub, timeout=5)
    await until(lambda: _answers(front), "the proxy has hubs")
    transports = ("sse", "websocket", "dashboard")
    async with watched(front, cluster.url, jobs=JOBS, transports=transports) as scene:
        over = asyncio.Event()
        publishing = [asyncio.create_task(_publish_until(over, scene, n)) for n in range(JOBS)]
        hubs[0].kill()
        await asyncio.sleep(1)
        await asyncio.to_thread(spare.start)
        await asyncio.to_thread(hubs[0].start)
        for hub in hubs:
            hub.terminate()
            await hub.wait(10)
            await asyncio.to_thread(hub.start)
            await connected(hub, timeout=5)
        over.set()
        await asyncio.gather(*publishing)
        await scene.caught_up()
        counts = await until(lambda: _all_counted(hubs[1], scene), "the viewers are counted", timeout=35)
        print(f"the viewers were right after {counts:.1f} s")
        await scene.end()
        for verdict in await scene.crowd.finish(20):
            assert verdict.deliveries == len(verdict.published.acknowledged)
    assert scene.worker.refused == 0


def _answers(front: RoutingHaproxy) -> bool:
    return Hub.get(front, "/api/jobs/none")[0] == 404


def _all_counted(hub: Hub, scene: Scene) -> bool:
    return all(hub.viewers(job.job) == 3 for job in scene.jobs)


async def _publish_until(over: asyncio.Event, scene: Scene, number: int) -> None:
    n = 0
    while not over.is_set():
        await scene.worker.stream(scene.jobs[number], 1, rate=20, start=n)
        n += 1
