"""Which audiences get a heartbeat: those with a seat that nothing was written to for an interval."""

from __future__ import annotations

import random
import weakref

import pytest

from hub.fanout.audience import Audience
from hub.fanout.pace import Pace
from hub.job.event import EventId
from hub.job.log import Log
from hub.totals import Totals

ONE, OTHER = object(), object()


class Wire:
    """Takes nothing."""

    paused = False


def audience(fmt: object = ONE, now: float = 0.0) -> Audience:
    made = Audience(Log(origin=EventId(5, 0).previous), fmt, None, Totals(), now)
    made.seat(Wire(), 0)
    return made


@pytest.fixture
def pace() -> Pace:
    return Pace(15.0)


def test_a_heartbeat_is_due_after_an_interval_of_silence_and_again_after_the_next(pace):
    one = audience()
    pace.add(one)
    assert list(pace.silent(14.9, ONE)) == []
    assert list(pace.silent(15.0, ONE)) == [one]
    one.last_write = 15.0
    assert list(pace.silent(29.9, ONE)) == []
    assert list(pace.silent(30.0, ONE)) == [one]


def test_an_event_puts_it_off(pace):
    one = audience()
    pace.add(one)
    one.last_write = 10.0
    assert list(pace.silent(20.0, ONE)) == []
    assert list(pace.silent(25.0, ONE)) == [one]


def test_each_format_has_its_own(pace):
    one, other = audience(), audience(OTHER)
    pace.add(one)
    pace.add(other)
    assert list(pace.silent(15.0, OTHER)) == [other]
    assert list(pace.silent(15.0, ONE, OTHER)) == [one]


def test_one_that_was_empty_comes_back_with_its_next_seat(pace):
    one = audience()
    pace.add(one)
    one.seats.clear()
    assert list(pace.silent(15.0, ONE)) == []
    assert not one.is_paced
    one.seat(Wire(), 0)
    pace.add(one)
    assert list(pace.silent(15.0, ONE)) == [one]


def test_it_is_known_once_and_not_kept(pace):
    one = audience()
    for _ in range(3):
        pace.add(one)
    assert list(pace.silent(15.0, ONE)) == [one]
    gone = weakref.ref(one)
    one.seats.clear()
    del one
    assert gone() is None
    assert list(pace.silent(100.0, ONE)) == []


@pytest.mark.parametrize("seed", range(20))
def test_nobody_is_silent_for_longer_and_nobody_is_told_too_early(seed):
    """Against a walk over all of them, with writes, joins and leaves at random."""
    rng = random.Random(seed)
    pace = Pace(15.0)
    every: list[Audience] = []
    for now in range(200):
        for _ in range(rng.randrange(3)):
            every.append(audience(now=float(now)))
            pace.add(every[-1])
        for one in rng.sample(every, min(len(every), 3)):
            if rng.random() < 0.6:
                one.last_write = float(now)
            elif one.seats:
                one.seats.clear()
            else:
                one.seat(Wire(), 0)
                pace.add(one)
        expected = {id(one) for one in every if one.seats and now - one.last_write >= 15}
        found = list(pace.silent(float(now), ONE))
        assert {id(one) for one in found} == expected
        assert len(found) == len(expected)
        for one in found:
            one.last_write = float(now)
