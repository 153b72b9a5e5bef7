"""Redis clients by URL, with time limits that suit each use.

redis-py's own default (5 s timeout, 10 retries) keeps one GET on a refused server waiting for 4 s and repeats writes
across a stall; here each client says how long it may take.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, cast

import redis
import redis.asyncio
from redis.asyncio.connection import BlockingConnectionPool
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel as SyncSentinel

from hub.broker.address import Address

AsyncRedis = redis.asyncio.Redis
"""The async client; other packages name it through here, so that redis is imported in broker/ only."""

SyncRedis = redis.Redis

REQUEST_TIMEOUT = 2.0
"""Seconds a command may take on a viewer's request; a browser that waits longer for a 404 shows an error anyway."""

PUBLISH_TIMEOUT = 5.0
"""Seconds a producer's command may take: a worker has time, and an event is worth a retry."""


SENTINEL_TIMEOUT = 1.0
"""Seconds one Sentinel may take to say who the primary is; there are others."""

DRIVER = redis.DriverInfo()
"""What a connection says it is (CLIENT SETINFO). Made once: redis-py reads its package's metadata for it from the disk, 0.4 to
10 ms per connection and on the event loop."""


def for_requests(url: str) -> AsyncRedis:
    """The hub's client: fails fast, one retry. Raises InvalidSettings for a URL that is not Redis."""
    options: dict[str, Any] = {
        "socket_timeout": REQUEST_TIMEOUT,
        "socket_connect_timeout": REQUEST_TIMEOUT,
        "retry": AsyncRetry(ExponentialBackoff(cap=0.2, base=0.05), 1),
        "protocol": 2,
        "driver_info": DRIVER,
    }
    place = Address.parse(url)
    if place.service:
        return _primary(place, options)
    # Joins come in storms; commands are short, so fifty connections carry thousands a second, and the rest waits.
    pool = BlockingConnectionPool.from_url(url, **options, max_connections=50, timeout=REQUEST_TIMEOUT)
    return AsyncRedis.from_pool(pool)


def for_publishing(url: str) -> AsyncRedis:
    """A producer's client. Retries are safe: every publish carries an idempotency key."""
    options: dict[str, Any] = {
        "socket_timeout": PUBLISH_TIMEOUT,
        "socket_connect_timeout": PUBLISH_TIMEOUT,
        "retry": AsyncRetry(ExponentialBackoff(cap=0.5, base=0.05), 3),
        "protocol": 2,
        "driver_info": DRIVER,
    }
    place = Address.parse(url)
    return _primary(place, options) if place.service else AsyncRedis.from_url(url, **options)


def for_publishing_sync(url: str) -> SyncRedis:
    """The same for plain, blocking workers."""
    options: dict[str, Any] = {
        "socket_timeout": PUBLISH_TIMEOUT,
        "socket_connect_timeout": PUBLISH_TIMEOUT,
        "retry": Retry(ExponentialBackoff(cap=0.5, base=0.05), 3),
        "protocol": 2,
        "driver_info": DRIVER,
    }
    place = Address.parse(url)
    if not place.service:
        return SyncRedis.from_url(url, **options)
    asking = _asking(place, Retry(NoBackoff(), 0))
    sentinel = SyncSentinel(list(place.sentinels), sentinel_kwargs=asking)  # type: ignore[no-untyped-call]
    client: SyncRedis = sentinel.master_for(  # type: ignore[no-untyped-call]
        place.service, **place.options, **options
    )
    return client


def _primary(place: Address, options: dict[str, Any]) -> AsyncRedis:
    """A client of whichever server the Sentinels call the primary; each new connection asks them again."""
    asking = _asking(place, AsyncRetry(NoBackoff(), 0))
    sentinel = Sentinel(list(place.sentinels), sentinel_kwargs=asking)  # type: ignore[no-untyped-call]
    client: AsyncRedis = sentinel.master_for(place.service, **place.options, **options, max_connections=500)
    return client


def _asking(place: Address, retry: AsyncRetry | Retry) -> dict[str, Any]:
    # A Sentinel that is frozen must not keep us from asking the next one.
    return {
        "socket_timeout": SENTINEL_TIMEOUT,
        "socket_connect_timeout": SENTINEL_TIMEOUT,
        "password": place.sentinel_password,
        "retry": retry,
        "driver_info": DRIVER,
    }


async def close(client: AsyncRedis) -> None:
    """Close a client that was made here, and what it has open to Sentinels."""
    await client.aclose()
    manager = getattr(client.connection_pool, "sentinel_manager", None)
    if manager is not None:
        await manager.aclose()


class Script:
    """A Lua script on an async client: EVALSHA, and EVAL when the server does not know it yet."""

    def __init__(self, client: AsyncRedis, text: str) -> None:
        self._script = client.register_script(text)

    async def run(self, keys: list[str], args: list[str | int]) -> list[bytes | str]:
        """The script's answer, for script.py to read."""
        return cast(list[bytes | str], await cast(Awaitable[Any], self._script(keys=keys, args=args)))


class SyncScript:
    """The same on a blocking client."""

    def __init__(self, client: SyncRedis, text: str) -> None:
        self._script = client.register_script(text)

    def run(self, keys: list[str], args: list[str | int]) -> list[bytes | str]:
        """The script's answer, for script.py to read."""
        return cast(list[bytes | str], self._script(keys=keys, args=args))


OUTAGE = (redis.RedisError, OSError, TimeoutError)
"""What an unreachable, stalled or failing Redis raises."""
