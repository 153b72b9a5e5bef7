"""The load that every server gets, and the sweeps that show how the cost grows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from hub.bench.result import Load


@dataclass(frozen=True, slots=True)
class Scenario:
    """One load. `x` is the value that a sweep varies."""

    name: str
    title: str
    load: Load
    x: float = 0
    needs_history: bool = False


SCENARIOS = [
    Scenario("few", "500 viewers, 20 events/s", Load(500, rate=20, duration=10)),
    Scenario("many", "10,000 viewers, 5 events/s", Load(10_000, rate=5, duration=10)),
    Scenario("fast", "500 viewers, 2,000 events/s", Load(500, rate=2000, duration=10)),
    Scenario("spread", "1,000 jobs with 2 viewers, 2,000 events/s", Load(2000, 1000, rate=2000, duration=10)),
    Scenario(
        "first",
        "The first event of each of 2,000 jobs, with 2 viewers",
        Load(4000, 2000, rate=2000, duration=1, warm_up=0),
    ),
    Scenario("idle", "8,000 viewers sit idle, and how they joined", Load(8000, rate=0)),
    Scenario("alone", "3,000 first viewers: each is the only one of its job", Load(3000, 3000, rate=0)),
    Scenario(
        "back",
        "2,000 viewers of 500 jobs come back, 50 events behind",
        Load(2000, 500, rate=0, behind=50),
        needs_history=True,
    ),
]

QUICK = ("hub", "C, nothing but write", "Centrifugo", "Rust")
"""The servers of `--quick`: the floor, a product and a compiled broadcaster."""

SWEPT = ("hub", "nginx + nchan", "node")


def shorter(scenario: Scenario, duration: float, *, warm_up: float = math.inf) -> Scenario:
    """Returns the scenario with that many seconds of events at most. Its figures are the same, with more
    noise."""
    load = scenario.load
    seconds = {"duration": min(load.duration, duration), "warm_up": min(load.warm_up, warm_up)}
    return replace(scenario, load=replace(load, **seconds))


def sweeps() -> list[Scenario]:
    """Returns scenarios that vary one value and keep the others."""
    viewers = [
        Scenario("viewers", f"{count:,} viewers, 5 events/s", Load(count, rate=5, duration=8), count)
        for count in (100, 300, 1000, 3000, 7000, 15_000)
    ]
    rates = [
        Scenario("rate", f"500 viewers, {rate:,} events/s", Load(500, rate=rate, duration=8), rate)
        for rate in (1, 5, 20, 100, 500, 2000)
    ]
    # each viewer gets about two events a second, up to the 2,000 events/s that the producer can send
    jobs = [
        Scenario(
            "jobs",
            f"10,000 viewers on {count:,} jobs",
            Load(10_000, count, min(2000.0, 2.0 * count), duration=8),
            count,
        )
        for count in (1, 10, 100, 1000, 5000)
    ]
    return [*viewers, *rates, *jobs]
