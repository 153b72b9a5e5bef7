"""All who are refused within a tick are answered at its end, together."""

from __future__ import annotations

import asyncio

import pytest

from hub.engine import ticks as module
from hub.engine.ticks import Ticks

pytestmark = pytest.mark.looptime(start=1000)
PERIOD = 0.25


@pytest.fixture(autouse=True)
def period_without_rounding(monkeypatch):
    """Multiples of a quarter are exact."""
    monkeypatch.setattr(module, "PERIOD", PERIOD)


async def waited(ticks: Ticks, after: float) -> float:
    """Waits for a tick, `after` seconds from now. Returns the time at which it came."""
    await asyncio.sleep(after)
    await ticks.wait()
    return asyncio.get_running_loop().time()


async def test_those_who_wait_in_one_period_go_on_together_at_its_end():
    ticks = Ticks()
    ends = await asyncio.gather(*(waited(ticks, part * PERIOD) for part in (0.25, 0.5, 0.75, 1.5)))
    assert ends[:3] == [1000 + PERIOD] * 3
    assert ends[3] == 1000 + 2 * PERIOD


async def test_who_comes_at_a_tick_waits_for_the_next_one():
    ticks = Ticks()
    await waited(ticks, 0.5 * PERIOD)
    assert await waited(ticks, 0.0) == 1000 + 2 * PERIOD


async def test_ticks_are_at_multiples_of_the_period_whenever_somebody_comes():
    ticks = Ticks()
    for _ in range(3):
        end = await waited(ticks, 3.5 * PERIOD)
        assert end % PERIOD == 0


async def test_who_gives_up_does_not_take_the_tick_from_the_others():
    ticks = Ticks()
    impatient = asyncio.create_task(ticks.wait())
    patient = asyncio.create_task(waited(ticks, 0.0))
    await asyncio.sleep(0)
    impatient.cancel()
    assert await patient == 1000 + PERIOD
    assert impatient.cancelled()


async def test_the_clock_stands_still_while_nobody_waits():
    ticks = Ticks()
    await waited(ticks, 0.0)
    assert ticks._next is None


async def test_a_refusal_always_waits(monkeypatch):
    """Also one that comes at a multiple that floats do not have: 1000.0 // 0.005 is one less than 200,000."""
    monkeypatch.setattr(module, "PERIOD", 0.005)
    await Ticks().wait()
    assert 1000 < asyncio.get_running_loop().time() <= 1000.006
