"""Viewers who do not own their job are asked about again and again, and lose it when the answer is no."""

from __future__ import annotations

import asyncio
import logging

import pytest

from hub.engine.caller import Caller
from hub.engine.guests import AT_ONCE, INTERVAL, GuestCheck
from hub.errors import BrokerUnavailable
from hub.fanout.wire import Reason
from hub.job.cursor import Wish
from hub.job.event import JobId, UserId
from hub.job.record import Job
from tests.unit.engine.test_hub import running, take_seat
from tests.unit.scripted import JOB, USER

pytestmark = pytest.mark.looptime(start=1000)


class Application:
    """Says who may watch, and counts how often it was asked, and by how many at once."""

    def __init__(self, *, may: bool = True) -> None:
        self.may: bool | Exception = may
        self.asked = self.now = self.most = 0

    async def __call__(self, _: JobId) -> bool:
        self.asked += 1
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.1)
        self.now -= 1
        if isinstance(self.may, Exception):
            raise self.may
        return self.may


class View:
    """What the check needs of a view."""

    def __init__(self, user: str, job: str, guest: Caller | None) -> None:
        self.user, self.job_id, self.guest = UserId(user), JobId(job), guest
        self.expelled: list[Reason] = []

    def expel(self, reason: Reason) -> None:
        self.expelled.append(reason)


class Broker:
    """Has every job, in two groups: those whose name begins with `x`, and the others."""

    def __init__(self) -> None:
        self.read: list[list[JobId]] = []
        self.down: set[str] = set()  # jobs that cannot be read

    def groups(self, jobs):
        parts = [job for job in jobs if job[0] == "x"], [job for job in jobs if job[0] != "x"]
        return [part for part in parts if part]

    async def jobs(self, jobs):
        self.read.append(jobs)
        if self.down & set(jobs):
            raise BrokerUnavailable("expected a shard, got none")
        return [Job(job, "code", USER) for job in jobs]


def guest(user: str, job: str, application: Application) -> View:
    return View(user, job, Caller(UserId(user), ask=application))


async def test_a_guest_who_may_not_watch_any_more_is_sent_away_and_others_stay():
    application = Application(may=False)
    still = Application()
    views = [guest("eve", "a", application), guest("bob", "a", still), View("ada", "a", None)]
    await GuestCheck(Broker(), lambda: views).look()
    assert [view.expelled for view in views] == [[Reason.NOT_FOUND], [], []]


async def test_one_question_stands_for_all_views_of_a_user_on_a_job():
    application = Application(may=False)
    views = [guest("eve", "a", application) for _ in range(3)]
    views += [guest("eve", "b", application), guest("bob", "a", application)]
    broker = Broker()
    await GuestCheck(broker, lambda: views).look()
    assert application.asked == 3
    assert all(view.expelled == [Reason.NOT_FOUND] for view in views)
    assert broker.read == [["a", "b"]]  # each job once


async def test_no_guests_no_reads():
    broker = Broker()
    await GuestCheck(broker, lambda: [View("ada", "a", None)]).look()
    assert broker.read == []


@pytest.mark.parametrize("error", [RuntimeError("expected a database, got none"), TimeoutError()])
async def test_an_application_that_does_not_answer_takes_nothing_away(error):
    application = Application()
    application.may = error
    view = guest("eve", "a", application)
    await GuestCheck(Broker(), lambda: [view]).look()
    assert (application.asked, view.expelled) == (1, [])


async def test_jobs_that_cannot_be_read_take_nothing_away_and_the_others_are_looked_at(caplog):
    application = Application(may=False)
    there, away = guest("eve", "a", application), guest("eve", "x", application)
    broker = Broker()
    broker.down = {"x"}
    with caplog.at_level(logging.WARNING, "hub.access"):
        await GuestCheck(broker, lambda: [there, away]).look()
    assert (there.expelled, away.expelled) == ([Reason.NOT_FOUND], [])
    assert "the check of guests failed" in caplog.text


async def test_few_questions_are_asked_at_a_time_and_few_jobs_are_read_at_a_time():
    application = Application()
    number = 2 * AT_ONCE + 5
    of_many_jobs = [guest("eve", f"job {one}", application) for one in range(number)]
    broker = Broker()
    await GuestCheck(broker, lambda: of_many_jobs).look()
    assert [len(jobs) for jobs in broker.read] == [AT_ONCE, AT_ONCE, 5]
    assert (application.asked, application.most) == (number, AT_ONCE)

    application = Application()
    of_one_job = [guest(f"user {one}", "a", application) for one in range(number)]
    await GuestCheck(Broker(), lambda: of_one_job).look()
    assert (application.asked, application.most) == (number, AT_ONCE)


async def test_the_check_looks_once_in_an_interval():
    application = Application()
    check = GuestCheck(Broker(), lambda: [guest("eve", "a", application)])
    running_check = asyncio.create_task(check.run())
    await asyncio.sleep(INTERVAL - 1)
    assert application.asked == 0
    await asyncio.sleep(2)
    assert application.asked == 1
    await asyncio.sleep(INTERVAL)
    assert application.asked == 2
    running_check.cancel()
    await asyncio.wait([running_check])


async def test_a_hub_checks_its_guests():
    """The owner's stream goes on, the guest's ends."""
    application = Application()
    async with running() as hub:
        hub.broker.groups = lambda jobs: [jobs]
        with (
            await hub.view(Caller(USER), JOB, Wish()) as own,
            await hub.view(Caller(UserId("eve"), ask=application), JOB, Wish()) as other,
        ):
            (of_owner, _), (of_guest, _) = take_seat(own), take_seat(other)
            application.may = False
            await asyncio.sleep(INTERVAL + 1)
            assert (of_owner.reasons, of_guest.reasons) == ([], [Reason.NOT_FOUND])
