"""docker-compose.yml without an engine: its Redis really runs, with its users; its limits are there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError

from hub import JobStateMachine, Publisher
from hub.demo.embedded import find_binary
from hub.serve.server import listen
from tests.support.live import live_hub

COMPOSE = Path(__file__).parents[2] / "docker-compose.yml"


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
