"""The interleavings of attach, replay, live, heal, terminal, slow viewers, leave, linger, drain, age and lease.

The real Hub, Feed, Intake, Log, Audience, Seat and View (and the position check and the stream age) run on a loop that this
test turns by hand (loop.py), against a scripted Redis (redis.py). A scenario (scenarios.py) says what may happen; a scheduler
(explore.py) decides in which order; the laws (world.py, and `check` of tests/unit/scripted.py) say what must hold then.

What is counted: an interleaving is one complete run of one scenario, told apart by the list of choices that made it: which of all
things that could have happened next did, and, where the scenario says so, between which two turns of the loop. Runs with the same
list count once. Scenarios in `EVERY` are searched until no schedule is left, about 25,000; those in `SEEDED` are played 1,000
times each with dice. `test_ten_thousand_interleavings_are_run` holds the number.

A broken law prints the shortest schedule that was found to break it, and the command that plays it again.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

from tests.model.explore import MANY, Listed, Run, Seeded, every, explained, run, seeded
from tests.model.scenarios import ALL, EVERY, SEEDED
from tests.unit.scripted import Violation

SEEDS = 1_000


@dataclass
class Outcome:
    """What the runs of one scenario came to."""

    schedules: set[tuple[int, ...]] = field(default_factory=set)
    complete: bool = False  # there is no other schedule
    violation: str = ""
    seen: Counter[str] = field(default_factory=Counter)


@functools.cache
def outcome(name: str) -> Outcome:
    """Run a scenario, once for all tests here."""
    scenario, found = ALL[name], Outcome()
    exhaustive = scenario in EVERY
    preempt = scenario.preempt if exhaustive else MANY
    runs: Iterable[Run] = every(scenario) if exhaustive else seeded(scenario, range(SEEDS))
    try:
        for one in runs:
            found.schedules.add(one.choices)
            _note(found.seen, one)
        found.complete = exhaustive
    except Violation as error:
        found.violation = explained(scenario, error, preempt=preempt)
    return found


def _note(seen: Counter[str], one: Run) -> None:
    world = one.world
    seen.update(reason.name for reason in world.reasons)
    seen["between turns"] += any(
        label == "..." and after != "..." for label, after in zip(world.story, world.story[1:], strict=False)
    )
    for hub in world.hubs:
        totals = hub.statistics()
        seen.update(heals=totals.heals, gaps=totals.gaps, resyncs=totals.resyncs, refused=totals.refused)
    for viewer in world.viewers.values():
        kinds = [item.kind for item in viewer.items]
        seen.update(sessions=kinds.count("session"), ended=viewer.done)


@pytest.mark.parametrize("name", [scenario.name for scenario in EVERY])
def test_no_schedule_of_a_small_scenario_breaks_a_law(name):
    """All of them: each event once and in order or a notice with the state, one terminal, the end, nobody waits, nothing is left."""
    found = outcome(name)
    assert not found.violation, found.violation
    assert found.complete


@pytest.mark.parametrize("name", [scenario.name for scenario in SEEDED])
def test_no_schedule_by_dice_of_a_crowd_breaks_a_law(name):
    """The same laws, with everything at once and steps between any two turns of the loop."""
    found = outcome(name)
    assert not found.violation, found.violation


def test_ten_thousand_interleavings_are_run():
    """The number that is claimed, of different ones."""
    assert sum(len(outcome(name).schedules) for name in ALL) >= 10_000


def test_the_interleavings_reach_what_they_are_for():
    """Heals, gaps, resyncs, ends of every kind, returns and steps in the middle all happen, or the laws prove little."""
    seen = sum((outcome(name).seen for name in ALL), Counter())
    often = ["heals", "gaps", "ended", "between turns", "ENDED", "RESTART", "AGED", "TOO_SLOW"]
    assert min(seen[name] for name in often) > 100, seen
    assert min(seen[name] for name in ["resyncs", "refused"]) > 10, seen
    assert seen["sessions"] > 2 * sum(len(outcome(name).schedules) for name in ALL)


@pytest.mark.parametrize("name", [scenario.name for scenario in SEEDED])
def test_a_schedule_plays_the_same_again(name):
    """From its list of choices, step by step; else the printed command is worth nothing."""
    for seed in range(20):
        first = run(ALL[name], Seeded(seed), preempt=MANY)
        again = run(ALL[name], Listed(list(first.choices)), preempt=MANY)
        assert again.world.story == first.world.story
        told = [[viewer.items for viewer in one.world.viewers.values()] for one in (first, again)]
        assert told[0] == told[1]
