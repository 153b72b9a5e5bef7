"""Clients of the server that the Sentinels name as the primary.

Invariant: an answer counts only if its server was the primary a second ago. An old primary that was frozen
goes on when it is thawed, and one of a planned failover never stopped: for about ten seconds both execute and
acknowledge writes, which they lose when a Sentinel turns them into a replica. So a connection asks the
Sentinels when it connects (redis-py does not for a retry), and again before it returns an answer if it last
asked more than a second ago. A write that the wrong server answered is sent again to the right one.
"""

from __future__ import annotations

import contextlib
import time
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
from redis.sentinel import MasterNotFoundError
from redis.sentinel import Sentinel as SyncSentinel
from redis.sentinel import SentinelManagedConnection as SyncManagedConnection
from redis.sentinel import SentinelManagedSSLConnection as SyncManagedSSLConnection

from hub.broker.address import Address

TIMEOUT = 1.0
"""Seconds that one Sentinel may take to name the primary; after that the next one is asked."""

DOUBTED_AFTER = 1.0
"""Seconds after which an answer is doubted: the Sentinels are asked whether it came from the primary."""

CONNECTIONS = 500
"""Largest number of connections for commands. Ten times as many as for a single server, because redis-py's
pool for Sentinel cannot wait for a free connection and raises instead."""

Place = tuple[str, int]
"""Host and port of a server."""

NAMED = "SENTINEL GET-MASTER-ADDR-BY-NAME"

MOVED = "the primary is another one now"


class _Sentinels(Sentinel):
    """Sentinels that name the new primary as soon as it is promoted."""

    async def discover_master(self, service_name: str) -> Place:
        for number, sentinel in enumerate(self.sentinels):
            with contextlib.suppress(RedisError, OSError):
                named = await sentinel.execute_command(NAMED, service_name)
                state = await sentinel.execute_command("SENTINEL MASTER", service_name)
                if (place := _primary_of(named, state)) is not None:
                    # the next question goes to this one first, and not to one that is frozen
                    self.sentinels[0], self.sentinels[number] = sentinel, self.sentinels[0]
                    return place
        raise MasterNotFoundError(f"no Sentinel names a primary of {service_name}")


class _SyncSentinels(SyncSentinel):
    """As `_Sentinels`, for blocking clients."""

    def discover_master(self, service_name: str) -> Place:
        for number, sentinel in enumerate(self.sentinels):
            with contextlib.suppress(RedisError, OSError):
                named = sentinel.execute_command(NAMED, service_name)
                state = sentinel.execute_command("SENTINEL MASTER", service_name)
                if (place := _primary_of(named, state)) is not None:
                    self.sentinels[0], self.sentinels[number] = sentinel, self.sentinels[0]
                    return place
        raise MasterNotFoundError(f"no Sentinel names a primary of {service_name}")


def _primary_of(named: tuple[str | bytes, int] | None, state: dict[str, Any]) -> Place | None:
    """Returns what a Sentinel's two answers say.

    SENTINEL MASTER (redis-py asks SENTINEL MASTERS, and only that) describes the old primary until all
    replicas follow the new one. That may take minutes, and a thawed old primary looks well meanwhile.
    """
    if named is None:
        return None
    host, port = named
    place = host.decode() if isinstance(host, bytes) else host, int(port)
    promoted = place != (state["ip"], state["port"])
    well = state["is_master"] and not state["is_sdown"] and not state["is_odown"]
    return place if promoted or well else None


class _Asking(SentinelManagedConnection):
    """A connection that asks the Sentinels before every reconnect, and before it returns a doubtful answer.

    Without a time limit it is the subscription's, which watches its primary itself: its messages do not wait.
    """

    _asked = 0.0  # monotonic seconds

    async def connect_to(self, address: Place) -> None:
        self._asked = time.monotonic()
        await super().connect_to(address)

    async def send_packed_command(self, *args: Any, **options: Any) -> None:
        if not self.is_connected:
            await self.connect()
        await super().send_packed_command(*args, **options)

    async def read_response(self, *args: Any, **options: Any) -> Any:
        response = await super().read_response(*args, **options)
        if self.socket_timeout is not None and time.monotonic() - self._asked > DOUBTED_AFTER:
            if await has_moved(self.connection_pool, self):
                await self.disconnect()
                raise redis.ConnectionError(MOVED)
            self._asked = time.monotonic()
        return response


class _AskingTls(_Asking, SentinelManagedSSLConnection):
    """The same with TLS."""


class _SyncAsking(SyncManagedConnection):
    """As `_Asking`, for blocking clients."""

    _asked = 0.0

    def connect_to(self, address: Place) -> None:
        self._asked = time.monotonic()
        super().connect_to(address)

    def send_packed_command(self, *args: Any, **options: Any) -> None:
        if not self.is_connected:
            self.connect()
        super().send_packed_command(*args, **options)

    def read_response(self, *args: Any, **options: Any) -> Any:
        response = super().read_response(*args, **options)
        if self.socket_timeout is not None and time.monotonic() - self._asked > DOUBTED_AFTER:
            if self._has_moved():
                self.disconnect()
                raise redis.ConnectionError(MOVED)
            self._asked = time.monotonic()
        return response

    def _has_moved(self) -> bool:
        pool = self.connection_pool
        try:
            place = pool.sentinel_manager.discover_master(pool.service_name)
        except (RedisError, OSError):
            return False
        return bool((self.host, self.port) != tuple(place))


class _SyncAskingTls(_SyncAsking, SyncManagedSSLConnection):
    """The same with TLS."""


def primary(place: Address, options: dict[str, Any]) -> Redis:
    """A client of the primary. `options` are redis-py's arguments for its connections."""
    sentinel = _Sentinels(list(place.sentinels), sentinel_kwargs=_for_sentinels(place, Retry(NoBackoff(), 0)))
    kind = _AskingTls if place.tls else _Asking
    client: Redis = sentinel.master_for(
        place.service, **place.options, **options, connection_class=kind, max_connections=CONNECTIONS
    )
    return client


def primary_sync(place: Address, options: dict[str, Any]) -> redis.Redis:
    """A blocking client of the primary. `options` are redis-py's arguments for its connections."""
    asking = _for_sentinels(place, SyncRetry(NoBackoff(), 0))
    sentinel = _SyncSentinels(list(place.sentinels), sentinel_kwargs=asking)
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

    Returns False if no Sentinel answers.
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
