"""Schedulers: all schedules of a scenario, depth first, or random ones by seed; and the shrinking of a
schedule.

A schedule is the list of choices that were made. When the loop has nothing to run, the scheduler chooses what
happens next. Between two turns of the loop it may choose too (0: nothing happens), until the scenario's
number of pre-emptions is used up. The list is enough to replay the run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.model.world import Scenario, World, on_its_own
from tests.unit.scripted import Violation

STAY = 0.75
"""Probability that nothing happens between two turns of the loop, in a seeded schedule."""

MANY = 10**6


class Listed:
    """Takes choices from a list, and the first option after its end. Records what was chosen."""

    def __init__(self, choices: list[int]) -> None:
        self._choices = choices
        self.taken: list[int] = []
        self.widths: list[int] = []

    def next(self, width: int) -> int:
        number = len(self.taken)
        return self._choices[number] % width if number < len(self._choices) else 0

    def between(self, width: int) -> int:
        return self.next(width)

    def pick(self, width: int, *, between: bool = False) -> int:
        """Returns a number below `width`."""
        chosen = self.between(width) if between else self.next(width)
        self.taken.append(chosen)
        self.widths.append(width)
        return chosen


class Seeded(Listed):
    """Takes random choices, by a seed."""

    def __init__(self, seed: int) -> None:
        super().__init__([])
        self._rng = random.Random(seed)

    def next(self, width: int) -> int:
        return int(self._rng.random() * width)

    def between(self, width: int) -> int:
        return 0 if self._rng.random() < STAY else self.next(width)


@dataclass(frozen=True)
class Run:
    """One interleaving: the choices, and the world after them."""

    choices: tuple[int, ...]
    world: World


def run(scenario: Scenario, choices: Listed, *, preempt: int) -> Run:
    """Play one schedule. Raises Violation, with the choices that replay it, if a law is broken."""
    story: list[str] = []
    try:
        with on_its_own(scenario) as world:
            story = world.story
            _play(world, choices, preempt)
            world.end()
    except Violation as error:
        _remember(error, choices, story)
        raise
    except Exception as error:
        violation = Violation(f"nothing fails: {error!r}")
        _remember(violation, choices, story)
        raise violation from error
    return Run(tuple(choices.taken), world)


def _remember(error: Violation, choices: Listed, story: list[str]) -> None:
    error.choices = choices.taken
    error.story = story


def _play(world: World, choices: Listed, preempt: int) -> None:
    loop = world.loop
    while True:
        while world.prompt() or loop.busy:
            if not preempt:
                loop.rest()
                break
            options = world.options()
            chosen = choices.pick(len(options) + 1, between=True) if options else 0
            if chosen:
                preempt -= 1
                _take(world, options[chosen - 1])
            else:
                world.story.append("...")
                loop.turn()
        options = world.options()
        if not options:
            return
        _take(world, options[choices.pick(len(options)) if len(options) > 1 else 0])


def _take(world: World, option: tuple[str, Callable[[], None]]) -> None:
    label, act = option
    world.story.append(label)
    act()


def every(scenario: Scenario) -> Iterator[Run]:
    """Play every schedule of the scenario, depth first."""
    choices: list[int] | None = []
    while choices is not None:
        listed = Listed(choices)
        yield run(scenario, listed, preempt=scenario.preempt)
        choices = following(listed)


def following(done: Listed) -> list[int] | None:
    """Returns the choices with which the next schedule begins, or None after the last schedule."""
    for place in range(len(done.taken) - 1, -1, -1):
        if done.taken[place] + 1 < done.widths[place]:
            return [*done.taken[:place], done.taken[place] + 1]
    return None


def seeded(scenario: Scenario, seeds: range) -> Iterator[Run]:
    """Play a random schedule for each seed, with any number of pre-emptions."""
    for seed in seeds:
        yield run(scenario, Seeded(seed), preempt=MANY)


def explained(scenario: Scenario, error: Violation, *, preempt: int) -> str:
    """Returns the violation of a shrunk schedule, its story, and the command that replays it."""
    choices, error = shrunk(scenario, error, preempt=preempt)
    command = f"python -m tests.model {scenario.name} {preempt} {','.join(map(str, choices)) or '-'}"
    return f"{error}\n  {'; '.join(error.story)}\n  again: {command}"


def shrunk(scenario: Scenario, error: Violation, *, preempt: int) -> tuple[list[int], Violation]:
    """Drop and zero choices as long as some law is still broken. Returns the schedule and its violation."""
    best = list(error.choices)
    place = len(best)
    while place > 0:
        place -= 1
        if place >= len(best):
            continue
        for shorter in (
            best[:place],
            [*best[:place], 0, *best[place + 1 :]],
            [*best[:place], *best[place + 1 :]],
        ):
            if shorter == best or len(best) > 400:
                continue
            try:
                run(scenario, Listed(shorter), preempt=preempt)
            except Violation as smaller:
                best, error = list(shorter), smaller
                break
    while best and best[-1] == 0:
        best.pop()
    return best, error
