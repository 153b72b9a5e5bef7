"""The drain: evenly over its window, those of ended jobs first, each once, and late ones too."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from hub.engine.drain import LEAST, STEP, Drain
from hub.engine.patience import Patience
from hub.fanout.wire import Reason
from hub.totals import Totals

pytestmark = pytest.mark.looptime(start=1000)
WINDOW = 10.0


class Seat:
    """A viewer that notes when it was told."""

    def __init__(self, audience: SimpleNamespace) -> None:
        self.audience = audience
        self.at: float | None = None
        self.reasons: list[Reason] = []

    @property
    def told(self) -> bool:
        return self.at is not None

    def send_away(self, reason: Reason) -> bool:
        self.at = asyncio.get_running_loop().time()
        self.reasons.append(reason)
        return True


def audience(number: int, *, closed: bool = False) -> SimpleNamespace:
    one = SimpleNamespace(log=SimpleNamespace(closed=closed), seats=[])
    one.seats = [Seat(one) for _ in range(number)]
    return one


class Draining:
    """A drain of these audiences, which runs."""

    def __init__(self, *audiences: SimpleNamespace, window: float = WINDOW) -> None:
        self.audiences = list(audiences)
        self.patience = Patience()
        self.totals = Totals()
        self.drain = Drain(window, lambda: self.audiences, self.patience, self.totals)
        self.began = asyncio.get_running_loop().time()

    async def __aenter__(self) -> Draining:
        self.running = asyncio.create_task(self.drain.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.running.cancel()

    @property
    def told(self) -> list[Seat]:
        return [seat for one in self.audiences for seat in one.seats if seat.told]


async def test_viewers_are_told_evenly_over_the_window():
    async with Draining(audience(5_000), audience(5_000)) as draining:
        for quarter in (1, 2, 3):
            await asyncio.sleep(WINDOW / 4)
            assert abs(len(draining.told) - 2_500 * quarter) <= 250
        await draining.drain.wait_done()
    last = max(seat.at for seat in draining.told) - draining.began
    assert len(draining.told) == draining.totals.moved == 10_000
    assert WINDOW - 2 * STEP <= last <= WINDOW
    assert all(seat.reasons == [Reason.RESTART] for seat in draining.told)


async def test_a_few_viewers_are_told_at_once_and_more_in_lots():
    async with Draining(audience(2 * LEAST + 3)) as draining:
        await asyncio.sleep(STEP / 2)
        assert len(draining.told) == LEAST
        await asyncio.sleep(STEP)
        assert len(draining.told) == 2 * LEAST
        await draining.drain.wait_done()
    assert len(draining.told) == 2 * LEAST + 3


async def test_viewers_of_jobs_that_have_ended_go_first():
    over = audience(1_000, closed=True)
    async with Draining(audience(3_000), over) as draining:
        await asyncio.sleep(WINDOW / 4 + STEP)
        assert sum(seat.told for seat in over.seats) >= 950
        assert len(draining.told) <= 1_150
        await draining.drain.wait_done()


async def test_who_comes_late_is_told_too():
    async with Draining(audience(1), window=1.0) as draining:
        await draining.drain.wait_done()
        await asyncio.sleep(1.0)
        draining.audiences.append(audience(50))
        await asyncio.sleep(2 * STEP)
        assert len(draining.told) == 51


async def test_it_is_done_when_nobody_is_on_the_way_in_any_more():
    async with Draining(audience(1), window=0.0) as draining:
        async with draining.patience.bound():
            await asyncio.sleep(3 * STEP)
            assert not draining.drain._done.is_set()
        await draining.drain.wait_done()
        assert asyncio.get_running_loop().time() - draining.began <= 5 * STEP


async def test_nobody_there_is_done_at_once():
    async with Draining() as draining:
        await draining.drain.wait_done()
        assert asyncio.get_running_loop().time() == draining.began


async def test_without_a_window_all_are_told_in_the_first_step():
    async with Draining(audience(40), window=0.0) as draining:
        await draining.drain.wait_done()
        assert len(draining.told) == 40
        assert {seat.at for seat in draining.told} == {draining.began}


async def test_finish_tells_the_rest_at_once():
    async with Draining(audience(1_000)) as draining:
        await asyncio.sleep(1.0)
        first = len(draining.told)
        draining.drain.finish()
        assert first < len(draining.told) == 1_000
        assert all(len(seat.reasons) == 1 for seat in draining.told)
        await draining.drain.wait_done()
        assert draining.totals.moved == 1_000
