"""One call per turn for all jobs that have news, and no turn that takes long."""

from __future__ import annotations

import asyncio

from hub.fanout.audience import SLICE
from hub.feed.pump import Pump
from hub.timings import Timings


class Job:
    """Has `seats` viewers."""

    def __init__(self, told: list[object], seats: int = 2) -> None:
        self.told = told
        self.seats = seats

    def pump(self) -> int:
        self.told.append(self)
        return self.seats


async def test_all_jobs_with_news_are_served_in_the_next_turn_in_their_order():
    told: list[object] = []
    pump, jobs = Pump(Timings()), [Job(told) for _ in range(20)]
    for job in jobs:
        pump.push(job)
    assert told == []
    await asyncio.sleep(0)
    assert told == jobs
    await asyncio.sleep(0)
    assert told == jobs


async def test_the_loop_gets_a_turn_after_a_slice():
    told: list[object] = []
    pump = Pump(Timings())
    for _ in range(5):
        pump.push(Job(told, SLICE // 2))
    turns = []
    while len(told) < 5:
        await asyncio.sleep(0)
        turns.append(len(told))
    assert turns == [2, 4, 5]


async def test_jobs_without_viewers_are_not_all_served_in_one_turn():
    told: list[object] = []
    pump = Pump(Timings())
    for _ in range(SLICE + 1):
        pump.push(Job(told, 0))
    await asyncio.sleep(0)
    assert len(told) == SLICE


async def test_news_of_a_job_that_is_being_served_waits_for_the_next_turn():
    told: list[object] = []
    pump = Pump(Timings())

    class Again(Job):
        def pump(self) -> int:
            if len(self.told) < 3:
                pump.push(self)
            return super().pump()

    pump.push(Again(told, SLICE))
    for turn in range(1, 5):
        await asyncio.sleep(0)
        assert len(told) == min(turn, 4)
