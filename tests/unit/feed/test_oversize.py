"""An event over the limit: it is not sent, and the log and the hash tell what it was."""

from __future__ import annotations

import asyncio
import random

import pytest

from hub.engine.hub import Hub
from hub.feed import intake as module
from hub.job.cursor import Wish
from hub.settings import Settings
from tests.unit.scripted import Client, ScriptedBroker

OVER = 400
NEVER = 10**6


@pytest.fixture(autouse=True)
def no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end that the hash tells comes at once."""
    monkeypatch.setattr(module, "SETTLE", 0)


async def settle() -> None:
    for _ in range(60):
        await asyncio.sleep(0)


@pytest.mark.parametrize("foreign", [True, False])
@pytest.mark.parametrize("lost", [0, 1], ids=["in order", "behind a hole"])
async def test_an_oversize_terminal_event_ends_the_job_at_once(foreign, lost):
    """Its message says nothing about a status, so the feed looks into the log and the hash; no position check comes here."""
    broker = ScriptedBroker()
    broker.epoch = None if foreign else 1000
    hub = Hub(broker, Settings(linger=0, position_check=NEVER, max_event_bytes=300))
    client = Client(hub, Wish(), 0.0, random.Random(0))
    client.connect()
    await settle()
    try:
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
    finally:
        await client.leave()
        await hub.aclose()
