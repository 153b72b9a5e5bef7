"""A real nginx or HAProxy between viewers and hubs, in place of any load balancer (row 35)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.faults.rig import haproxy
from tests.faults.rig.dashboard import DashboardWatcher
from tests.faults.rig.haproxy import Haproxy
from tests.faults.rig.nginx import BINARY, Nginx
from tests.faults.rig.process import until
from tests.faults.rig.producer import Worker
from tests.faults.rig.scale import LONG, number, seconds
from tests.faults.rig.traffic import saw_everything, traffic
from tests.faults.rig.watcher import Crowd
from tests.support.live import token

READ_TIMEOUT = 2
"""Seconds of silence after which nginx closes; a hub here beats twice a second, as one does every 15 s behind
60.
"""

pytestmark = pytest.mark.skipif(not Path(BINARY).exists(), reason="there is no nginx")


@pytest.fixture(params=[Nginx, Haproxy])
def start_proxy(request, processes):
    """Start a proxy in front of hubs."""
    if request.param is Haproxy and not Path(haproxy.BINARY).exists():
        pytest.skip("there is no haproxy")

    def start(*hubs) -> Nginx | Haproxy:
        proxy = request.param(*hubs, read_timeout=READ_TIMEOUT)
        processes.append(proxy)
        return proxy

    return start


@pytest.fixture
def start_nginx(processes):
    """Start an nginx in front of hubs."""

    def start(*hubs) -> Nginx:
        nginx = Nginx(*hubs, read_timeout=READ_TIMEOUT)
        processes.append(nginx)
        return nginx

    return start


async def test_the_first_bytes_and_each_event_pass_at_once(start_redis, start_hub, start_proxy):
    """It buffers nothing: the head and the position come before any event, then one event at a time."""
    redis = start_redis()
    proxy = start_proxy(start_hub(redis.url))
    async with Worker(redis.url) as worker, asyncio.timeout(20):
        job = await worker.job("job")
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        request = (
            f"GET /api/jobs/job/events/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token()}\r\n\r\n"
        )
        writer.write(request.encode())
        await reader.readuntil(b"\r\n\r\n")
        assert (await reader.readuntil(b"\n\n")).count(b"retry: ") == 1
        for n in range(20):
            event_id = await worker.emit(job, n=n)  # the next one is published only when this one is here
            assert f"id: {event_id}".encode() in await reader.readuntil(b"\n\n")
        writer.transport.abort()


@pytest.mark.parametrize("portable", [False, *[True] * LONG])
async def test_silent_streams_outlive_the_proxys_patience(start_redis, start_hub, start_proxy, portable):
    """Nothing is published for longer than it waits: heartbeats keep each stream on one connection."""
    redis = start_redis()
    proxy = start_proxy(start_hub(redis.url, heartbeat=0.5, portable=portable))
    crowd = Crowd()
    async with Worker(redis.url) as worker:
        job = await worker.job("job")
        crowd.add(lambda: proxy.url, job, each=5)
        dashboard = DashboardWatcher(lambda: proxy.url, [job])
        await crowd.wait_connected()
        beats = number(5, 60)  # longer than that, or fifteen times as long
        await until(
            lambda: min(one.verdict.heartbeats for one in crowd.watchers) >= beats,
            "as many heartbeats as the silence is long",
            timeout=beats * 0.6 * 1.5 + 1,
        )
        await worker.end(job)
        saw_everything(await crowd.finish(10))
        await dashboard.finish(10)
    assert {watcher.verdict.connections for watcher in crowd.watchers} == {1}
    assert not dashboard.closes or dashboard.closes == [1000]


async def test_a_rolling_deploy_behind_the_proxy_is_not_seen_by_viewers(start_redis, start_hub, start_nginx):
    """Two hubs behind one address restart in turn: nginx uses the other one, and no event is lost."""
    window = seconds(1, 20)
    redis = start_redis()
    hubs = [start_hub(redis.url, drain=window, heartbeat=0.5) for _ in range(2)]
    nginx = start_nginx(*hubs)
    crowd = Crowd()
    async with Worker(redis.url) as worker:
        jobs = [await worker.job(f"job-{n}") for n in range(4)]
        for job in jobs:
            crowd.add(lambda: nginx.url, job, each=number(10, 100))
        dashboard = DashboardWatcher(lambda: nginx.url, jobs)
        await crowd.wait_connected()
        async with traffic(worker, jobs, rate=30):
            for hub in hubs:
                hub.terminate()
                assert await hub.wait(window + 3) == 0
                await asyncio.to_thread(hub.start)
        saw_everything(await crowd.finish(20))
        await dashboard.finish(20)
    assert all(set(watcher.statuses) <= {204} for watcher in crowd.watchers), "an EventSource would give up"
    assert sum(len(watcher.told) for watcher in crowd.watchers) >= len(crowd.watchers) / 2


async def test_the_death_of_a_hub_behind_the_proxy_is_survived(start_redis, start_hub, start_nginx):
    """After kill -9 its viewers reconnect to the same address, and the other hub serves them."""
    redis = start_redis()
    hubs = [start_hub(redis.url, heartbeat=0.5) for _ in range(2)]
    nginx = start_nginx(*hubs)
    crowd = Crowd()
    async with Worker(redis.url) as worker:
        jobs = [await worker.job(f"job-{n}") for n in range(2)]
        for job in jobs:
            crowd.add(lambda: nginx.url, job, each=10)
        await crowd.wait_connected()
        async with traffic(worker, jobs, rate=50):
            await until(lambda: crowd.deliveries > 500, "everybody is served")
            hubs[0].kill()
            await until(lambda: hubs[1].metric("viewers") == len(crowd.watchers), "all are at the other")
        saw_everything(await crowd.finish(20))
