"""How many viewers a job has at all hubs: each says its own, what changed and what was lost, and tells who asked."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager

import pytest

from hub.broker.presence import KEPT
from hub.engine.admission import Admission
from hub.engine.presence import GOODBYE, INTERVAL, Presence
from hub.errors import BrokerUnavailable
from hub.job.event import JobId
from hub.settings import Settings
from hub.totals import Totals

pytestmark = pytest.mark.looptime(start=1000)
A, B = JobId("a"), JobId("b")


class Counts:
    """What Redis has: the counts of each hub by job, and which hubs are there."""

    def __init__(self) -> None:
        self.rows: dict[JobId, dict[str, int]] = {}
        self.alive: set[str] = set()
        self.said: list[dict[JobId, int]] = []
        self.read: list[list[JobId]] = []
        self.is_down = False
        self.away: set[JobId] = set()  # jobs of a part of the store that does not answer
        self.left: list[str] = []
        self.counts = self

    def _answer(self) -> None:
        if self.is_down:
            raise BrokerUnavailable("expected a server, got none")

    async def renew(self, hub):
        self._answer()
        was_there = hub in self.alive
        self.alive.add(hub)
        return was_there

    async def leave(self, hub):
        self._answer()
        self.left.append(hub)

    async def say(self, hub, counts):
        self._answer()
        self.said.append(dict(counts))
        written = [job for job in counts if job not in self.away]
        for job in written:
            self.rows.setdefault(job, {})[hub] = counts[job]
        return written

    async def of(self, jobs):
        self._answer()
        self.read.append(list(jobs))
        return {job: dict(self.rows.get(job, {})) for job in jobs if job not in self.away}


class Process:
    """The presence of one process, and its viewers."""

    def __init__(self, counts: Counts) -> None:
        self.counts = counts
        self.admission = Admission(Settings(), Totals())
        self.presence = Presence(counts, self.admission)

    def enter(self, job: JobId, number: int = 1) -> None:
        for _ in range(number):
            self.admission.enter("ada", job)

    def leave(self, job: JobId) -> None:
        self.admission.leave("ada", job)

    @asynccontextmanager
    async def running(self):
        task = asyncio.create_task(self.presence.run())
        await asyncio.sleep(0.1)  # rounds are a little before the test looks
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
        assert task.cancelled()


@pytest.fixture
async def process():
    return Process(Counts())


async def rounds(number: int = 1) -> None:
    await asyncio.sleep(number * INTERVAL)


async def test_a_process_says_its_counts_once_and_then_what_has_changed(process):
    process.enter(A, 2)
    process.enter(B)
    async with process.running():
        assert process.counts.said == []
        await rounds()
        assert process.counts.said == [{A: 2, B: 1}]
        assert process.admission.changed == set()
        await rounds(3)
        assert len(process.counts.said) == 1
        process.enter(A)
        await rounds()
        assert process.counts.said[1:] == [{A: 3}]


async def test_who_came_and_went_between_two_rounds_is_no_news(process):
    process.enter(B)
    async with process.running():
        await rounds()
        process.enter(B)
        process.leave(B)
        process.enter(A)
        process.leave(A)
        await rounds()
        assert process.counts.said == [{B: 1}]


async def test_the_last_viewer_that_goes_is_said_and_the_job_forgotten(process):
    process.enter(A)
    async with process.running():
        await rounds()
        process.leave(A)
        await rounds()
        assert process.counts.said == [{A: 1}, {A: 0}]
        assert process.presence._said == {}


async def test_all_is_said_again_before_redis_forgets_it(process):
    process.enter(A)
    async with process.running():
        await rounds()
        await asyncio.sleep(KEPT / 2 - INTERVAL)
        assert process.counts.said == [{A: 1}]
        await rounds(2)
        assert process.counts.said == [{A: 1}, {A: 1}]
        await rounds(5)
        assert len(process.counts.said) == 2


async def test_all_is_said_again_when_redis_has_lost_this_hub(process):
    """And what it had of a job that has no viewers any more."""
    process.enter(A)
    process.enter(B)
    async with process.running():
        await rounds()
        process.counts.alive.clear()
        process.leave(B)
        await rounds()
        assert process.counts.said[1:] == [{A: 1, B: 0}]


async def test_what_could_not_be_said_is_said_in_the_next_round(process, caplog):
    process.enter(A)
    process.counts.is_down = True
    with caplog.at_level(logging.WARNING, "hub.presence"):
        async with process.running():
            await rounds()
            process.counts.is_down = False
            await rounds()
            assert process.counts.said == [{A: 1}]
    assert "not exchanged" in caplog.text


async def test_what_a_part_of_the_store_did_not_take_is_said_again_to_it_only(process):
    process.enter(A)
    process.enter(B)
    process.counts.away = {B}
    async with process.running():
        await rounds()
        process.counts.away = set()
        await rounds()
        assert process.counts.said == [{A: 1, B: 1}, {B: 1}]


async def test_what_failed_while_it_was_said_is_said_again(process):
    say, process.counts.say = process.counts.say, fail
    process.enter(A)
    async with process.running():
        await rounds()
        process.counts.say = say
        await rounds()
        assert process.counts.said == [{A: 1}]


async def fail(*_: object) -> None:
    raise BrokerUnavailable("expected a server, got none")


async def test_the_count_of_a_job_is_that_of_all_hubs_with_this_one_as_it_is_now(process):
    process.counts.rows = {A: {"another": 5, "third": 2}}
    assert await process.presence.of(A) == 7
    process.enter(A)
    async with process.running():
        await rounds()
        process.enter(A, 2)
        assert await process.presence.of(A) == 7 + 3
        assert await process.presence.of(B) == 0


async def test_nobody_knows_the_count_without_redis(process):
    process.counts.away = {A}
    assert await process.presence.of(A) is None
    process.counts.is_down = True
    assert await process.presence.of(B) is None


async def test_who_asks_is_told_in_the_next_round_and_when_the_count_changes(process):
    told = []
    process.counts.rows = {A: {"another": 2}}
    async with process.running():
        process.presence.ask(A, told.append)
        assert told == []
        await rounds()
        assert told == [2]
        await rounds(2)
        assert told == [2]
        process.enter(A)
        await rounds()
        assert told == [2, 3]


async def test_who_asks_later_is_told_though_nothing_changes(process):
    one, other = [], []
    async with process.running():
        process.presence.ask(A, one.append)
        await rounds()
        process.presence.ask(A, other.append)
        await rounds()
        assert (one, other) == ([0], [0])


async def test_a_count_that_nobody_knows_is_not_told(process):
    told = []
    process.counts.away = {A}
    async with process.running():
        process.presence.ask(A, told.append)
        process.presence.ask(B, told.append)
        await rounds()
        assert told == [0]


async def test_who_does_not_want_to_be_told_any_more_is_forgotten(process):
    one, other = [], []
    tell_one, tell_other = one.append, other.append
    async with process.running():
        process.presence.ask(A, tell_one)
        process.presence.ask(A, tell_other)
        process.presence.forget(A, tell_one)
        process.presence.forget(A, tell_one)
        process.presence.forget(B, tell_one)
        await rounds()
        assert (one, other) == ([], [0])
        process.presence.forget(A, tell_other)
        assert process.presence._asking == {}


async def test_nothing_is_read_while_nobody_asks(process):
    process.enter(A)
    async with process.running():
        await rounds(2)
    assert process.counts.read == []


async def test_who_leaves_while_others_are_told_does_not_disturb_them(process):
    told = []

    def leave_all(_: int) -> None:
        process.presence.forget(A, leave_all)
        process.presence.forget(A, told.append)

    tell = told.append
    async with process.running():
        process.presence.ask(A, leave_all)
        process.presence.ask(A, tell)
        await rounds()
        process.enter(A)
        await rounds()
        assert told == [0]
        assert process.counts.said == [{A: 1}]


async def test_a_hub_that_ends_says_goodbye(process):
    async with process.running():
        await rounds()
    assert process.counts.left == [process.presence._hub]


async def test_a_goodbye_that_finds_no_redis_does_not_hold_the_end_up(process):
    async with process.running():
        process.counts.is_down = True
    assert process.counts.left == []

    async def hang(_: str) -> None:
        await asyncio.Event().wait()

    process.counts.leave = hang
    loop = asyncio.get_running_loop()
    async with process.running():
        began = loop.time()
    assert loop.time() == pytest.approx(began + GOODBYE, abs=1e-6)
