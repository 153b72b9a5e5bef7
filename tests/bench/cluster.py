"""What a cluster costs, on six nodes of this machine: `python -m tests.bench.cluster`.

Prints the CPU of all nodes per event, sharded and classic, and how long it takes to subscribe again to 50,000
jobs after all connections were lost.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path

import redis

from hub.broker.cluster import Cluster
from hub.broker.keys import Keys
from hub.broker.shards import ClusterSubscriber
from hub.job.event import JobId
from tests.faults.rig.cluster import ClusterProcesses, Node
from tests.faults.rig.process import Process

EVENTS = 200_000
JOBS = 50_000
BODY = '{"id":"1732345000123-7","type":"step","n":1,"job_id":"a"}'


class Counter:
    """A sink that counts doubts."""

    doubts = 0

    def receive(self, data: bytes) -> None:
        """Nothing to do."""

    def missed(self) -> None:
        """Nothing to do."""

    def doubt(self) -> None:
        """Its channel was confirmed again."""
        Counter.doubts += 1


def cpu_seconds(nodes: Sequence[Node]) -> float:
    """The CPU that the main threads of all nodes have had."""
    ticks = 0
    for node in nodes:
        fields = Path(f"/proc/{node.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def publish(cluster: ClusterProcesses, verb: str, channel: str) -> float:
    """Returns the microseconds of CPU per event, over all nodes."""
    before = cpu_seconds(cluster.nodes)
    with redis.Redis(port=cluster.owner(channel).port) as client:
        for _ in range(EVENTS // 1000):
            with client.pipeline(transaction=False) as pipe:
                for _ in range(1000):
                    pipe.execute_command(verb, channel, BODY)
                pipe.execute()
    time.sleep(0.5)  # the bus is behind
    return (cpu_seconds(cluster.nodes) - before) / EVENTS * 1e6


async def subscribe_again(cluster: ClusterProcesses) -> tuple[float, int]:
    """Returns the seconds until all jobs are confirmed again, and the number of SSUBSCRIBE commands."""
    nodes = Cluster([("127.0.0.1", node.port) for node in cluster.nodes], {}, patience=5)
    subscriber = ClusterSubscriber(nodes)
    keys = Keys(sharded=True)
    sink = Counter()
    for first in range(0, JOBS, 5000):
        names = (keys.events(JobId(f"job-{n}")) for n in range(first, first + 5000))
        await asyncio.gather(*(subscriber.subscribe(name, sink, deadline=30) for name in names))
    for node in cluster.nodes:
        node.command_now("CONFIG", "RESETSTAT")
        node.command_now("CLIENT", "KILL", "TYPE", "pubsub")
    began = time.monotonic()
    while sink.doubts < JOBS:
        await asyncio.sleep(0.01)
    took = time.monotonic() - began
    commands = 0
    for node in cluster.nodes:
        found = node.command_now("INFO", "commandstats").get("cmdstat_ssubscribe", {})
        commands += int(found.get("calls", 0))
    await subscriber.aclose()
    await nodes.aclose()
    return took, commands


def main() -> None:
    """Run all and print it."""
    processes: list[Process] = []
    try:
        cluster = ClusterProcesses(processes)
        sharded = publish(cluster, "SPUBLISH", "push-hub:{job:a}:events")
        classic = publish(cluster, "PUBLISH", "job:a:events")
        print(f"CPU of six nodes per event: SPUBLISH {sharded:.1f} us, PUBLISH {classic:.1f} us,", end=" ")
        print(f"ratio {sharded / classic:.2f}")
        took, commands = asyncio.run(subscribe_again(cluster))
        print(f"{JOBS} jobs subscribed again in {took:.2f} s by {commands} commands")
    finally:
        for process in processes:
            process.close()


if __name__ == "__main__":
    main()
