"""How many hubs and Redises a load needs, by arithmetic on unit costs. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hub.bench.units import Units
from hub.errors import InvalidSettings

BUSY = 0.5
"""Share of a core that a process may use in the mean: bursts come on top, and the viewers of a process that
has died."""

VIEWERS_PER_PROCESS = 20_000
"""Viewers of a process: as many come back at once when it ends, in about `DRAIN` seconds."""

DRAIN = 20.0
"""Seconds over which a hub that is replaced moves its viewers (HUB_DRAIN)."""

ENTRY = 60
"""Bytes that a retained event has in Redis besides its body."""

REDIS_MEMORY = 16e9
"""Bytes of events that one Redis should hold: a larger one takes minutes to start and to replicate."""

NETWORK = 125e6
"""Bytes per second that one machine may send: 1 Gbit/s."""


@dataclass(frozen=True, slots=True)
class Load:
    """`jobs` that are watched by `viewers`, each with `rate` events a second of `size` bytes, of which `kept`
    are retained. `routed`: a proxy sends all viewers of a job to one process.
    """

    viewers: int
    jobs: int
    rate: float
    size: int = 300
    kept: int = 200
    routed: bool = False

    def __post_init__(self) -> None:
        if min(self.viewers, self.jobs, self.size) < 1 or min(self.rate, self.kept) < 0:
            raise InvalidSettings("expected viewers, jobs and a size above 0, and no negative rate")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a load needs. CPU in cores, memory in bytes, network in bytes per second."""

    processes: int  # of hubs, one core each
    watching: float  # processes that watch a job, in the mean
    hub_cores: float  # that are busy, over all hubs
    hub_memory: float  # over all hubs
    kernel_memory: float
    shards: int  # of Redis; one is a single Redis
    redis_cores: float  # that are busy, over all shards
    redis_memory: float
    network: float  # to the viewers
    joins: float  # a second, while one process is replaced
    first: str  # what needs the most machines

    @property
    def is_cluster(self) -> bool:
        """Returns True if one Redis is not enough."""
        return self.shards > 1


def plan(load: Load, units: Units) -> Plan:
    """What `load` needs."""
    deliveries = load.viewers * load.rate
    events = load.jobs * load.rate
    by_viewers = math.ceil(load.viewers / VIEWERS_PER_PROCESS)
    processes, watching, cores = max(2, by_viewers), 1.0, 0.0
    for _ in range(50):  # more processes spread a job's viewers over more of them, which costs more messages
        watching = 1.0 if load.routed else _distinct(load.viewers / load.jobs, processes)
        cores = (events * watching * units.message + deliveries * units.delivery) / 1e6
        wanted = max(2, by_viewers, math.ceil(cores / BUSY))
        if wanted <= processes:
            break
        processes = wanted
    redis_cores = events * (units.publish + units.announce * watching) / 1e6
    redis_memory = load.jobs * load.kept * (load.size + ENTRY)
    by_cpu, by_memory = math.ceil(redis_cores / BUSY), math.ceil(redis_memory / REDIS_MEMORY)
    shards = max(1, by_cpu, by_memory)
    shards = max(3, shards) if shards > 1 else 1  # a cluster has three primaries or more
    network = deliveries * load.size
    needs = {
        "the CPU of the hubs": cores / BUSY,
        "viewers per process": load.viewers / VIEWERS_PER_PROCESS,
        "the CPU of Redis": redis_cores / BUSY,
        "the memory of Redis": redis_memory / REDIS_MEMORY,
        "the network": network / NETWORK,
    }
    return Plan(
        processes=processes,
        watching=watching,
        hub_cores=cores,
        hub_memory=load.viewers * units.viewer + load.jobs * watching * units.job,
        kernel_memory=load.viewers * units.connection,
        shards=shards,
        redis_cores=redis_cores,
        redis_memory=redis_memory,
        network=network,
        joins=load.viewers / processes / DRAIN,
        first=max(needs, key=lambda name: needs[name]),
    )


def _distinct(viewers: float, processes: int) -> float:
    """Processes that a job's viewers are on, in the mean, if each chooses by chance."""
    return float(processes * (1 - (1 - 1 / processes) ** viewers)) if processes > 1 else 1.0
