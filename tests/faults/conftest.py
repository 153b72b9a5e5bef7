"""Real processes for each scenario. They are ended by process id, whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.faults.rig.process import Hub, Process, RedisProcess


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    """Ends what a test has started, in reverse. Fails if a hub has logged a traceback."""
    started: list[Process] = []
    yield started
    said = [process.said for process in started if isinstance(process, Hub)]
    for process in reversed(started):
        process.close()
    for text in said:
        assert "Traceback" not in text, text[max(0, text.find("Traceback") - 1000) :][:6000]


@pytest.fixture
def start_redis(processes: list[Process]) -> Callable[..., RedisProcess]:
    """Starts a Redis: `start_redis(durable=True)`."""

    def start(*options: str, **more) -> RedisProcess:
        server = RedisProcess(*options, **more)
        processes.append(server)
        return server

    return start


@pytest.fixture
def start_hub(processes: list[Process]) -> Callable[..., Hub]:
    """Starts a hub: `start_hub(redis.url, drain=2)`."""

    def start(url: str, **settings) -> Hub:
        hub = Hub(url, **settings)
        processes.append(hub)
        return hub

    return start
