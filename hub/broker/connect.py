"""Redis clients by URL, with time limits that suit each use.

redis-py's own default (5 s timeout, 10 retries) keeps one GET on a refused server waiting for 4 s and repeats writes
across a stall; here each client says how long it may take.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, cast

import redis
import redis.asyncio
from redis.asyncio.connection import BlockingConnectionPool, parse_url
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from hub.broker.script import SCRIPT
from hub.errors import InvalidSettings

AsyncRedis = redis.asyncio.Redis
"""The async client; other packages name it through here, so that redis is imported in broker/ only."""

SyncRedis = redis.Redis

_SCHEMES = ("redis://", "rediss://", "unix://")

REQUEST_TIMEOUT = 2.0
"""Seconds a command may take on a viewer's request; a browser that waits longer for a 404 shows an error anyway."""

PUBLISH_TIMEOUT = 5.0
"""Seconds a producer's command may take: a worker has time, and an event is worth a retry."""


def for_requests(url: str) -> AsyncRedis:
    """The hub's client: fails fast, one retry. Raises InvalidSettings for a URL that is not Redis."""
    # Joins come in storms; commands are short, so fifty connections carry thousands a second, and the rest waits.
    pool = BlockingConnectionPool.from_url(
        _checked(url),
        socket_timeout=REQUEST_TIMEOUT,
        socket_connect_timeout=REQUEST_TIMEOUT,
        retry=AsyncRetry(ExponentialBackoff(cap=0.2, base=0.05), 1),
        max_connections=50,
        timeout=REQUEST_TIMEOUT,
        protocol=2,
        driver_info=DRIVER,
    )
    return AsyncRedis.from_pool(pool)


def for_publishing(url: str) -> AsyncRedis:
    """A producer's client. Retries are safe: every publish carries an idempotency key."""
    return AsyncRedis.from_url(
        _checked(url),
        socket_timeout=PUBLISH_TIMEOUT,
        socket_connect_timeout=PUBLISH_TIMEOUT,
        retry=AsyncRetry(ExponentialBackoff(cap=0.5, base=0.05), 3),
        protocol=2,
    )


def for_publishing_sync(url: str) -> SyncRedis:
    """The same for plain, blocking workers."""
    return SyncRedis.from_url(
        _checked(url),
        socket_timeout=PUBLISH_TIMEOUT,
        socket_connect_timeout=PUBLISH_TIMEOUT,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 3),
        protocol=2,
    )


DRIVER = redis.DriverInfo()
"""What a connection says it is (CLIENT SETINFO). Made once: redis-py reads its package's metadata for it from the disk, 0.4 to
10 ms per connection and on the event loop."""


class Script:
    """publish.lua on an async client: EVALSHA, and EVAL when the server does not know it yet."""

    def __init__(self, client: AsyncRedis) -> None:
        self._script = client.register_script(SCRIPT)

    async def run(self, keys: list[str], args: list[str | int]) -> list[bytes | str]:
        """The script's answer, for `script.interpret`."""
        return cast(list[bytes | str], await cast(Awaitable[Any], self._script(keys=keys, args=args)))


class SyncScript:
    """publish.lua on a blocking client."""

    def __init__(self, client: SyncRedis) -> None:
        self._script = client.register_script(SCRIPT)

    def run(self, keys: list[str], args: list[str | int]) -> list[bytes | str]:
        """The script's answer, for `script.interpret`."""
        return cast(list[bytes | str], self._script(keys=keys, args=args))


OUTAGE = (redis.RedisError, OSError, TimeoutError)
"""What an unreachable, stalled or failing Redis raises."""


def _checked(url: str) -> str:
    try:
        parse_url(url)
        good = url.startswith(_SCHEMES)
    except ValueError:
        good = False
    if not good:
        raise InvalidSettings(
            f"expected a Redis URL ({', '.join(_SCHEMES)}...), got {url.rpartition('@')[2]!r}"
        )
    return url
