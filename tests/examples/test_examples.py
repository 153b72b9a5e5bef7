"""Every example is run for real: the hub inside mount.py, producers as processes, viewers on sockets and in Chromium."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from websockets.asyncio.client import connect

from hub.demo.embedded import EmbeddedServer
from tests.support.browser import ROOT, chromium, opened, running
from tests.support.keys import log_of
from tests.support.live import frames
from tests.support.npm import install
from tests.support.sse import Message, SseViewer

SESSION = {"Cookie": "session=a-session"}


@pytest.fixture
async def application(redis_server: EmbeddedServer, real_redis: Redis) -> AsyncIterator[str]:
    """The URL of mount.py, which runs on an empty Redis."""
    assert await real_redis.dbsize() == 0
    command = ("examples/mount.py", "0")
    async with running(*command, said=r"running on (http://\S+)", REDIS_URL=redis_server.url) as (url, lines):
        yield url
    assert not [line for line in lines if "Traceback" in line], lines


@pytest.fixture
def produce(redis_server: EmbeddedServer):
    """Run a producer from beginning to end: `await produce("worker.py", "a-job")`."""

    async def run(name: str, job: str) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            f"examples/{name}",
            job,
            cwd=ROOT,
            env=os.environ | {"REDIS_URL": redis_server.url},
            stdout=asyncio.subprocess.DEVNULL,
        )
        assert await asyncio.wait_for(process.wait(), 30) == 0

    return run


async def over_sse(url: str, job: str) -> list[Message]:
    """Everything a viewer gets who came as soon as the job was there."""
    while True:
        async with SseViewer(f"{url}/api/jobs/{job}/events/stream", headers=SESSION) as viewer:
            if viewer.status == 200:
                return await viewer.all()
        await asyncio.sleep(0.02)


async def over_websocket(url: str, job: str) -> list[dict]:
    """The same over WebSocket; comes at the end, so what it gets was retained."""
    address = f"{url.replace('http', 'ws', 1)}/api/jobs/{job}/events/ws"
    async with connect(address, additional_headers=SESSION) as socket:
        return await frames(socket)


def outline(events: list[dict]) -> list[tuple[str, str | None]]:
    """Type and status, which is enough to recognise an example."""
    return [(event["type"], event.get("status")) for event in events]


async def test_a_stranger_is_told_nothing(application, produce):
    """mount.py's own `require_auth` decides: without its session a job is not found, whether it exists or not."""
    await produce("worker_sync.py", "there")
    answers = []
    for job in ("there", "nowhere"):
        async with SseViewer(f"{application}/api/jobs/{job}/events/stream") as viewer:
            answers.append((viewer.status, await viewer.body()))
    assert answers == [(404, b'{"detail":"Job not found"}')] * 2


async def test_worker(application, produce):
    """worker.py: its events come live over SSE, and the same ones afterwards over WebSocket."""
    messages, _ = await asyncio.gather(over_sse(application, "a"), produce("worker.py", "a"))
    stages = [
        (f"build.stage.{word}", stage if word == "started" else None)
        for stage in ("scaffold", "code", "deps", "checks")
        for word in ("started", "completed")
    ]
    assert outline([message.json for message in messages[:-1]]) == [
        *stages,
        ("snapshot.updated", None),
        ("documentation.updated", None),
        ("build.stage.started", "ready"),
    ]
    assert (messages[-1].event, messages[-1].json) == ("end", {"status": "ready"})
    later = await over_websocket(application, "a")
    assert later[:-1] == [{"id": message.id, **message.json} for message in messages[:-1]]
    assert later[-1] == {"type": "end", "status": "ready"}


async def test_worker_sync(application, produce):
    """worker_sync.py: typed events, one of its own, and an end that is not a happy one."""
    messages, _ = await asyncio.gather(over_sse(application, "b"), produce("worker_sync.py", "b"))
    assert outline([message.json for message in messages[:-1]]) == [
        ("build.stage.started", "code"),
        ("build.stage.completed", None),
        ("tests.counted", None),
        ("build.stage.started", "failed"),
    ]
    assert messages[-1].json == {"status": "failed"}


async def test_raw_publish(application, produce):
    """raw_publish.py: a producer that knows nothing of us is heard live, in order, and ends the job."""
    messages, _ = await asyncio.gather(over_sse(application, "c"), produce("raw_publish.py", "c"))
    assert [message.json["status"] for message in messages] == [
        "scaffold",
        "code",
        "checks",
        "ready",
        "ready",
    ]
    assert messages[-1].event == "end"


@pytest.mark.parametrize(
    ("path", "final"), [("/", "end: "), ("/ws", "closed: the job has ended"), ("/page", "end: ready")]
)
async def test_pages(application, produce, real_redis, path, final):
    """sse.html, websocket.html and page.html show every event of worker.py, once, and then the end."""
    async with chromium() as browser:
        working = asyncio.create_task(produce("worker.py", "d"))
        while not await real_redis.exists("job:d"):
            await asyncio.sleep(0.02)
        async with opened(browser, f"{application}{path}?job=d") as page:
            await page.wait_for_function(
                "(final) => document.getElementById('out').textContent.includes(final)", arg=final
            )
            shown = await page.inner_text("#out")
        await working
    kept = [fields[b"data"].decode() for _, fields in await real_redis.xrange(log_of("d"))]
    assert len(kept) == 11
    if path == "/page":  # whose events were parsed
        lines = [line.partition(" ")[2] for line in shown.splitlines() if line[:1].isdigit()]
        assert [json.loads(line) | {"id": 0} for line in lines] == [
            json.loads(body) | {"id": 0} for body in kept
        ]
        return
    places = [shown.index(body.removeprefix("{")) for body in kept]
    assert places == sorted(places)
    assert [shown.count(body.removeprefix("{")) for body in kept] == [1] * 11


@pytest.fixture(scope="module")
def npm(tmp_path_factory) -> Path:
    """A directory with what the examples import from npm, and the worker in Node."""
    place = install(tmp_path_factory.mktemp("npm"), "redis@5", "htmx.org@2")
    shutil.copy(ROOT / "examples/node_worker.mjs", place)
    return place


@pytest.mark.alone
async def test_a_worker_in_node_is_seen_by_htmx(application, redis_server, npm):
    """node_worker.mjs publishes by a bare PUBLISH; the page of htmx.html shows what the server makes of it, to the end."""
    async with chromium() as browser:
        session = await browser.new_context()
        page = await session.new_page()
        script = npm / "node_modules/htmx.org/dist/htmx.min.js"
        await page.route("https://cdn.jsdelivr.net/**", lambda route: route.fulfill(path=script))
        worker = await asyncio.create_subprocess_exec(
            "node", "node_worker.mjs", "n", cwd=npm, env=os.environ | {"REDIS_URL": redis_server.url}
        )
        await until_there(redis_server, "job:n")
        await page.goto(f"{application}/htmx?job=n")
        for status in ("code", "deps", "ready"):
            await page.get_by_role("heading", name=f"n: {status}").wait_for()
        assert await asyncio.wait_for(worker.wait(), 10) == 0
        await page.goto(f"{application}/htmx?job=nowhere")
        await page.get_by_text("no such job").wait_for()


async def until_there(server: EmbeddedServer, key: str) -> None:
    async with Redis.from_url(server.url) as client, asyncio.timeout(10):
        while not await client.exists(key):
            await asyncio.sleep(0.02)
