"""Clients of the server that the Sentinels name as the primary.

Invariant: every connection first asks the Sentinels, also when it reconnects for a retry. redis-py asks only
for a new connection and sends a retry to the old address. There a frozen primary still accepts TCP
connections; after thawing it executes the write, and loses that write when it becomes a replica.
"""

from __future__ import annotations

from typing import Any

import redis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry as SyncRetry
from redis.sentinel import Sentinel as SyncSentinel
from redis.sentinel import SentinelManagedConnection as SyncManagedConnection
from redis.sentinel import SentinelManagedSSLConnection as SyncManagedSSLConnection

from hub.broker.address import Address

TIMEOUT = 1.0
"""Seconds that one Sentinel may take to name the primary; after that the next one is asked."""

CONNECTIONS = 500
"""Largest number of connections for commands. Ten times as many as for a single server, because redis-py's
pool for Sentinel cannot wait for a free connection and raises instead."""


class _Asking(SentinelManagedConnection):
    """A connection that asks the Sentinels before every reconnect; of redis-py, only `connect` asks."""

    async def send_packed_command(self, *args: Any, **options: Any) -> None:
        if not self.is_connected:
            await self.connect()
        await super().send_packed_command(*args, **options)


class _AskingTls(_Asking, SentinelManagedSSLConnection):
    """The same with TLS."""


class _SyncAsking(SyncManagedConnection):
    """As `_Asking`, for blocking clients."""

    def send_packed_command(self, *args: Any, **options: Any) -> None:
        if not self.is_connected:
            self.connect()
        super().send_packed_command(*args, **options)


class _SyncAskingTls(_SyncAsking, SyncManagedSSLConnection):
    """The same with TLS."""


def primary(place: Address, options: dict[str, Any]) -> Redis:
    """A client of the primary. `options` are redis-py's arguments for its connections."""
    sentinel = Sentinel(list(place.sentinels), sentinel_kwargs=_for_sentinels(place, Retry(NoBackoff(), 0)))
    kind = _AskingTls if place.tls else _Asking
    client: Redis = sentinel.master_for(
        place.service, **place.options, **options, connection_class=kind, max_connections=CONNECTIONS
    )
    return client


def primary_sync(place: Address, options: dict[str, Any]) -> redis.Redis:
    """A blocking client of the primary. `options` are redis-py's arguments for its connections."""
    asking = _for_sentinels(place, SyncRetry(NoBackoff(), 0))
    sentinel = SyncSentinel(list(place.sentinels), sentinel_kwargs=asking)
    kind = _SyncAskingTls if place.tls else _SyncAsking
    client: redis.Redis = sentinel.master_for(
        place.service, **place.options, **options, connection_class=kind
    )
    return client


def _for_sentinels(place: Address, retry: Retry | SyncRetry) -> dict[str, Any]:
    # Short timeouts and no retry, so that a frozen Sentinel does not delay the question to the next one.
    return {
        "socket_timeout": TIMEOUT,
        "socket_connect_timeout": TIMEOUT,
        "password": place.sentinel_password,
        "retry": retry,
    }


async def has_moved(pool: ConnectionPool, connection: AbstractConnection) -> bool:
    """Returns True if the Sentinels now name another primary than the server of `connection`.

    Returns False if no Sentinel answers. After a planned failover the old primary serves as before for about
    ten seconds, until a Sentinel turns it into a replica, so the connection itself shows nothing.
    """
    if not isinstance(pool, SentinelConnectionPool) or not isinstance(connection, SentinelManagedConnection):
        return False
    try:
        place = await pool.sentinel_manager.discover_master(pool.service_name)
    except (RedisError, OSError):
        return False
    return bool((connection.host, connection.port) != tuple(place))


async def close_sentinels(client: Redis) -> None:
    """Close the connections of `client` to Sentinels, which `client.aclose` leaves open."""
    manager = getattr(client.connection_pool, "sentinel_manager", None)
    if manager is not None:
        await manager.aclose()


def close_sentinels_sync(client: redis.Redis) -> None:
    """Close the connections of a blocking `client` to Sentinels."""
    manager = getattr(client.connection_pool, "sentinel_manager", None)
    for sentinel in manager.sentinels if manager is not None else ():
        sentinel.close()
