"""The position check: when a job is due, what is found, and what happens to the job of a lost worker."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from hub.engine.check import LOT, SLACK, TICK, PositionCheck
from hub.errors import BrokerUnavailable
from hub.job.event import JobId, UserId
from hub.job.record import Job
from hub.settings import Settings
from hub.totals import Totals

pytestmark = pytest.mark.looptime(start=1000)
PERIOD = 100.0


class Feed:
    """A watched job that notes when it was compared; `differs` is what that finds."""

    def __init__(self, name: str, *, due: float = 1000.0, differs: bool = False) -> None:
        self.id = JobId(name)
        self.due = due
        self.differs = differs
        self.compared: list[tuple[Job | None, float]] = []
        self.intake = self

    def compare(self, job: Job | None) -> bool:
        self.compared.append((job, asyncio.get_running_loop().time()))
        return self.differs


class Broker:
    """Answers from `known`; `errors` are raised first."""

    def __init__(self, *known: Job, errors: tuple[Exception, ...] = (), loses: bool = True) -> None:
        self.known = {job.id: job for job in known}
        self.errors = list(errors)
        self.loses = loses
        self.asked: list[list[JobId]] = []
        self.declared: list[JobId] = []
        self.refusal: Exception | None = None

    def groups(self, jobs: list[JobId]) -> list[list[JobId]]:
        return [jobs]

    async def jobs(self, jobs: list[JobId]) -> list[Job | None]:
        self.asked.append(jobs)
        if self.errors:
            raise self.errors.pop(0)
        return [self.known.get(job) for job in jobs]

    async def declare_lost(self, job: JobId) -> bool:
        self.declared.append(job)
        if self.refusal is not None:
            raise self.refusal
        return self.loses


def job(name: str, lease: float | None = None) -> Job:
    return Job(JobId(name), "code", UserId("ada"), lease=lease)


def checking(broker: Broker, *feeds: Feed) -> PositionCheck:
    return PositionCheck(broker, Settings(position_check=PERIOD), lambda: list(feeds), Totals())


async def run(check: PositionCheck, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await check.run()


async def test_a_job_is_due_after_80_to_100_percent_of_the_period():
    """A different time for each, so that a thousand jobs are not read at once."""
    feed = Feed("a")
    check = checking(Broker())
    dues = []
    for _ in range(300):
        check.plan(feed, job("a"))
        dues.append(feed.due)
    assert 1080 <= min(dues) < 1083
    assert 1097 < max(dues) <= 1100


@pytest.mark.parametrize(
    ("lease", "wait"), [(5.0, 5.0 + SLACK), (0.1, TICK), (-3.0, TICK)], ids=["ahead", "near", "over"]
)
async def test_a_job_is_due_just_after_its_lease(lease, wait):
    """A little later, or the question would be asked twice; never in a spin."""
    feed = Feed("a")
    checking(Broker()).plan(feed, job("a", lease))
    assert feed.due == pytest.approx(1000 + wait)


async def test_a_lease_beyond_the_period_makes_no_job_due_later():
    """The check is also for what Pub/Sub dropped."""
    feed = Feed("a")
    checking(Broker()).plan(feed, job("a", 5000.0))
    assert feed.due <= 1000 + PERIOD


async def test_jobs_are_read_together_when_they_are_due():
    """At the first look that finds them due; the others are left alone, and a difference is counted."""
    due, also, later = Feed("a", differs=True), Feed("b", due=1001.0), Feed("c", due=1002.5)
    broker = Broker(job("a"), job("c"))
    check = checking(broker, due, also, later)
    await run(check, 3.5)
    assert broker.asked == [["a", "b"], ["c"]]
    assert due.compared == [(job("a"), pytest.approx(1001))]
    assert also.compared == [(None, pytest.approx(1001))]
    assert later.compared == [(job("c"), pytest.approx(1003))]
    assert check._totals.checks_found == 1
    assert due.due >= 1001 + 0.8 * PERIOD  # planned again
    assert also.due == pytest.approx(1001 + PERIOD)


async def test_many_that_are_due_are_read_in_lots():
    """A thousand compared in one go would hold up the events of all jobs."""
    feeds = [Feed(f"job-{n}") for n in range(2 * LOT + 7)]
    broker = Broker()
    await run(checking(broker, *feeds), 1.5)
    assert [len(lot) for lot in broker.asked] == [LOT, LOT, 7]
    assert all(feed.compared for feed in feeds)


async def test_a_lot_that_fails_ends_the_round():
    """Redis is away: the others would wait for it one by one."""
    feeds = [Feed(f"job-{n}") for n in range(2 * LOT)]
    broker = Broker(errors=(BrokerUnavailable("expected an answer, got none"),))
    await run(checking(broker, *feeds), 1.5)
    assert len(broker.asked) == 1
    assert [feed.due for feed in feeds] == pytest.approx([1001 + PERIOD] * len(feeds))


async def test_a_job_that_was_read_is_planned_again():
    """Its lease may have been renewed since."""
    feed = Feed("a")
    await run(checking(Broker(job("a", 5.0)), feed), 1.5)
    assert feed.due == pytest.approx(1001 + 5 + SLACK)


async def test_nothing_due_is_no_read():
    """Redis is not asked for nothing."""
    broker = Broker()
    await run(checking(broker, Feed("a", due=5000.0)), 10)
    assert broker.asked == []


async def test_a_short_period_is_looked_at_four_times():
    """Or a check of each half second would come once a second."""
    broker = Broker()
    check = PositionCheck(broker, Settings(position_check=2.0), lambda: [Feed("a")], Totals())
    await run(check, 10.1)
    assert len(broker.asked) == 20


@pytest.mark.parametrize("error", [BrokerUnavailable("expected an answer, got none"), RuntimeError("a bug")])
async def test_a_check_that_fails_is_made_again(error, caplog):
    """After a whole period, not in a spin; whatever failed, the checks go on."""
    feed = Feed("a")
    broker = Broker(job("a"), errors=(error,))
    await run(checking(broker, feed), PERIOD + 3)
    assert len(broker.asked) == 2
    assert feed.compared == [(job("a"), pytest.approx(1001 + PERIOD))]


@pytest.mark.parametrize(("lease", "is_lost"), [(None, False), (3.0, False), (0.0, False), (-0.1, True)])
async def test_the_job_of_a_worker_whose_lease_is_over_is_ended(lease, is_lost):
    """Once it is over by Redis's clock."""
    broker = Broker(job("a", lease))
    check = checking(broker, Feed("a"))
    await run(check, 1.5)
    assert broker.declared == (["a"] if is_lost else [])
    assert check._totals.workers_lost == is_lost


async def test_a_lease_that_was_renewed_meanwhile_is_no_lost_worker():
    """Redis decides, in the same step that ends the job."""
    broker = Broker(job("a", -1.0), loses=False)
    check = checking(broker, Feed("a"))
    await run(check, 1.5)
    assert (broker.declared, check._totals.workers_lost) == (["a"], 0)


async def test_a_job_that_cannot_be_ended_is_tried_again_after_a_period():
    """No rights or no memory: nothing that a second would change. The other jobs are ended all the same."""
    feeds = Feed("a"), Feed("b")
    broker = Broker(job("a", -1.0), job("b", -1.0))
    broker.refusal = BrokerUnavailable("expected a right to publish")
    check = checking(broker, *feeds)
    await run(check, 5)
    assert (broker.declared, check._totals.workers_lost) == (["a", "b"], 0)
    assert [feed.due for feed in feeds] == [pytest.approx(1001 + PERIOD)] * 2
