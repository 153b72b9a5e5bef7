"""A Redis for the tests that need nothing but what a worker installs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hub.demo.embedded import EmbeddedServer


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with EmbeddedServer() as server:
        yield server.url
