"""A loop that stood still is counted; one that is a little late is not."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from hub.engine import stall as module
from hub.engine.stall import LIMIT, PERIOD, StallWatch
from hub.totals import Totals


@pytest.mark.parametrize(
    ("late", "stalls"),
    [([0.0, 0.0], 0), ([LIMIT / 2, LIMIT], 0), ([LIMIT + 0.25, 0.0, 9.0], 2)],
    ids=["on time", "a little late", "late"],
)
async def test_a_loop_that_is_late_by_more_than_the_limit_is_counted(monkeypatch, late, stalls):
    """Each look is against the time of the one before."""
    clock = [1000.0]
    looks = list(late)

    async def sleep(seconds: float) -> None:
        assert seconds == PERIOD
        if not looks:
            raise asyncio.CancelledError
        clock[0] += seconds + looks.pop(0)

    loop = SimpleNamespace(time=lambda: clock[0])
    monkeypatch.setattr(module, "asyncio", SimpleNamespace(get_running_loop=lambda: loop, sleep=sleep))
    watch = StallWatch(Totals())
    with pytest.raises(asyncio.CancelledError):
        await watch.run()
    assert watch._totals.stalls == stalls
