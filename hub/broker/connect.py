"""Makes Redis clients from a URL, with time limits that suit each use.

With redis-py's defaults (5 s timeout, 10 retries) a GET on a server that refuses connections takes 4 s, and
writes are repeated across a stall. So each client made here sets its own limits.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Hashable
from typing import Any, cast
from weakref import WeakKeyDictionary

import redis
import redis.asyncio
from redis.asyncio.connection import BlockingConnectionPool
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from hub.broker.address import Address
from hub.broker.sentinel import close_sentinels, close_sentinels_sync, primary, primary_sync
from hub.errors import BrokerUnavailable

AsyncRedis = redis.asyncio.Redis
"""The async client. The other rooms import this name, so that only the broker room imports redis."""

SyncRedis = redis.Redis

REQUEST_TIMEOUT = 2.0
"""Seconds that a command for a viewer's request may take; a person who waits longer assumes an error."""

PUBLISH_TIMEOUT = 5.0
"""Seconds that a producer's command may take; for a worker, losing an event is worse than waiting."""

DRIVER = redis.DriverInfo()
"""The client name that connections report (CLIENT SETINFO). Shared by all connections: redis-py would
otherwise read its package metadata from disk for each connection, which blocks the event loop for 0.4 to 10
ms."""


def for_requests(url: str) -> AsyncRedis:
    """The hub's client: short timeouts, one retry. Raises InvalidSettings if `url` is not a Redis URL."""
    options: dict[str, Any] = {
        "socket_timeout": REQUEST_TIMEOUT,
        "socket_connect_timeout": REQUEST_TIMEOUT,
        "retry": AsyncRetry(ExponentialBackoff(cap=0.2, base=0.05), 1),
        "protocol": 2,
        "driver_info": DRIVER,
    }
    place = Address.parse(url)
    if place.service:
        return primary(place, options)
    # Joins come in storms; commands are short, so fifty connections carry thousands a second, and the rest
    # waits.
    pool = BlockingConnectionPool.from_url(place.url, **options, max_connections=50, timeout=REQUEST_TIMEOUT)
    return AsyncRedis.from_pool(pool)


def for_publishing(url: str) -> AsyncRedis:
    """A producer's client. Its retries are safe, because every publish carries an idempotency key."""
    options: dict[str, Any] = {
        "socket_timeout": PUBLISH_TIMEOUT,
        "socket_connect_timeout": PUBLISH_TIMEOUT,
        "retry": AsyncRetry(ExponentialBackoff(cap=0.5, base=0.05), 3),
        "protocol": 2,
        "driver_info": DRIVER,
    }
    place = Address.parse(url)
    return primary(place, options) if place.service else AsyncRedis.from_url(place.url, **options)


def for_publishing_sync(url: str) -> SyncRedis:
    """A producer's client for blocking code."""
    options: dict[str, Any] = {
        "socket_timeout": PUBLISH_TIMEOUT,
        "socket_connect_timeout": PUBLISH_TIMEOUT,
        "retry": Retry(ExponentialBackoff(cap=0.5, base=0.05), 3),
        "protocol": 2,
        "driver_info": DRIVER,
    }
    place = Address.parse(url)
    if not place.service:
        return SyncRedis.from_url(place.url, **options)
    return primary_sync(place, options)


async def close(client: AsyncRedis) -> None:
    """Close a client made by this module, and its connections to Sentinels."""
    await client.aclose()
    await close_sentinels(client)


def close_sync(client: SyncRedis) -> None:
    """The same for a blocking client."""
    client.close()
    close_sentinels_sync(client)


def sibling(client: AsyncRedis, **changes: Any) -> AsyncRedis:
    """A client of the same place with connections of its own; `changes` to what redis-py makes them with."""
    pool = copy.copy(client.connection_pool)
    pool.connection_kwargs = {**pool.connection_kwargs, **changes}
    if isinstance(pool, BlockingConnectionPool):
        pool._condition = asyncio.Condition()  # noqa: SLF001  # the copy would wait for the other's connections
    pool.reset()
    return AsyncRedis.from_pool(pool)


def place_of(client: AsyncRedis) -> Hashable:
    """Equal for two clients of the same database of the same Redis."""
    pool = client.connection_pool
    options = pool.connection_kwargs
    names = ("host", "port", "path", "db", "username")
    fake = id(options["server"]) if "server" in options else None  # fakeredis has no address
    return getattr(pool, "service_name", None), fake, *(options.get(name) for name in names)


class PerLoop:
    """A client for whichever loop runs: connections belong to the loop that made them.

    A worker may call `asyncio.run` for each of its tasks. The first loop gets the `given` client, every other
    one a sibling, which is gone with its loop.
    """

    def __init__(self, given: AsyncRedis) -> None:
        self.given = given
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncRedis] = WeakKeyDictionary()
        self._is_given = False

    def get(self) -> AsyncRedis:
        """The running loop's client. Before any loop runs it is the given one, which the first loop will
        have."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return self.given
        client = self._clients.get(loop)
        if client is None:
            client = sibling(self.given) if self._is_given else self.given
            self._is_given = True
            self._clients[loop] = client
        return client


class Script:
    """A Lua script on an async client: runs EVALSHA, and loads the script if the server does not know it."""

    def __init__(self, clients: PerLoop, text: str) -> None:
        self._clients = clients
        self._script = clients.given.register_script(text)

    async def run(self, keys: list[str], args: list[str | int]) -> list[bytes | str]:
        """The script's answer, for script.py to read."""
        answer = self._script(keys=keys, args=args, client=self._clients.get())
        return cast(list[bytes | str], await cast(Awaitable[Any], answer))


class SyncScript:
    """A Lua script on a blocking client."""

    def __init__(self, client: SyncRedis, text: str) -> None:
        self._script = client.register_script(text)

    def run(self, keys: list[str], args: list[str | int]) -> list[bytes | str]:
        """Run the script; returns its raw answer, which the functions of script.py interpret."""
        return cast(list[bytes | str], self._script(keys=keys, args=args))


def words(error: Exception) -> str:
    """The error's message, or the name of its class if the message is empty, as for many timeouts."""
    return str(error) or type(error).__name__


def unavailable(error: Exception) -> BrokerUnavailable:
    """A BrokerUnavailable for an error of redis-py or the network."""
    return BrokerUnavailable(f"expected an answer from Redis, got: {words(error)}")


OUTAGE = (redis.RedisError, OSError, TimeoutError)
"""The exceptions of a Redis that is unreachable, stalled or failing."""
