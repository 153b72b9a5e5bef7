"""The pytest plugin: the fixtures `push_hub`, `job`, `publisher` and `viewer`. docs/testing.md shows them at
work.

pytest loads this file wherever the package is installed, so what the fixtures need is imported when they run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from fastapi import FastAPI

    from hub.demo.embedded import EmbeddedServer
    from hub.produce.publisher import Publisher
    from hub.testing.harness import PushHub
    from hub.testing.viewer import Viewer

try:
    from pytest_asyncio import fixture as async_fixture
except ImportError:  # without it only the fixtures fail
    async_fixture = pytest.fixture  # type: ignore[assignment]

REAL = "--push-hub-redis"
URL = "--push-hub-redis-url"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that choose a real Redis: two, as a path may follow one without a value."""
    group = parser.getgroup("push-hub")
    group.addoption(REAL, action="store_true", help="run push_hub on a private Redis instead of a fake one")
    group.addoption(URL, metavar="URL", help="run push_hub on the Redis at URL, and leave what is there")


@pytest.fixture(scope="session")
def push_hub_redis(request: pytest.FixtureRequest) -> Iterator[str | EmbeddedServer | None]:
    """The Redis of `push_hub`: None (a fake one), a URL, or a running private server."""
    if (url := request.config.getoption(URL)) is not None:
        yield url
    elif not request.config.getoption(REAL):
        yield None
    else:
        from hub.demo.embedded import EmbeddedServer

        with EmbeddedServer() as server:
            yield server


@pytest.fixture
def push_hub_app() -> FastAPI | None:
    """Override it to return your application, to which you have mounted the hub. None: the hub alone."""
    return None


@pytest.fixture
def push_hub_settings() -> dict[str, Any]:
    """Override it to return settings for the hub alone, as `{"heartbeat": 5}`."""
    return {}


@async_fixture
async def push_hub(
    push_hub_redis: str | EmbeddedServer | None,
    push_hub_app: FastAPI | None,
    push_hub_settings: dict[str, Any],
) -> AsyncIterator[PushHub]:
    """A running hub in the test's own event loop, on a port of its own."""
    from hub.testing.harness import PushHub

    async with PushHub(push_hub_redis, push_hub_app, push_hub_settings) as running:
        yield running


@async_fixture
async def job(push_hub: PushHub) -> str:
    """The id of a job of `push_hub.user` that is building."""
    return await push_hub.create_job()


@pytest.fixture
def publisher(push_hub: PushHub) -> Publisher:
    """A worker's publisher on the hub's Redis."""
    return push_hub.publisher


@async_fixture
async def viewer(push_hub: PushHub, job: str) -> AsyncIterator[Callable[..., Viewer]]:
    """Call it to watch: `viewer("sse")`, `viewer("websocket", of="another-job", user="grace")`.

    A viewer reconnects and resumes, as hub.js and `watch` do. All of them leave at the end of the test.
    """
    from hub.testing.viewer import Viewer

    async with AsyncExitStack() as stack:

        def watching(
            transport: str = "websocket",
            *,
            of: str = "",
            user: str = "",
            token: str | None = None,
            headers: dict[str, str] | None = None,
            **options: Any,
        ) -> Viewer:
            credentials = (
                token if token is not None else ("" if headers else push_hub.token(user or push_hub.user))
            )
            one = Viewer(push_hub.url, of or job, transport, credentials, headers=headers or {}, **options)
            stack.push_async_callback(one.aclose)
            return one

        yield watching
