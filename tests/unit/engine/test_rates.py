"""A user's budget: so many at once, so many per second, and nobody is remembered for ever."""

from __future__ import annotations

import asyncio

import pytest

from hub.engine import rates as module
from hub.engine.rates import MOST_DEBT, Rate

pytestmark = pytest.mark.looptime(start=1000)


async def test_a_user_may_spend_a_burst_at_once_and_no_more():
    rate = Rate(3, 0.5)
    assert [rate.spend("ada") for _ in range(3)] == [0.0] * 3
    assert rate.spend("ada") == pytest.approx(2.0, abs=0.001)


async def test_each_user_has_a_budget_of_their_own():
    rate = Rate(1, 0.5)
    rate.spend("ada")
    assert rate.spend("eve") == 0
    assert rate.spend("ada") > 0


async def test_the_budget_comes_back_one_by_one():
    rate = Rate(2, 0.5)
    rate.spend("ada")
    rate.spend("ada")
    await asyncio.sleep(2)
    assert rate.spend("ada") == 0
    assert rate.spend("ada") > 0


async def test_a_long_rest_saves_no_more_than_one_burst():
    rate = Rate(2, 0.5)
    rate.spend("ada")
    await asyncio.sleep(1000)
    assert [rate.spend("ada") > 0 for _ in range(3)] == [False, False, True]


async def test_who_goes_on_all_the_same_waits_longer_each_time_up_to_a_bound():
    rate = Rate(1, 0.1)
    waits = [rate.spend("ada") for _ in range(50)]
    assert waits[:4] == pytest.approx([0, 10, 20, 30], abs=0.001)
    assert max(waits) <= MOST_DEBT + 10
    await asyncio.sleep(MOST_DEBT + 10.001)
    assert rate.spend("ada") == 0


async def test_users_whose_budget_is_full_again_are_forgotten(monkeypatch):
    """Others keep what they owe."""
    monkeypatch.setattr(module, "SWEEP", 10)
    rate = Rate(1, 0.1)
    for user in range(9):
        rate.spend(f"early {user}")
    await asyncio.sleep(5)
    rate.spend("ada")
    assert len(rate._due) == 10
    await asyncio.sleep(5)  # the budget of the early ones is full at this moment
    rate.spend("new")
    assert set(rate._due) == {"ada", "new"}
    assert rate.spend("ada") == pytest.approx(5.0, abs=0.001)


async def test_a_crowd_that_owes_is_looked_through_only_when_it_has_doubled(monkeypatch):
    monkeypatch.setattr(module, "SWEEP", 10)
    rate = Rate(1, 0.001)
    for user in range(11):
        rate.spend(f"user {user}")
    await asyncio.sleep(2000)  # all are full again
    for user in range(11, 20):
        rate.spend(f"user {user}")
    assert len(rate._due) == 20  # not looked through since the eleventh came
    rate.spend("new")
    assert len(rate._due) == 10
