"""How long a viewer waits for Redis: a limit, and the drain's end of all waits."""

from __future__ import annotations

import asyncio

import pytest

from hub.engine.patience import LIMIT, Patience
from hub.errors import BrokerUnavailable

pytestmark = pytest.mark.looptime(start=1000)


async def wait_in(patience: Patience) -> float:
    """Wait for ever within the limit; returns the seconds until it was refused."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(BrokerUnavailable):
        async with patience.bound():
            await asyncio.Event().wait()
    return loop.time() - began


async def test_a_wait_ends_after_the_limit():
    assert await wait_in(Patience()) == LIMIT


async def test_what_is_quick_is_not_touched_and_waits_are_counted():
    patience = Patience()
    async with patience.bound(), patience.bound():
        assert len(patience) == 2
        await asyncio.sleep(LIMIT - 1)
    assert len(patience) == 0


async def test_the_end_ends_every_wait_at_once_and_all_later_ones():
    patience = Patience()
    waits = [asyncio.create_task(wait_in(patience)) for _ in range(3)]
    await asyncio.sleep(2)
    patience.end()
    assert patience.has_ended
    assert await asyncio.gather(*waits) == [2, 2, 2]
    assert await wait_in(patience) == 0
    assert len(patience) == 0


async def test_a_wait_that_was_just_over_does_not_disturb_the_end():
    patience = Patience()
    waiting = asyncio.create_task(wait_in(patience))
    await asyncio.sleep(LIMIT)  # its timeout fires in this very turn
    patience.end()
    assert await waiting == LIMIT


async def test_other_errors_pass_and_free_the_place():
    patience = Patience()
    with pytest.raises(KeyError):
        async with patience.bound():
            raise KeyError
    assert len(patience) == 0
