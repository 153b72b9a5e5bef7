"""Several processes on one port: real processes, a real kill -9, and one set of metrics."""

from __future__ import annotations

import asyncio
import os
import re
import signal

import httpx
import psutil

from hub import JobStateMachine, Publisher
from tests.live.test_cli import running, signed
from tests.support.live import operator, token
from tests.support.sse import SseViewer


async def scraped(url: str) -> str:
    """The metrics of all processes; any process answers for all."""
    async with httpx.AsyncClient() as client:
        return (await client.get(f"{url}/metrics", headers=operator())).text


async def metric(url: str, name: str) -> float:
    """One of them."""
    text = await scraped(url)
    found = re.search(rf"^hub_{name} (\S+)$", text, re.MULTILINE)
    assert found is not None, text
    return float(found[1])


async def until(condition) -> None:
    """Return when `await condition()` is true."""
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.05)


async def test_workers_share_the_work_and_one_that_dies_is_replaced(real_redis, redis_server):
    """Viewers of the dead process reconnect, others are unaffected, and no counter falls."""
    job = "workers"
    await JobStateMachine(real_redis).create_job(job, user_id="ada")
    async with running("serve", "--port", "0", "--workers", "3", env=signed(redis_server.url)) as command:
        url = (await command.error_line(r"(http://127\.0\.0\.1:\d+)"))[1]

        async def all_up() -> bool:
            try:
                return await metric(url, "connected") == 3
            except httpx.HTTPError:
                return False

        await until(all_up)
        stream = f"{url}/api/jobs/{job}/events/stream"
        viewers = [SseViewer(stream, token()) for _ in range(24)]
        for viewer in viewers:
            await viewer.__aenter__()

        async def all_seen() -> bool:
            return await metric(url, "viewers") == 24

        await until(all_seen)
        publisher = Publisher(real_redis, strict=True)
        await publisher.stage_started(job, "code")
        for viewer in viewers:
            assert (await viewer.next()).json["stage"] == "code"

        children = psutil.Process(command.process.pid).children()
        assert len(children) == 3
        os.kill(children[0].pid, signal.SIGKILL)
        await until(all_up)
        assert await metric(url, "opened_total") >= 24
        assert (await scraped(url)).count("\nprocess_resident_memory_bytes{worker=") == 3
        await publisher.ready(job)
        ends = 0
        for viewer in viewers:
            try:
                seen = await viewer.all()
            except ConnectionError:
                seen = []
            if not viewer.ended:  # a viewer of the dead process
                async with SseViewer(stream, token(), last_event_id=viewer.last_event_id) as again:
                    seen = await again.all()
            assert [message.event for message in seen] == ["message", "end"]
            ends += 1
            viewer.writer.close()
        assert ends == 24

        command.process.send_signal(signal.SIGTERM)
        code, _ = await command.wait()
        assert code == 0
        assert not [child for child in children if child.is_running() and child.status() != "zombie"]


async def test_workers_end_when_their_parent_is_killed(redis_server):
    """Otherwise they would keep the port for ever, and nothing would replace them."""
    async with running("serve", "--port", "0", "--workers", "2", env=signed(redis_server.url)) as command:
        await command.error_line(r"(http://127\.0\.0\.1:\d+)")

        async def started() -> bool:
            return len(psutil.Process(command.process.pid).children()) == 2

        await until(started)
        children = psutil.Process(command.process.pid).children()
        command.process.kill()

        async def gone() -> bool:
            return not any(child.is_running() and child.status() != "zombie" for child in children)

        await until(gone)
