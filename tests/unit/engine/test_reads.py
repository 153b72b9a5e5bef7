"""Reads of a job for those who come: each is judged by a read of its own time, and a storm costs little."""

from __future__ import annotations

import asyncio

import pytest

from hub.engine.admission import Admission
from hub.engine.caller import Caller
from hub.engine.patience import LIMIT, Patience
from hub.engine.reads import POLL, READS, JobReads
from hub.errors import BrokerUnavailable, JobNotFound, Overloaded
from hub.job.event import JobId, UserId
from hub.job.record import Job
from hub.settings import Settings
from hub.totals import Totals

pytestmark = pytest.mark.looptime(start=1000)
JOB = JobId("j")
ADA, BOB = UserId("ada"), UserId("bob")


def job(owner: str = "ada") -> Job:
    return Job(JOB, "code", UserId(owner), None, None, {})


class Broker:
    """Answers after `delay` with what `found` is at that time."""

    def __init__(self, found: Job | None = None, *, delay: float = 0.0) -> None:
        self.found = found
        self.delay = delay
        self.error: Exception | None = None
        self.began: list[float] = []

    async def jobs(self, jobs: list[JobId]) -> list[Job | None]:
        assert jobs == [JOB]
        self.began.append(asyncio.get_running_loop().time())
        found = self.found  # as it is when the read begins
        await asyncio.sleep(self.delay)
        if self.error is not None:
            raise self.error
        return [found]


class Door:
    """The reads of one hub, and what it was told of them."""

    def __init__(self, broker: Broker) -> None:
        self.patience = Patience()
        self.totals = Totals()
        self.admission = Admission(Settings(), self.totals)
        self.noticed: list[Job | None] = []
        self.reads = JobReads(
            broker, self.patience, self.admission, lambda _, found: self.noticed.append(found)
        )


async def test_the_owner_gets_the_job():
    broker = Broker(job())
    door = Door(broker)
    assert await door.reads.read_of(Caller(ADA), JOB) == job()
    assert door.noticed == [job()]
    assert door.reads.tasks == []


@pytest.mark.parametrize("found", [None, job("bob"), job("")])
async def test_anybody_else_is_refused_in_one_way(found):
    door = Door(Broker(found))
    for user in (ADA, UserId("")):
        if found is not None and found.user_id == user != "":
            continue
        with pytest.raises(JobNotFound):
            await door.reads.read_of(Caller(user), JOB)


async def test_who_comes_during_a_read_shares_it():
    broker = Broker(job(), delay=1.0)
    door = Door(broker)
    assert await asyncio.gather(*(door.reads.read_of(Caller(ADA), JOB) for _ in range(10))) == [job()] * 10
    assert len(broker.began) == 1


async def test_a_shared_read_refuses_nobody():
    """It may have begun before the job was made: who was not in it is looked for again."""
    broker = Broker(None, delay=1.0)
    door = Door(broker)
    first = asyncio.create_task(door.reads.read_of(Caller(ADA), JOB))
    await asyncio.sleep(0.5)
    broker.found = job()
    second = asyncio.create_task(door.reads.read_of(Caller(ADA), JOB))
    assert await second == job()
    with pytest.raises(JobNotFound):
        await first
    assert len(broker.began) == 2


async def test_a_storm_shares_the_last_read_of_its_second():
    broker = Broker(job())
    door = Door(broker)
    for _ in range(3 * READS):
        assert await door.reads.read_of(Caller(ADA), JOB) == job()
    assert len(broker.began) == READS
    await asyncio.sleep(1)
    await door.reads.read_of(Caller(ADA), JOB)
    assert len(broker.began) == READS + 1


async def test_a_storm_lets_in_only_the_owner_that_was_read():
    """Who is refused is refused by a read of his own."""
    broker = Broker(job())
    door = Door(broker)
    for _ in range(READS):
        await door.reads.read_of(Caller(ADA), JOB)
    broker.found = job("bob")
    assert await door.reads.read_of(Caller(BOB), JOB) == job("bob")
    with pytest.raises(JobNotFound):
        await door.reads.read_of(Caller(ADA), JOB)
    assert len(broker.began) == READS + 2


async def test_a_job_that_is_gone_is_not_remembered():
    broker = Broker(job())
    door = Door(broker)
    for _ in range(READS):
        await door.reads.read_of(Caller(ADA), JOB)
    broker.found = None
    for user in (BOB, ADA):
        with pytest.raises(JobNotFound):
            await door.reads.read_of(Caller(user), JOB)
    assert door.noticed[-1] is None


async def test_an_error_reaches_everybody_who_waits_and_the_next_one_reads_again():
    broker = Broker(job(), delay=1.0)
    broker.error = BrokerUnavailable("away")
    door = Door(broker)
    results = await asyncio.gather(
        *(door.reads.read_of(Caller(ADA), JOB) for _ in range(3)), return_exceptions=True
    )
    assert [type(one) for one in results] == [BrokerUnavailable] * 3
    assert door.noticed == []
    broker.error = None
    assert await door.reads.read_of(Caller(ADA), JOB) == job()


async def test_who_is_cancelled_does_not_end_the_read_of_others():
    broker = Broker(job(), delay=1.0)
    door = Door(broker)
    first = asyncio.create_task(door.reads.read_of(Caller(ADA), JOB))
    await asyncio.sleep(0.1)
    second = asyncio.create_task(door.reads.read_of(Caller(ADA), JOB))
    await asyncio.sleep(0.1)
    first.cancel()
    assert await second == job()
    assert len(broker.began) == 1


async def test_a_read_that_does_not_end_is_given_up():
    door = Door(Broker(job(), delay=10 * LIMIT))
    with pytest.raises(BrokerUnavailable):
        await door.reads.read_of(Caller(ADA), JOB)
    assert asyncio.get_running_loop().time() == 1000 + LIMIT
    assert len(door.reads.tasks) == 1
    door.reads.tasks[0].cancel()


async def test_a_job_is_waited_for():
    broker = Broker(None)
    door = Door(broker)
    waiting = asyncio.create_task(door.reads.wait_for(Caller(ADA), JOB, 10))
    await asyncio.sleep(3.1)
    broker.found = job()
    assert await waiting == job()
    assert asyncio.get_running_loop().time() == pytest.approx(1003.5)
    assert [round(b - a, 6) for a, b in zip(broker.began, broker.began[1:], strict=False)] == [POLL] * 7


@pytest.mark.parametrize("found", [None, job("bob")])
async def test_a_foreign_job_is_waited_for_as_long_as_none(found):
    door = Door(Broker(found))
    with pytest.raises(JobNotFound):
        await door.reads.wait_for(Caller(ADA), JOB, 1.2)
    assert asyncio.get_running_loop().time() == pytest.approx(1001.2)
    counted = door.totals.auth_refused_owner, door.totals.auth_refused_unknown
    assert counted == ((0, 1) if found is None else (1, 0)), "one refusal, however often it was looked for"


async def test_the_drain_ends_the_wait_for_a_job():
    door = Door(Broker(None))
    waiting = asyncio.create_task(door.reads.wait_for(Caller(ADA), JOB, 30))
    await asyncio.sleep(1)
    door.patience.end()
    with pytest.raises((JobNotFound, BrokerUnavailable)):
        await waiting
    assert asyncio.get_running_loop().time() <= 1001 + POLL


async def test_waits_of_a_user_are_bounded_and_given_back():
    broker = Broker(None)
    door = Door(broker)
    waits = [asyncio.create_task(door.reads.wait_for(Caller(ADA), JOB, 5)) for _ in range(20)]
    await asyncio.sleep(1)
    with pytest.raises(Overloaded):
        await door.reads.wait_for(Caller(ADA), JOB, 5)
    for one in waits[:2]:
        one.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    broker.found = job()
    assert await door.reads.wait_for(Caller(ADA), JOB, 5) == job()
