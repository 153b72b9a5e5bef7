"""Which primary of a cluster serves which slot, as its nodes tell it. Pure: no I/O.

Invariant: what a node that is cut off from the others says never replaces what is newer. A view counts only
if its node says that the cluster is well, and if its epoch is not below the highest one seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import ClusterError, MovedError, RedisError, ResponseError, TryAgainError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

Place = tuple[str, int]
"""Host and port of a node."""

HINT = 5.0
"""Seconds for which a MOVED counts more than a view of the same epoch: not every node knows of a move at
once."""

STUCK = 30.0
"""Seconds without a view that counts, after which any view of a node that is well counts: the cluster was
made anew, and its epochs begin again."""

TRANSIENT = (RedisConnectionError, RedisTimeoutError, OSError, TimeoutError, ClusterError, TryAgainError)
"""What a command meets while a slot or a primary moves, besides MOVED and ASK. Trying again helps."""


def slot_of(key: str) -> int:
    """The slot of a key or a sharded channel."""
    return key_slot(key.encode())


def is_transient(error: Exception) -> bool:
    """Returns True if the same command may succeed at another node, or here in a moment."""
    if isinstance(error, ResponseError) and str(error).startswith(("LOADING", "MASTERDOWN", "READONLY")):
        return True
    return isinstance(error, TRANSIENT) or (isinstance(error, ResponseError) and hasattr(error, "slot_id"))


class Topology:
    """The newest view that counts. `places` are the nodes to ask at first; `version` grows with each
    change.
    """

    def __init__(self, places: Iterable[Place]) -> None:
        self.version = 0
        self.primaries: frozenset[Place] = frozenset()
        self.nodes = frozenset(places)  # everybody who can be asked, replicas too
        self._first = self.nodes
        self._owners: list[Place | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._hints: dict[int, tuple[Place, int, float]] = {}  # slot -> where MOVED pointed, epoch, time
        self._epoch = 0
        self._counted: float | None = None  # time of the last view that counted

    def owner(self, slot: int) -> Place | None:
        """The primary of `slot`; None if nobody serves it."""
        hint = self._hints.get(slot)
        return self._owners[slot] if hint is None else hint[0]

    @property
    def all_nodes(self) -> frozenset[Place]:
        """The nodes of the newest view, and those that were given."""
        return self.nodes | self._first

    def take(self, info: bytes, slots: Sequence[Any], *, asked: Place, now: float) -> bool:
        """A node's answers to CLUSTER INFO and CLUSTER SLOTS. Returns True if its view counts."""
        facts = dict(line.split(":", 1) for line in info.decode().split("\r\n") if ":" in line)
        epoch = int(facts.get("cluster_current_epoch", "0"))
        if facts.get("cluster_state") != "ok":
            return False
        if epoch < self._epoch and not (self._counted is not None and now - self._counted > STUCK):
            return False
        owners: list[Place | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        nodes = set()
        for first, last, *group in slots:
            places = [_place(node, asked) for node in group]
            nodes.update(places)
            owners[first : last + 1] = [places[0]] * (last + 1 - first)
        self._hints = {
            slot: hint
            for slot, hint in self._hints.items()
            if hint[1] >= epoch and now - hint[2] < HINT and owners[slot] != hint[0]
        }
        primaries = frozenset(place for place in owners if place is not None)
        if owners != self._owners or primaries != self.primaries:
            self.version += 1
        self._owners, self.primaries, self.nodes = owners, primaries, frozenset(nodes)
        self._epoch, self._counted = epoch, now
        return True

    def moved(self, error: MovedError, *, asked: Place, now: float) -> None:
        """A node has said where a slot is."""
        place = (error.host or asked[0], error.port)
        if self.owner(error.slot_id) != place:
            self._hints[error.slot_id] = (place, self._epoch, now)
            self.version += 1

    def failed(self, place: Place) -> None:
        """`place` does not answer, so what pointed there points nowhere."""
        wrong = [slot for slot, hint in self._hints.items() if hint[0] == place]
        for slot in wrong:
            del self._hints[slot]
            self.version += 1


def _place(node: Sequence[Any], asked: Place) -> Place:
    """[host, port, ...] of CLUSTER SLOTS. A node that does not know its own address gives none, or "?"."""
    host = node[0].decode() if node[0] else ""
    return (asked[0] if host in ("", "?") else host, int(node[1]))


def not_reached(error: Exception) -> bool:
    """Returns True if the node gave no answer."""
    return not isinstance(error, ResponseError) and isinstance(error, (RedisError, OSError, TimeoutError))
