"""One hub per module and Redis: the tests are about jobs, and every test has its own jobs."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator

import fakeredis
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from hub.demo.embedded import EmbeddedServer
from tests.support import producers
from tests.support.live import Live, live_hub
from tests.support.quiet import nothing_is_logged_as_an_error
from tests.support.viewer import view

__all__ = ["nothing_is_logged_as_an_error"]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["portable", "fast", "door"])
async def place(
    request: pytest.FixtureRequest, redis_server: EmbeddedServer
) -> AsyncIterator[tuple[Redis, str]]:
    """Each of the three ways in (see `live_hub`), with a client of an empty Redis: the fake one for the portable
    wire, and a real one.
    """
    if request.param == "portable":
        client = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer())
    else:
        client = Redis.from_url(redis_server.url)
    async with client:
        await client.flushall()
        yield client, request.param


@pytest.fixture(scope="module")
def redis(place: tuple[Redis, str]) -> Redis:
    """The client of the Redis."""
    return place[0]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_hub(place: tuple[Redis, str]) -> AsyncIterator[Live]:
    """The hub of this module, on a real uvicorn."""
    client, wire = place
    async with live_hub(client, wire=wire) as hub:
        yield hub


@pytest_asyncio.fixture(loop_scope="module")
async def live(module_hub: Live) -> AsyncIterator[Live]:
    """The module's hub; fails the test if a viewer is left."""
    yield module_hub
    await module_hub.until(lambda: module_hub.hub.statistics().viewers == 0)


@pytest.fixture
def start_hub(place: tuple[Redis, str]):
    """Another hub on the same Redis, with its own settings: `async with start_hub(linger=0) as live`."""
    client, wire = place
    return functools.partial(live_hub, client, wire=wire)


@pytest.fixture(params=["sse", "websocket"])
def transport(request: pytest.FixtureRequest) -> str:
    """Both transports."""
    return request.param


@pytest.fixture
def watch(live: Live, transport: str):
    """A viewer on this transport: `async with watch(job, "?from=live") as viewer`."""
    return functools.partial(view, live, transport)


@pytest_asyncio.fixture(loop_scope="module")
async def job(live: Live) -> str:
    """A job of the hub without events."""
    return await producers.job(live)
