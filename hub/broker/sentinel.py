"""Clients of whichever server the Sentinels call the primary.

Invariant: every connection that is made, or made anew for a retry, first asks the Sentinels. redis-py asks only for a new one:
it repeats a command on the address of before, and a primary that is frozen still accepts TCP, takes the write when it is thawed, and
loses it when it is turned into a replica.
"""

from __future__ import annotations

from collections.abc import Iterable
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
"""Seconds one Sentinel may take to say who the primary is; there are others."""

CONNECTIONS = 500
"""Connections for commands at the most; redis-py's pool for Sentinel cannot wait for one, so there are more than of a single server."""

Command = bytes | str | Iterable[bytes]


class _Asking(SentinelManagedConnection):
    async def send_packed_command(self, command: Command, check_health: bool = True) -> None:
        if not self.is_connected:
            await self.connect()
        await super().send_packed_command(command, check_health)


class _AskingTls(SentinelManagedSSLConnection):
    async def send_packed_command(self, command: Command, check_health: bool = True) -> None:
        if not self.is_connected:
            await self.connect()
        await super().send_packed_command(command, check_health)


class _SyncAsking(SyncManagedConnection):
    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if not self.is_connected:
            self.connect()
        super().send_packed_command(command, check_health)


class _SyncAskingTls(SyncManagedSSLConnection):
    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if not self.is_connected:
            self.connect()
        super().send_packed_command(command, check_health)


def primary(place: Address, options: dict[str, Any]) -> Redis:
    """A client of the primary; `options` are redis-py's, for its connections."""
    asking = _asking(place, Retry(NoBackoff(), 0))
    sentinel = Sentinel(list(place.sentinels), sentinel_kwargs=asking)
    kind = _AskingTls if place.tls else _Asking
    client: Redis = sentinel.master_for(
        place.service, **place.options, **options, connection_class=kind, max_connections=CONNECTIONS
    )
    return client


def primary_sync(place: Address, options: dict[str, Any]) -> redis.Redis:
    """The same, blocking."""
    asking = _asking(place, SyncRetry(NoBackoff(), 0))
    sentinel = SyncSentinel(list(place.sentinels), sentinel_kwargs=asking)
    kind = _SyncAskingTls if place.tls else _SyncAsking
    client: redis.Redis = sentinel.master_for(
        place.service, **place.options, **options, connection_class=kind
    )
    return client


def _asking(place: Address, retry: Retry | SyncRetry) -> dict[str, Any]:
    # A Sentinel that is frozen must not keep us from asking the next one.
    return {
        "socket_timeout": TIMEOUT,
        "socket_connect_timeout": TIMEOUT,
        "password": place.sentinel_password,
        "retry": retry,
    }


async def has_moved(pool: ConnectionPool, connection: AbstractConnection) -> bool:
    """Whether the Sentinels now name another primary than `connection` leads to. False when they do not answer.

    After a planned failover the old primary goes on as if nothing were for about ten seconds, until a Sentinel turns it into a replica.
    """
    if not isinstance(pool, SentinelConnectionPool) or not isinstance(connection, SentinelManagedConnection):
        return False
    try:
        place = await pool.sentinel_manager.discover_master(pool.service_name)
    except (RedisError, OSError):
        return False
    return bool((connection.host, connection.port) != tuple(place))


async def close_sentinels(client: Redis) -> None:
    """Close what `client` has open to Sentinels."""
    manager = getattr(client.connection_pool, "sentinel_manager", None)
    if manager is not None:
        await manager.aclose()


def close_sentinels_sync(client: redis.Redis) -> None:
    """The same for a blocking client."""
    manager = getattr(client.connection_pool, "sentinel_manager", None)
    for sentinel in manager.sentinels if manager is not None else ():
        sentinel.close()
