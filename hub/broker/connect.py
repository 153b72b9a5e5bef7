"""Makes Redis clients from a URL, with time limits that suit each use.

With redis-py's defaults (5 s timeout, 10 retries) a GET on a server that refuses connections takes 4 s, and
writes are repeated across a stall. So each client made here sets its own limits.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.cluster
from redis.asyncio.connection import BlockingConnectionPool
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff
from redis.exceptions import MovedError
from redis.retry import Retry

from hub.broker import multiplexed
from hub.broker.address import Address
from hub.broker.blocking_cluster import BlockingCluster
from hub.broker.cluster import Cluster
from hub.broker.sentinel import close_sentinels, close_sentinels_sync, primary, primary_sync
from hub.errors import BrokerUnavailable, InvalidSettings

AsyncRedis = redis.asyncio.Redis
"""The async client. The other rooms import this name, so that only the broker room imports redis."""

SyncRedis = redis.Redis

AsyncClient = redis.asyncio.Redis | redis.asyncio.cluster.RedisCluster | Cluster
"""What an application may give: a client of one Redis, redis-py's client of a cluster, or one made here."""

SyncClient = redis.Redis | redis.cluster.RedisCluster | BlockingCluster

Nodes = redis.asyncio.Redis | Cluster
"""What the hub works with: one Redis, or the primaries of a cluster."""

SyncNodes = redis.Redis | BlockingCluster

T = TypeVar("T")

REQUEST_TIMEOUT = 2.0
"""Seconds that a command for a viewer's request may take; a person who waits longer assumes an error."""

PUBLISH_TIMEOUT = 5.0
"""Seconds that a producer's command may take; for a worker, losing an event is worse than waiting."""

PATIENCE = 20.0
"""Seconds for which a producer tries again on a cluster: a slot with 20,000 keys that moves refuses the
script for 4 s, and a primary that froze is replaced after 9 s."""

DRIVER: dict[str, Any] = {"driver_info": redis.DriverInfo()} if hasattr(redis, "DriverInfo") else {}
"""The client name that connections report (CLIENT SETINFO). Shared by all connections: redis-py would
otherwise read its package metadata from disk for each connection, which blocks the event loop for 0.4 to 10
ms. A worker's older redis-py has no such option."""


def for_requests(url: str) -> Nodes:
    """The hub's client: short timeouts, one retry. Raises InvalidSettings if `url` is not a Redis URL."""
    options: dict[str, Any] = {
        "socket_timeout": REQUEST_TIMEOUT,
        "socket_connect_timeout": REQUEST_TIMEOUT,
        "retry": AsyncRetry(ExponentialBackoff(cap=0.2, base=0.05), 1),
        "protocol": 2,
        **DRIVER,
    }
    place = Address.parse(url)
    if place.service:
        return primary(place, options)
    if place.nodes:
        return multiplex(
            Cluster(place.nodes, options | place.options, patience=REQUEST_TIMEOUT, tls=place.tls)
        )
    # Joins come in storms; commands are short, so fifty connections carry thousands a second, and the rest
    # waits.
    pool = BlockingConnectionPool.from_url(place.url, **options, max_connections=50, timeout=REQUEST_TIMEOUT)
    return multiplex(AsyncRedis.from_pool(pool))


def for_publishing(url: str) -> Nodes:
    """A producer's client. Its retries are safe, because every publish carries an idempotency key."""
    options: dict[str, Any] = {
        "socket_timeout": PUBLISH_TIMEOUT,
        "socket_connect_timeout": PUBLISH_TIMEOUT,
        "retry": AsyncRetry(ExponentialBackoff(cap=0.5, base=0.05), 3),
        "protocol": 2,
        **DRIVER,
    }
    place = Address.parse(url)
    if place.nodes:
        options = _on_cluster(options | place.options)
        return multiplex(Cluster(place.nodes, options, patience=PATIENCE, tls=place.tls))
    return primary(place, options) if place.service else multiplex(AsyncRedis.from_url(place.url, **options))


def for_publishing_sync(url: str) -> SyncNodes:
    """A producer's client for blocking code."""
    options: dict[str, Any] = {
        "socket_timeout": PUBLISH_TIMEOUT,
        "socket_connect_timeout": PUBLISH_TIMEOUT,
        "retry": Retry(ExponentialBackoff(cap=0.5, base=0.05), 3),
        "protocol": 2,
        **DRIVER,
    }
    place = Address.parse(url)
    if place.nodes:
        options = _on_cluster(options | place.options)
        return BlockingCluster(place.nodes, options, patience=PATIENCE, tls=place.tls)
    if not place.service:
        return SyncRedis.from_url(place.url, **options)
    return primary_sync(place, options)


def _on_cluster(options: dict[str, Any]) -> dict[str, Any]:
    """A frozen primary is left after two seconds: the map may know another one by then."""
    return options | {"socket_timeout": REQUEST_TIMEOUT, "socket_connect_timeout": REQUEST_TIMEOUT}


def multiplex(nodes: Nodes) -> Nodes:
    """`nodes`, with a connection for the commands of everybody, which `close` ends."""
    if isinstance(nodes, Cluster):
        nodes.is_multiplexed = True
    else:
        multiplexed.enable(nodes)
    return nodes


def nodes_of(client: AsyncClient, *, patience: float = REQUEST_TIMEOUT) -> Nodes:
    """`client`, or what the hub works with for redis-py's client of a cluster."""
    if isinstance(client, redis.asyncio.cluster.RedisCluster):
        return Cluster.of(client, patience=patience)
    return client


def nodes_of_sync(client: SyncClient) -> SyncNodes:
    """The same for blocking code."""
    if isinstance(client, redis.cluster.RedisCluster):
        return BlockingCluster.of(client, patience=PATIENCE)
    return client


async def at(nodes: Nodes, key: str, ask: Callable[[AsyncRedis], Awaitable[T]]) -> T:
    """What `ask` returns for the client of the Redis that has `key`. On a cluster it may be called again."""
    return await (nodes.run(key, ask) if isinstance(nodes, Cluster) else ask(nodes))


def at_sync(nodes: SyncNodes, key: str, ask: Callable[[SyncRedis], T]) -> T:
    """The same for blocking code."""
    return nodes.run(key, ask) if isinstance(nodes, BlockingCluster) else ask(nodes)


def groups(nodes: Nodes, keys: Sequence[str]) -> list[list[int]]:
    """The indices of `keys`, together where they can be asked for together."""
    return nodes.groups(keys) if isinstance(nodes, Cluster) else [list(range(len(keys)))]


def is_cluster(nodes: Nodes | SyncNodes) -> bool:
    """Returns True for the nodes of a cluster."""
    return isinstance(nodes, (Cluster, BlockingCluster))


def single(url: str) -> AsyncRedis:
    """`for_publishing`, where a cluster will not do. Raises InvalidSettings for one."""
    client = for_publishing(url)
    if isinstance(client, Cluster):
        raise InvalidSettings("expected the URL of a single Redis, got that of a cluster")
    return client


def single_sync(url: str) -> SyncRedis:
    """The same for blocking code."""
    client = for_publishing_sync(url)
    if isinstance(client, BlockingCluster):
        raise InvalidSettings("expected the URL of a single Redis, got that of a cluster")
    return client


async def close(client: AsyncClient) -> None:
    """Close a client made by this module, and its connections to Sentinels."""
    if isinstance(client, AsyncRedis):
        await multiplexed.close(client)
    await client.aclose()
    if isinstance(client, AsyncRedis):
        await close_sentinels(client)


def close_sync(client: SyncNodes) -> None:
    """The same for a blocking client."""
    client.close()
    if isinstance(client, SyncRedis):
        close_sentinels_sync(client)


def sibling(nodes: Nodes, **changes: Any) -> Nodes:
    """The same place with connections of its own; `changes` to what redis-py makes them with."""
    return multiplex(nodes.sibling() if isinstance(nodes, Cluster) else client_like(nodes, **changes))


def client_like(client: AsyncRedis, **changes: Any) -> AsyncRedis:
    """As `sibling`, of a client of one Redis."""
    pool = copy.copy(client.connection_pool)
    pool.connection_kwargs = {**pool.connection_kwargs, **changes}
    if isinstance(pool, BlockingConnectionPool):
        pool._condition = asyncio.Condition()  # noqa: SLF001  # the copy would wait for the other's connections
    pool.reset()
    return AsyncRedis.from_pool(pool)


def place_of(client: AsyncClient) -> Hashable:
    """Equal for two clients of the same database of the same Redis, or of the same cluster."""
    if isinstance(client, Cluster):
        return client.place
    if isinstance(client, redis.asyncio.cluster.RedisCluster):
        return Cluster.of(client, patience=REQUEST_TIMEOUT).place
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

    def __init__(self, given: Nodes) -> None:
        self.given = given
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, Nodes] = WeakKeyDictionary()
        self._is_given = False

    def get(self) -> Nodes:
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


def words(error: Exception) -> str:
    """The error's message, or the name of its class if the message is empty, as for many timeouts."""
    if isinstance(error, MovedError):
        return f"this Redis is a node of a cluster, whose URL begins with redis+cluster:// ({error})"
    return str(error) or type(error).__name__


def unavailable(error: Exception) -> BrokerUnavailable:
    """A BrokerUnavailable for an error of redis-py or the network."""
    return BrokerUnavailable(f"expected an answer from Redis, got: {words(error)}")


OUTAGE = (redis.RedisError, OSError, TimeoutError)
"""The exceptions of a Redis that is unreachable, stalled or failing."""
