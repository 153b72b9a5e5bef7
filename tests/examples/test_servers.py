"""A hub inside somebody's application, on the servers that people run FastAPI with.

On each of them both transports deliver, and the server stops while streams are open: the viewers are told to
reconnect, and nothing is written to the log that looks like an error.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis
from websockets.asyncio.client import connect

from hub import JobStateMachine, Publisher
from tests.faults.rig.process import free_port
from tests.support.browser import ROOT
from tests.support.sse import SseViewer
from tests.support.viewer import Sse, Viewer, WebSocket

APP = "tests.examples.team:app"
COMMANDS = {
    "uvicorn": ("uvicorn", APP, "--port", "{port}"),
    "uvicorn-workers": ("uvicorn", APP, "--port", "{port}", "--workers", "2"),
    "uvicorn-reload": ("uvicorn", APP, "--port", "{port}", "--reload", "--reload-dir", "{directory}"),
    "uvicorn-h11": ("uvicorn", APP, "--port", "{port}", "--http", "h11", "--loop", "asyncio"),
    "fastapi": ("fastapi", "run", "tests/examples/team.py", "--port", "{port}"),
    "gunicorn": ("gunicorn", APP, "-k", "uvicorn_worker.UvicornWorker", "-b", "127.0.0.1:{port}", "-w", "2"),
    "hypercorn": ("hypercorn", APP, "-b", "127.0.0.1:{port}"),
    "hypercorn-uvloop": ("hypercorn", APP, "-b", "127.0.0.1:{port}", "-k", "uvloop"),
    "granian": ("granian", "--interface", "asgi", APP, "--port", "{port}"),
    "granian-http2": ("granian", "--interface", "asgi", APP, "--port", "{port}", "--http", "2"),
}
HEADERS = {"X-User": "ada"}
HTTP2_ONLY = ("granian-http2",)
ABRUPT = (
    *((name, transport) for name in ("hypercorn", "hypercorn-uvloop") for transport in ("sse", "websocket")),
    ("granian", "websocket"),
)
"""These cut the connection before the hub can say anything: hypercorn sends its workers no signal, and granian closes
sockets by itself. The viewers resume all the same."""


@dataclass
class Server:
    """A running server with the application."""

    process: asyncio.subprocess.Process
    url: str
    redis: Redis
    directory: Path
    lines: list[str] = field(default_factory=list)

    async def job(self, job: str) -> Publisher:
        await JobStateMachine(self.redis).create_job(job, user_id="ada")
        return Publisher(self.redis)

    def viewer(self, transport: str, job: str) -> Viewer:
        path = f"/push/api/jobs/{job}/events"
        if transport == "sse":
            return Sse(SseViewer(f"{self.url}{path}/stream", headers=HEADERS | {"Sec-Fetch-Mode": "cors"}))
        address = f"{self.url}{path}/ws".replace("http", "ws", 1)
        return WebSocket(connect(address, additional_headers=HEADERS, origin="http://x"))


async def read_lines(stream: asyncio.StreamReader, lines: list[str]) -> None:
    while line := (await stream.readline()).decode():
        lines.append(line.rstrip())


@asynccontextmanager
async def serving(name: str, url: str, redis: Redis, directory: Path) -> AsyncIterator[Server]:
    """Run one of COMMANDS, and wait until it answers."""
    port = free_port()
    words = [word.format(port=port, directory=directory) for word in COMMANDS[name]]
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name(words[0])),
        *words[1:],
        cwd=ROOT,
        env=os.environ | {"REDIS_URL": url, "PYTHONPATH": str(ROOT), "HUB_DRAIN": "2"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    server = Server(process, f"http://127.0.0.1:{port}", redis, directory)
    reading = asyncio.create_task(read_lines(process.stdout, server.lines))
    try:
        await until_it_answers(server, http2=name in HTTP2_ONLY)
        yield server
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        await reading


async def until_it_answers(server: Server, *, http2: bool) -> None:
    async with httpx.AsyncClient(http1=not http2, http2=http2) as client, asyncio.timeout(60):
        while True:
            assert server.process.returncode is None, server.lines
            try:
                if (await client.get(f"{server.url}/mine")).json() == {"mine": True}:
                    return
            except httpx.TransportError:
                await asyncio.sleep(0.05)


HTTP1 = [name for name in COMMANDS if name not in HTTP2_ONLY]


@pytest.mark.parametrize("name", HTTP1)
async def test_both_transports_deliver_and_the_server_stops_with_open_streams(
    name, redis_server, real_redis, tmp_path
):
    async with serving(name, redis_server.url, real_redis, tmp_path) as server:
        for transport in ("sse", "websocket"):
            publish = await server.job(job := f"{name}-{transport}")
            async with server.viewer(transport, job) as viewer:
                await publish.stage_started(job, "code", "It begins")
                assert [(await viewer.next()).fields["stage"]] == ["code"]
                await publish.ready(job, "Done")
                assert [seen.name for seen in await viewer.all()] == ["build.stage.started", "end"]
        await server.job("open")
        async with server.viewer("sse", "open") as sse, server.viewer("websocket", "open") as socket:
            server.process.send_signal(signal.SIGTERM)
            for transport, viewer in (("sse", sse), ("websocket", socket)):
                await viewer.all()
                # over WebSocket by a frame, or by close code 1012 where the server is quicker
                assert viewer.closed == "reconnect" or (name, transport) in ABRUPT
            await asyncio.wait_for(server.process.wait(), 20)
    if not name.startswith("hypercorn"):  # which logs that it cancels its own connections
        assert not [line for line in server.lines if re.search("Traceback|CancelledError|ERROR", line)], (
            server.lines
        )


async def test_a_saved_file_reloads_the_server_although_a_stream_is_open(redis_server, real_redis, tmp_path):
    watched = tmp_path / "watched.py"
    watched.write_text("1")
    async with serving("uvicorn-reload", redis_server.url, real_redis, tmp_path) as server:
        await server.job("open")
        async with server.viewer("sse", "open") as viewer:
            watched.write_text("2")
            assert "reconnect" in [seen.name for seen in await viewer.all()]
        await until_it_answers(server, http2=False)
        async with server.viewer("sse", "open") as viewer:
            assert viewer.status == 200
        assert not [line for line in server.lines if "Traceback" in line], server.lines


@pytest.mark.parametrize("name", [*HTTP2_ONLY, "hypercorn"])
async def test_a_stream_over_http_2(name, redis_server, real_redis, tmp_path):
    async with serving(name, redis_server.url, real_redis, tmp_path) as server:
        publish = await server.job(job := f"{name}-2")
        await publish.stage_started(job, "code", "It begins")
        async with (
            httpx.AsyncClient(http1=False, http2=True) as client,
            client.stream(
                "GET", f"{server.url}/push/api/jobs/{job}/events/stream", headers=HEADERS
            ) as answer,
        ):
            assert (answer.status_code, answer.http_version) == (200, "HTTP/2")
            lines = answer.aiter_lines()
            while "It begins" not in await anext(lines):
                pass
            await publish.ready(job, "Done")
            assert "event: end" in [line async for line in lines]
