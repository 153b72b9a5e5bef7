"""The libraries that people watch with, each in a process of its own, all at once through one bad evening: every event
once, in order and whole, and no request after the end."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from hub import JobStateMachine, Publisher
from tests.faults.rig.process import Hub, until
from tests.faults.rig.proxy import Proxy
from tests.support.live import token
from tests.support.npm import install

PLACE = Path(__file__).parent / "libraries"
JAVASCRIPT = re.findall(r"^  async \"?([^\"(]+)\"?\(\)", (PLACE / "clients.mjs").read_text(), re.MULTILINE)
PYTHON = re.findall(r'^    "(.+)": \w+,$', (PLACE / "clients.py").read_text(), re.MULTILINE)
TEXTS = [
    "two\nlines\r\nand\rmore",
    "\N{GRINNING FACE}\N{FAMILY}",
    "\u2028 \u2029 \x85",
    "x" * 200_000,
    "plain",
    '{"json": "in \\"json\\""}',
    "",
]
EVENTS = [{"n": n, "text": TEXTS[n % len(TEXTS)] + str(n)} for n in range(21)]


@dataclass
class Client:
    """A library that watches a job of its own, through a proxy of its own. `said`: its lines."""

    name: str
    job: str
    proxy: Proxy
    process: asyncio.subprocess.Process
    said: list[dict] = field(default_factory=list)
    errors: bytes = b""
    at_end: int = -1  # connections with a request when it said the end

    async def listen(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.said.append(json.loads(line))
            if "end" in self.said[-1]:
                self.at_end = self.proxy.asked
        assert self.process.stderr is not None
        self.errors = await self.process.stderr.read()
        await self.process.wait()

    @property
    def seen(self) -> list[tuple[int, str]]:
        return [(line["n"], line["digest"]) for line in self.said if line.get("n") is not None]


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory) -> Path:
    """A directory with the npm libraries and the script that uses them."""
    place = tmp_path_factory.mktemp("libraries")
    for name in ("package.json", "clients.mjs"):
        shutil.copy(PLACE / name, place)
    return install(place)


@pytest_asyncio.fixture
async def hub(redis_server):
    process = await asyncio.to_thread(Hub, redis_server.url, ticket_max_ttl=3600, drain=2)
    try:
        yield process
    finally:
        await asyncio.to_thread(process.close)


async def start(hub: Hub, machine: JobStateMachine, name: str, command: list[str], cwd: Path) -> Client:
    job = "library-" + re.sub("[^a-z0-9]+", "-", name.lower())
    await machine.create_job(job, user_id="ada")
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token()}"}) as client:
        answer = await client.post(f"{hub.url}/api/jobs/{job}/tickets", json={"ttl": 600, "uses": None})
    proxy = await Proxy("127.0.0.1", hub.port, gentle=True).__aenter__()
    words = [*command, name, f"http://127.0.0.1:{proxy.port}", job, token(), answer.json()["ticket"]]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*words, cwd=cwd, stdout=pipe, stderr=pipe, limit=1 << 20)
    return Client(name, job, proxy, process)


@pytest.mark.alone
async def test_every_library_sees_every_event_once(hub, real_redis, node_modules):
    """A reset in the middle, a deploy, and the end."""
    machine, publisher = JobStateMachine(real_redis), Publisher(real_redis, strict=True)
    clients = [await start(hub, machine, name, ["node", "clients.mjs"], node_modules) for name in JAVASCRIPT]
    root = Path(__file__).parents[2]
    clients += [
        await start(hub, machine, name, [sys.executable, str(PLACE / "clients.py")], root) for name in PYTHON
    ]
    assert len(clients) >= 14
    listening = [asyncio.create_task(client.listen()) for client in clients]
    try:
        await until(lambda: hub.metric("viewers") >= len(clients), "all of them watch", timeout=30)
        await publish(publisher, clients, EVENTS[:7])
        await seen(clients, 7)
        for client in clients:
            client.proxy.cut()
        await publish(publisher, clients, EVENTS[7:14])
        await seen(clients, 14)
        hub.terminate()
        await hub.wait(20)
        await asyncio.to_thread(hub.start)
        await publish(publisher, clients, EVENTS[14:])
        await seen(clients, 21)
        for client in clients:
            await publisher.ready(client.job)
        await until(
            lambda: all(client.at_end >= 0 for client in clients), f"the end, {late(clients, 99)}", timeout=30
        )
        await asyncio.wait(listening, timeout=10)  # each process ends by itself
        expected = [(one["n"], hashlib.sha256(one["text"].encode()).hexdigest()) for one in EVENTS]
        wrong = [client.name for client in clients if client.seen != expected]
        assert not wrong
        failed = {
            client.name: client.errors.decode()[-2000:]
            for client in clients
            if client.process.returncode != 0
        }
        assert not failed
        more = {client.name: client.proxy.asked - client.at_end for client in clients}
        assert not {name: number for name, number in more.items() if number}
    finally:
        for client in clients:
            if client.process.returncode is None:
                client.process.kill()
            await client.proxy.__aexit__()
        for done in listening:
            await done


async def publish(publisher: Publisher, clients: list[Client], events: list[dict]) -> None:
    for client in clients:
        await publisher.emit_many(client.job, [("step", event) for event in events])


async def seen(clients: list[Client], number: int) -> None:
    try:
        await until(lambda: not late(clients, number), "everybody sees", timeout=30)
    except AssertionError:
        raise AssertionError(f"expected {number} events, got {late(clients, number)}") from None


def late(clients: list[Client], number: int) -> dict[str, int]:
    """Who has seen fewer events, and how many."""
    return {client.name: len(client.seen) for client in clients if len(client.seen) < number}


def test_the_page_marks_the_libraries_that_are_tested():
    """docs/clients.md says of each what to set; this file runs it so."""
    page = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()
    marked = " ".join(
        line.split("|")[1] for line in page.splitlines() if line.startswith("| ") and "✓" in line
    )
    for name in [*JAVASCRIPT, *PYTHON]:
        words = name.partition(",")[0].split()
        assert all(word in marked for word in words), name
