"""Chooses the hub for a viewer, as a list of addresses or a load balancer does."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from tests.faults.rig.process import Hub


def in_turn(*hubs: Hub) -> Callable[[], str]:
    """For one viewer: the first hub, and the next one after each connection."""
    tries = 0

    def where() -> str:
        nonlocal tries
        tries += 1
        return hubs[(tries - 1) % len(hubs)].url

    return where


def at_random(hubs: Sequence[Hub], rng: random.Random) -> Callable[[], str]:
    """For all viewers: any of the hubs."""
    return lambda: rng.choice(hubs).url
