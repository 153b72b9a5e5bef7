"""The primaries of a Redis Cluster or Valkey Cluster, for async code: a plain client for each, and a map.

Invariant: a command is tried again for `patience` seconds while its slot or its primary moves. Every write of
ours has an idempotency key, so trying again publishes once.

redis-py's own cluster client gives up after 0.4 s, and a client of it that only subscribes stays silent for
ever after a planned failover. So only its names and connections are used.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import BlockingConnectionPool, Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ClusterDownError, MovedError, RedisError

from hub.broker import multiplexed
from hub.broker.topology import Place, Topology, is_transient, not_reached, slot_of
from hub.ending import end_tasks

PAUSE = 0.1
"""Seconds between two tries of a command, and between two looks at the cluster."""

LOOK_TIMEOUT = 1.0
"""Seconds that a node may take to tell who serves what; after that another one is asked."""

CONNECTIONS = 50
"""Most connections for commands to each primary; whoever needs one more waits."""

NOT_FOR_CONNECTIONS = ("max_connections", "response_callbacks", "himport_registry", "redis_connect_func")
"""What redis-py keeps among the arguments for its connections to a cluster, and is ours to say."""

T = TypeVar("T")


class Cluster:
    """Nodes are first looked for at `places`. `options` are redis-py's arguments for a connection."""

    def __init__(
        self, places: Sequence[Place], options: dict[str, Any], *, patience: float, tls: bool = False
    ) -> None:
        self.topology = Topology(places)
        self.place: Hashable = ("cluster", frozenset(places), options.get("username"))
        self.patience = patience
        self._places = tuple(places)
        self._options = {**options, "retry": Retry(NoBackoff(), 0), "protocol": 2, "decode_responses": False}
        self._tls = tls
        self.is_multiplexed = False  # the clients have connections for everybody
        self._clients: dict[Place, Redis] = {}
        self._looking: asyncio.Task[bool] | None = None
        self._looked = 0.0  # loop time of the end of the last look

    @classmethod
    def of(cls, client: RedisCluster, *, patience: float) -> Cluster:
        """The cluster of an application's own client, with connections of our own."""
        given = dict(client.connection_kwargs)
        tls = issubclass(given.pop("connection_class", Connection), SSLConnection)
        for name in NOT_FOR_CONNECTIONS:
            given.pop(name, None)
        places = [(str(node.host), int(node.port)) for node in client.nodes_manager.startup_nodes.values()]
        timeout = given.get("socket_timeout") or patience
        return cls(places, {**given, "socket_timeout": min(timeout, patience)}, patience=patience, tls=tls)

    def sibling(self) -> Cluster:
        """The same cluster with connections of its own."""
        return Cluster(self._places, self._options, patience=self.patience, tls=self._tls)

    def at(self, place: Place) -> Redis:
        """The client of one node."""
        client = self._clients.get(place)
        if client is None:
            pool = BlockingConnectionPool(
                connection_class=SSLConnection if self._tls else Connection,
                host=place[0],
                port=place[1],
                max_connections=CONNECTIONS,
                timeout=self.patience,
                **self._options,
            )
            client = self._clients[place] = Redis.from_pool(pool)
            if self.is_multiplexed:
                multiplexed.enable(client)
        return client

    @property
    def clients(self) -> list[Redis]:
        """Those of all nodes that were asked."""
        return list(self._clients.values())

    def any(self) -> Redis:
        """The client of some node."""
        return self.at(next(iter(self.topology.all_nodes)))

    async def run(self, key: str, ask: Callable[[Redis], Awaitable[T]]) -> T:
        """What `ask` returns for the client of the primary that has `key`. `ask` may be called several times.

        Raises ClusterDownError when `patience` seconds have passed, and at once what no other try would
        change.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + self.patience
        slot = slot_of(key)
        while True:
            place = self.topology.owner(slot)
            try:
                if place is not None:
                    return await ask(self.at(place))
                error: Exception = ClusterDownError(f"nobody serves the slot of {key}")
            except (RedisError, OSError, TimeoutError) as caught:
                if not is_transient(caught):
                    raise
                error = caught
                self._note(error, place)
            if loop.time() + PAUSE > end:
                raise ClusterDownError(f"no primary of the cluster did it: {error}") from error
            if not isinstance(error, MovedError):
                await self.look()
                await asyncio.sleep(PAUSE if place is not None else 0)

    def groups(self, keys: Sequence[str]) -> list[list[int]]:
        """The indices of `keys`, together where the primary is the same."""
        found: dict[Place | None, list[int]] = {}
        for index, key in enumerate(keys):
            found.setdefault(self.topology.owner(slot_of(key)), []).append(index)
        return list(found.values())

    async def look(self) -> bool:
        """Ask a node who serves what, unless that was done a moment ago. Returns False if no node was
        believed. Cancel-safe: all who look at once share one look.
        """
        if self._looking is None or self._looking.done():
            if asyncio.get_running_loop().time() - self._looked < PAUSE and self.topology.version:
                return True
            self._looking = asyncio.create_task(self._look(), name="hub-cluster-look")
        await asyncio.wait([self._looking])
        return not self._looking.cancelled() and self._looking.result()

    async def ping(self) -> None:
        """Raises RedisError unless most primaries answer."""
        if not self.topology.primaries and not await self.look():
            raise ClusterDownError("no node of the cluster answers")
        places = list(self.topology.primaries)
        answers = await asyncio.gather(*(self._ping(place) for place in places))
        if sum(answers) * 2 <= len(places):
            raise ClusterDownError(f"{sum(answers)} of {len(places)} primaries answer")

    async def aclose(self) -> None:
        """Close all connections."""
        if self._looking is not None:
            await end_tasks(self._looking)
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await _close(client)

    def _note(self, error: Exception, place: Place | None) -> None:
        if place is not None and isinstance(error, MovedError):
            self.topology.moved(error, asked=place, now=asyncio.get_running_loop().time())
        elif place is not None and not_reached(error):
            self.topology.failed(place)

    async def _ping(self, place: Place) -> bool:
        try:
            async with asyncio.timeout(LOOK_TIMEOUT):
                return bool(await self.at(place).ping())
        except (RedisError, OSError, TimeoutError):
            return False

    async def _look(self) -> bool:
        nodes = list(self.topology.all_nodes)
        random.shuffle(nodes)
        try:
            for place in nodes:
                if await self._ask(place):
                    await self._forget()
                    return True
            return False
        finally:
            self._looked = asyncio.get_running_loop().time()

    async def _ask(self, place: Place) -> bool:
        try:
            async with asyncio.timeout(LOOK_TIMEOUT), self.at(place).pipeline(transaction=False) as pipe:
                pipe.execute_command("CLUSTER", "INFO")
                pipe.execute_command("CLUSTER", "SLOTS")
                info, slots = await pipe.execute()
        except (RedisError, OSError, TimeoutError):
            return False
        return self.topology.take(info, slots, asked=place, now=asyncio.get_running_loop().time())

    async def _forget(self) -> None:
        """Close the clients of nodes that are gone."""
        for place in self._clients.keys() - self.topology.all_nodes - self.topology.primaries:
            await _close(self._clients.pop(place))


async def _close(client: Redis) -> None:
    await multiplexed.close(client)
    await client.aclose()
