"""As cluster.py, for blocking code. Threads may share one."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from redis import Redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.connection import Connection, ConnectionPool, SSLConnection
from redis.exceptions import ClusterDownError, MovedError, RedisError
from redis.retry import Retry

from hub.broker.cluster import LOOK_TIMEOUT, NOT_FOR_CONNECTIONS, PAUSE
from hub.broker.topology import Place, Topology, is_transient, not_reached, slot_of

T = TypeVar("T")


class BlockingCluster:
    """Nodes are first looked for at `places`. `options` are redis-py's arguments for a connection."""

    def __init__(
        self, places: Sequence[Place], options: dict[str, Any], *, patience: float, tls: bool = False
    ) -> None:
        self._topology = Topology(places)
        self._patience = patience
        self._options = {**options, "retry": Retry(NoBackoff(), 0), "protocol": 2, "decode_responses": False}
        self._connection = SSLConnection if tls else Connection
        self._clients: dict[Place, Redis] = {}
        self._lock = threading.Lock()  # one look at a time, and one client per node
        self._looked = 0.0

    @classmethod
    def of(cls, client: RedisCluster, *, patience: float) -> BlockingCluster:
        """The cluster of an application's own client, with connections of our own."""
        manager = client.nodes_manager
        given = dict(manager.connection_kwargs)
        tls = bool(given.pop("ssl", False)) or given.pop("connection_class", Connection) is SSLConnection
        for name in ("host", "port", *NOT_FOR_CONNECTIONS):
            given.pop(name, None)
        places = [(str(node.host), int(node.port)) for node in manager.startup_nodes.values()]
        timeout = given.get("socket_timeout") or patience
        return cls(places, {**given, "socket_timeout": min(timeout, patience)}, patience=patience, tls=tls)

    def at(self, place: Place) -> Redis:
        """The client of one node."""
        with self._lock:
            client = self._clients.get(place)
            if client is None:
                host, port = place
                pool = ConnectionPool(
                    connection_class=self._connection, host=host, port=port, **self._options
                )
                client = self._clients[place] = Redis(connection_pool=pool)
            return client

    def any(self) -> Redis:
        """The client of some node."""
        return self.at(next(iter(self._topology.all_nodes)))

    def run(self, key: str, ask: Callable[[Redis], T]) -> T:
        """As `Cluster.run`."""
        end = time.monotonic() + self._patience
        slot = slot_of(key)
        while True:
            place = self._topology.owner(slot)
            try:
                if place is not None:
                    return ask(self.at(place))
                error: Exception = ClusterDownError(f"nobody serves the slot of {key}")
            except (RedisError, OSError) as caught:
                if not is_transient(caught):
                    raise
                error = caught
                self._note(error, place)
            if time.monotonic() + PAUSE > end:
                raise ClusterDownError(f"no primary of the cluster did it: {error}") from error
            if not isinstance(error, MovedError):
                self._look()
                time.sleep(PAUSE if place is not None else 0)

    def close(self) -> None:
        """Close all connections."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()

    def _note(self, error: Exception, place: Place | None) -> None:
        if place is not None and isinstance(error, MovedError):
            self._topology.moved(error, asked=place, now=time.monotonic())
        elif place is not None and not_reached(error):
            self._topology.failed(place)

    def _look(self) -> None:
        began = time.monotonic()
        nodes = list(self._topology.all_nodes)
        random.shuffle(nodes)
        for place in nodes:
            if self._looked > began or self._ask(place):  # another thread was here meanwhile
                break
        self._looked = time.monotonic()
        for place in self._clients.keys() - self._topology.all_nodes:
            self._clients.pop(place).close()

    def _ask(self, place: Place) -> bool:
        options = {**self._options, "socket_timeout": LOOK_TIMEOUT, "socket_connect_timeout": LOOK_TIMEOUT}
        host, port = place
        pool = ConnectionPool(connection_class=self._connection, host=host, port=port, **options)
        try:
            with Redis(connection_pool=pool) as client, client.pipeline(transaction=False) as pipe:
                pipe.execute_command("CLUSTER", "INFO")
                pipe.execute_command("CLUSTER", "SLOTS")
                info, slots = pipe.execute()
        except (RedisError, OSError):
            return False
        finally:
            pool.disconnect()
        with self._lock:
            return self._topology.take(info, slots, asked=place, now=time.monotonic())
