"""Fixtures for every test: a real Redis, a fake one, and a hub on either."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Iterator

import fakeredis
import pytest
from redis.asyncio import Redis

from hub.demo.embedded import EmbeddedServer
from tests.support.live import Live, live_hub


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedServer]:
    """A real server for the session. A test that freezes or kills a server starts its own."""
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
async def real_redis(redis_server: EmbeddedServer) -> AsyncIterator[Redis]:
    """A client of the real Redis, which is empty."""
    async with Redis.from_url(redis_server.url) as client:
        await client.flushall()
        yield client


@pytest.fixture
async def fake_redis() -> AsyncIterator[Redis]:
    """A client of a fake Redis inside this process, which is empty."""
    async with fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer()) as client:
        yield client


@pytest.fixture(params=["fake", "real"])
def redis(request: pytest.FixtureRequest) -> Redis:
    """Each of the two in turn: the fake must pass every test that the real Redis passes."""
    return request.getfixturevalue(f"{request.param}_redis")


@pytest.fixture
async def live(redis: Redis) -> AsyncIterator[Live]:
    """A hub on a real uvicorn: the portable wire over the fake Redis, the handed-over socket over the real
    one.
    """
    async with live_hub(redis) as hub:
        yield hub


@pytest.fixture
def start_hub(real_redis: Redis):
    """Starts a hub with given settings, on the real Redis: `async with start_hub(heartbeat=0.2)`."""
    return functools.partial(live_hub, real_redis)


@pytest.fixture(scope="session", autouse=True)
def no_loop_by_chance() -> None:
    """Tell asyncio once that there is no current loop, so that looptime's plugin creates none.

    The plugin asks for the current loop; until one has been set, asking creates one. Nobody would close that loop,
    and Python 3.12 warns about it; both are errors here.
    """
    asyncio.set_event_loop(None)
