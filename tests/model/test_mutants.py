"""The interleavings detect a broken engine: each mutant violates the law it names, in its scenario."""

from __future__ import annotations

import pytest

from tests.model.ahead import Ahead
from tests.model.explore import Listed, explained, following, run
from tests.model.mutants import MUTANTS, applied
from tests.model.scenarios import ALL
from tests.unit.scripted import Violation


def broken_laws(scenario: str, *, until: str) -> list[str]:
    """Returns the laws that schedules violate, up to the first whose words contain `until`."""
    laws: list[str] = []
    choices: list[int] | None = []
    while choices is not None and not any(until in words for words in laws):
        listed = Listed(choices)
        try:
            run(ALL[scenario], listed, preempt=ALL[scenario].preempt)
        except Violation as error:
            laws.append(str(error))
        choices = following(listed)
    return laws


def laws_of(name: str) -> list[str]:
    """Returns the laws that a mutant violates."""
    with applied(name):
        return broken_laws(MUTANTS[name].scenario, until=MUTANTS[name].law)


broken = Ahead(laws_of, MUTANTS)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_engine_breaks_a_law(name):
    """Each mutant is detected, and by the law that is meant for it."""
    laws = broken(name)
    assert any(MUTANTS[name].law in words for words in laws), laws[:3]


def test_a_mutant_leaves_nothing_behind():
    """After the block every edited method is the original again."""
    for name, mutant in MUTANTS.items():
        before = [edit.owner.__dict__[edit.name] for edit in mutant.edits]
        with applied(name):
            assert [edit.owner.__dict__[edit.name] for edit in mutant.edits] != before
        assert [edit.owner.__dict__[edit.name] for edit in mutant.edits] == before


def test_a_broken_law_is_printed_with_a_schedule_that_breaks_it():
    """The printed schedule is short, and replays the violation."""
    scenario = ALL["cut"]
    with applied("deaf-to-reconnects"):
        with pytest.raises(Violation) as caught:
            run(scenario, Listed([1, 0, 0, 0, 1]), preempt=0)
        *_, command = explained(scenario, caught.value, preempt=0).split()
        choices = [int(choice) for choice in command.split(",")]
        assert len(choices) <= 5
        with pytest.raises(Violation):
            run(scenario, Listed(choices), preempt=0)
    run(scenario, Listed(choices), preempt=0)  # the same schedule breaks no law of the original engine
