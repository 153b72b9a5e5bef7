"""Fixtures for every test: a real Redis, a fake one, and a hub on either."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import fakeredis
import pytest
from redis.asyncio import Redis

from hub import quiet
from hub.demo.embedded import EmbeddedServer
from tests.support.live import Live, live_hub
from tests.support.turns import Turns

_turns = pytest.StashKey[Turns]()

_SIMULATED = "model"
"""The room whose tests run on a simulated clock and a simulated Redis: a failure there has no second try."""


def pytest_configure(config: pytest.Config) -> None:
    """Several processes run the tests: they take turns with those that are `alone`."""
    if session := os.environ.get("PYTEST_XDIST_TESTRUNUID"):
        turns = config.stash[_turns] = Turns(session)
        config.add_cleanup(turns.close)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    turns = item.config.stash.get(_turns, None)
    if turns is None:
        return (yield)
    turns.begin(alone=_is_alone(item))
    try:
        return (yield)
    finally:
        turns.end(stay=_is_alone(nextitem))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test has a second try, which the summary names: it talks to real servers, on a machine that others share.

    Look into each: it is a bug of the test, or a race. Without second tries: `pytest -p no:rerunfailures`.
    """
    if not config.pluginmanager.hasplugin("rerunfailures"):
        return
    simulated = Path(__file__).parent / _SIMULATED
    for item in items:
        if not item.path.is_relative_to(simulated):
            item.add_marker(pytest.mark.flaky(reruns=1))


def _is_alone(item: pytest.Item | None) -> bool:
    return item is not None and item.get_closest_marker("alone") is not None


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


@pytest.fixture(autouse=True)
def every_line_is_the_first_of_its_kind() -> None:
    """A line that another test has logged within the last second does not hide this one's."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("hub."):
            for one in logging.getLogger(name).filters:
                if isinstance(one, quiet._Quiet):
                    one._kinds.clear()


@pytest.fixture(scope="session", autouse=True)
def no_loop_by_chance() -> None:
    """Tell asyncio once that there is no current loop, so that looptime's plugin creates none.

    The plugin asks for the current loop; until one has been set, asking creates one. Nobody would close that loop,
    and Python 3.12 warns about it; both are errors here.
    """
    asyncio.set_event_loop(None)
