"""Which hub a viewer goes to: the way a load balancer, or a list of addresses, would have it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from tests.faults.rig.process import Hub


def in_turn(*hubs: Hub) -> Callable[[], str]:
    """The first hub at first, and the next one whenever a connection is over. For one viewer."""
    tries = 0

    def where() -> str:
        nonlocal tries
        tries += 1
        return hubs[(tries - 1) % len(hubs)].url

    return where


def at_random(hubs: Sequence[Hub], rng: random.Random) -> Callable[[], str]:
    """Any of them. For all viewers."""
    return lambda: rng.choice(hubs).url
