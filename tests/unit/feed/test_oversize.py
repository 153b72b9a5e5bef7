"""What a message over the limit stands for, and what a hole before one is healed from: the log and the hash tell."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator

import pytest

from hub.engine.hub import Hub
from hub.feed import paging
from hub.feed import retained as module
from hub.job.cursor import Wish
from hub.settings import Settings
from tests.unit.scripted import Client, ScriptedBroker

LIMIT = 300
OVER = 400
NEVER = 10**6


@pytest.fixture(autouse=True)
def no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end that the hash tells comes at once."""
    monkeypatch.setattr(module, "SETTLE", 0)


async def settle() -> None:
    for _ in range(60):
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def watched(broker: ScriptedBroker) -> AsyncIterator[Client]:
    """A viewer of the job on a hub whose position check never comes."""
    hub = Hub(broker, Settings(linger=0, position_check=NEVER, max_event_bytes=LIMIT))
    client = Client(hub, Wish(), 0.0, random.Random(0))
    client.connect()
    await settle()
    try:
        yield client
    finally:
        await client.leave()
        await hub.aclose()


@pytest.mark.parametrize(("over", "kinds"), [(0, ["event"]), (1, ["gap", "state"])])
@pytest.mark.parametrize("way", ["message", "log"])
async def test_the_limit_is_for_the_body_and_fits_itself(way, over, kinds):
    """The id that the hub adds to a message does not count; the log has the body without it."""
    broker = ScriptedBroker()
    broker.epoch = 1000
    empty = len(json.dumps({"type": "t", "g": 0, "fat": ""}, separators=(",", ":")))
    if way == "log":
        broker.publish(size=LIMIT - empty + over)
    async with watched(broker) as client:
        if way == "message":
            broker.publish(size=LIMIT - empty + over)
            broker.deliver()
            await settle()
        assert [item.kind for item in client.items if item.kind != "session"] == kinds


async def test_a_hole_of_several_pages_is_healed(monkeypatch):
    """The log is read page by page, until a page is not full."""
    monkeypatch.setattr(paging, "FIRST", 3)
    monkeypatch.setattr(paging, "MOST", 3)
    broker = ScriptedBroker()
    broker.epoch = 1000
    async with watched(broker) as client:
        for _ in range(10):
            broker.publish()
        while len(broker.flight) > 1:
            broker.flight.popleft()
        broker.deliver()
        await settle()
        assert [item.g for item in client.items if item.kind == "event"] == list(range(10))


@pytest.mark.parametrize("foreign", [True, False])
@pytest.mark.parametrize("lost", [0, 1], ids=["in order", "behind a hole"])
async def test_an_oversize_terminal_event_ends_the_job_at_once(foreign, lost):
    """Its message says nothing about a status, so the feed looks into the log and the hash; no position check comes here."""
    broker = ScriptedBroker()
    broker.epoch = None if foreign else 1000
    async with watched(broker) as client:
        broker.publish(foreign=foreign)
        broker.deliver()
        for _ in range(lost):
            broker.publish(foreign=foreign)
            broker.flight.pop()
        broker.publish(status="ready", size=OVER, foreign=foreign)
        broker.fields["status"] = "ready"
        broker.deliver()
        await settle()
        assert client.done
        assert [item.kind for item in client.items][-4:] == ["gap", "state", "event", "end"]
