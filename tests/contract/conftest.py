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


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["fake", "real"])
async def redis(request: pytest.FixtureRequest, redis_server: EmbeddedServer) -> AsyncIterator[Redis]:
    """A client of an empty Redis; the fake one and a real one."""
    if request.param == "real":
        client = Redis.from_url(redis_server.url)
    else:
        client = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer())
    async with client:
        await client.flushall()
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_hub(redis: Redis) -> AsyncIterator[Live]:
    """The hub of this module, on a real uvicorn."""
    async with live_hub(redis) as hub:
        yield hub


@pytest_asyncio.fixture(loop_scope="module")
async def live(module_hub: Live) -> AsyncIterator[Live]:
    """The module's hub; fails the test if a viewer is left."""
    yield module_hub
    await module_hub.until(lambda: module_hub.hub.statistics().viewers == 0)


@pytest.fixture
def start_hub(redis: Redis):
    """Another hub on the same Redis, with its own settings: `async with start_hub(linger=0) as live`."""
    return functools.partial(live_hub, redis)


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
