"""The interleavings of attach, replay, live, heal, terminal, slow viewers, leave, linger, drain, age and
lease.

The real Hub, Feed, Intake, Log, Audience, Seat and View (and the position check and the stream age) run on a
loop that the test drives (loop.py), against a scripted Redis (redis.py). A scenario (scenarios.py) lists what
may happen, a scheduler (explore.py) chooses the order, and the laws (world.py, and `check` of
tests/unit/scripted.py) say what must hold afterwards.

An interleaving is one complete run of one scenario. Its identity is the list of choices that produced it:
which of the possible things happened next and, if the scenario allows it, between which two turns of the
loop. Runs with the same list count once. In `EVERY` all schedules are played, about 25,000; each scenario in
`SEEDED` is played 1,000 times with random choices. `test_ten_thousand_interleavings_are_run` checks the
number.

A violation prints the shortest schedule that was found for it, and the command that replays that schedule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

from tests.model.ahead import Ahead
from tests.model.explore import MANY, Listed, Run, Seeded, every, explained, run, seeded
from tests.model.scenarios import ALL, EVERY, SEEDED
from tests.unit.scripted import Violation

SEEDS = 1_000


@dataclass
class Outcome:
    """The results of all runs of one scenario."""

    schedules: set[tuple[int, ...]] = field(default_factory=set)
    complete: bool = False  # True if every schedule was played
    violation: str = ""
    seen: Counter[str] = field(default_factory=Counter)


def played(name: str) -> Outcome:
    """Run a scenario."""
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


outcome = Ahead(played, ALL)
"""The outcome of a scenario; the tests share it."""


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
    """The laws: each event comes once and in order, or a notice with the state does; there is one terminal,
    then the end; nobody waits for ever, and nothing is left.
    """
    found = outcome(name)
    assert not found.violation, found.violation
    assert found.complete


@pytest.mark.parametrize("name", [scenario.name for scenario in SEEDED])
def test_no_random_schedule_of_a_large_scenario_breaks_a_law(name):
    """The same laws hold with many actors, and with steps between any two turns of the loop."""
    found = outcome(name)
    assert not found.violation, found.violation


def test_ten_thousand_interleavings_are_run():
    """The documents claim this number; only different interleavings count."""
    assert sum(len(outcome(name).schedules) for name in ALL) >= 10_000


def test_the_interleavings_reach_what_they_are_for():
    """Heals, gaps, resyncs, ends of every kind, reconnects and steps between turns all occur."""
    seen = sum((outcome(name).seen for name in ALL), Counter())
    often = ["heals", "gaps", "ended", "between turns", "ENDED", "RESTART", "AGED", "TOO_SLOW"]
    assert min(seen[name] for name in often) > 100, seen
    assert min(seen[name] for name in ["resyncs", "refused"]) > 10, seen
    assert seen["sessions"] > 2 * sum(len(outcome(name).schedules) for name in ALL)


@pytest.mark.parametrize("name", [scenario.name for scenario in SEEDED])
def test_a_schedule_plays_the_same_again(name):
    """A schedule's list of choices replays it step by step, so the printed command can be trusted."""
    for seed in range(20):
        first = run(ALL[name], Seeded(seed), preempt=MANY)
        again = run(ALL[name], Listed(list(first.choices)), preempt=MANY)
        assert again.world.story == first.world.story
        told = [[viewer.items for viewer in one.world.viewers.values()] for one in (first, again)]
        assert told[0] == told[1]
