"""docker-compose.yml without an engine: its Redis really runs, with its users; its limits are there."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess

import pytest
import yaml
from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import AuthenticationError, NoPermissionError

from hub import JobStateMachine, Publisher
from hub.demo.embedded import find_binary
from hub.serve.server import listen
from tests.faults.rig import netns
from tests.support.browser import ROOT
from tests.support.composed import Composed
from tests.support.live import SECRET, live_hub

COMPOSE = ROOT / "docker-compose.yml"


@pytest.fixture
def services() -> dict:
    """The services of the file."""
    return yaml.safe_load(COMPOSE.read_text())["services"]


@pytest.fixture
async def redis_port(services, tmp_path):
    """The port of the file's Redis."""
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    script = services["redis"]["command"][0].replace("$$", "$").replace("redis-server", find_binary())
    process = subprocess.Popen(
        [*services["redis"]["entrypoint"], script.replace('save ""', f'save ""\nport {port}')],
        env={**os.environ, "REDIS_PASSWORD": "a-password"},
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
    )
    async with Redis(port=port, username="health", password="a-password") as client:
        for _ in range(200):
            try:
                await client.ping()
                break
            except OSError:
                subprocess.run(["sleep", "0.05"], check=True)
        yield port
    process.kill()
    process.wait()


async def test_its_redis_lets_the_hub_and_the_worker_do_their_work_and_nobody_else(redis_port):
    def url(user: str) -> str:
        return f"redis://{user}:a-password@127.0.0.1:{redis_port}/0"

    async with Redis.from_url(url("worker")) as worker, Redis.from_url(url("hub")) as client:
        await JobStateMachine(worker).create_job("a", user_id="ada")
        async with live_hub(client, redis_url=url("hub")) as live, live.sse("a") as viewer:
            async with Publisher.from_url(url("worker"), strict=True) as publisher, publisher.lease("a"):
                await publisher.ready("a")
            assert [message.event for message in await viewer.all()] == ["message", "end"]
        for command in ("FLUSHALL", "KEYS *", "CONFIG GET *"):
            with pytest.raises(NoPermissionError):
                await worker.execute_command(*command.split())
    async with Redis(port=redis_port) as nobody:
        with pytest.raises(AuthenticationError):
            await nobody.ping()


def test_every_container_is_confined(services):
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


# --- the profile `cluster`

NODES = [f"node{number}" for number in range(1, 7)]


@pytest.fixture
async def cluster():
    """Its services, as processes with an address and a name each."""
    if not netns.available():
        pytest.skip("network namespaces need root and ip(8)")
    secrets = {"REDIS_PASSWORD": "a-password", "HUB_JWT_SECRET": SECRET}
    async with Composed(
        *NODES, "cluster", "hub1", "hub2", "proxy", "cluster-worker", secrets=secrets
    ) as composed:
        await composed.up(*NODES)
        code, said = await composed.run("cluster")
        assert code == 0, said
        await composed.up("hub1", "hub2")
        await composed.up("proxy", "cluster-worker")
        yield composed


async def test_the_profile_cluster_does_what_its_comments_say(cluster):
    """The worker's job is watched through HAProxy; then a primary is killed and a hub stopped under three jobs."""
    assert await cluster.run("cluster") == (0, ""), "it is a cluster already"
    code, token = await cluster.run("hub1", "push-hub", "token", "--user", "ada")
    assert code == 0

    async def watch(job: str) -> str:
        url = "http://proxy:8080"
        words = ("push-hub", "watch", job, "--token", token.strip(), "--url", url, "--json")
        code, said = await cluster.run("hub2", *words)
        assert code == 0, said
        return said

    async with asyncio.timeout(20):
        while not (found := re.search(r"working on (\S+)", cluster.log("cluster-worker"))):
            await asyncio.sleep(0.05)
        assert '"ready"' in await watch(found[1])
    await cluster.kill("cluster-worker")

    jobs = ["a", "b", "d"]  # on each of the shards
    assert len({key_slot(f"job:{job}".encode()) * 3 // 16384 for job in jobs}) == 3
    working = [
        asyncio.create_task(cluster.run("cluster-worker", "python", str(ROOT / "examples/worker.py"), job))
        for job in jobs
    ]
    await asyncio.sleep(1)
    watching = [asyncio.create_task(watch(job)) for job in jobs]
    await asyncio.sleep(1)
    await cluster.kill("node1")
    await cluster.kill("hub1", signal.SIGTERM)
    async with asyncio.timeout(60):
        assert [code for code, _ in await asyncio.gather(*working)] == [0] * 3
        seen = await asyncio.gather(*watching)
    assert [len(_stages(one)) for one in seen] == [9] * 3, "four begun, four completed, and ready"


def _stages(said: str) -> list[str]:
    return re.findall(r'"type": ?"build\.stage\.(?:started|completed)"', said)
