"""Who may watch a job, and who may give its worker commands: owners, those the hash names, those the application lets."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from hub.engine.caller import ANSWER, Caller
from hub.errors import BrokerUnavailable
from hub.job.event import JobId, UserId
from hub.job.record import Job

pytestmark = pytest.mark.looptime(start=1000)
ADA, EVE = UserId("ada"), UserId("eve")
JOB, OTHER = JobId("j"), JobId("k")
OF_ADA = Job(JOB, "code", ADA, fields={"team": "red", "empty": ""})


class Application:
    """Answers each question in the same way, and keeps the questions."""

    def __init__(self, answer: bool) -> None:  # noqa: FBT001  # yes or no
        self.answer = answer
        self.asked: list[tuple[str, ...]] = []

    async def __call__(self, *question: str) -> bool:
        self.asked.append(question)
        return self.answer


async def hang(*_: object) -> bool:
    await asyncio.Event().wait()
    return True


async def break_down(*_: object) -> bool:
    raise RuntimeError("expected a database, got none")


def test_a_user_owns_the_jobs_whose_hash_names_them():
    assert Caller(ADA).owns(OF_ADA)
    assert not Caller(EVE).owns(OF_ADA)


def test_nobody_owns_a_job_without_a_user():
    assert not Caller(UserId("")).owns(replace(OF_ADA, user_id=UserId("")))


def test_a_ticket_owns_its_one_job_only():
    assert Caller(ADA, only=JOB).owns(OF_ADA)
    assert not Caller(ADA, only=OTHER).owns(OF_ADA)


def test_a_caller_with_a_ticket_or_a_question_for_commands_is_not_plain():
    assert Caller(ADA).is_plain
    assert not Caller(ADA, only=JOB).is_plain
    assert not Caller(ADA, ask_command=Application(answer=True)).is_plain


async def test_the_owner_may_watch_and_others_may_not():
    assert await Caller(ADA).may_watch(JOB, OF_ADA)
    assert not await Caller(EVE).may_watch(JOB, OF_ADA)
    assert not await Caller(ADA).may_watch(JOB, None)


async def test_the_application_is_not_asked_about_an_owner():
    application = Application(answer=False)
    assert await Caller(ADA, ask=application).may_watch(JOB, OF_ADA)
    assert application.asked == []


async def test_a_ticket_opens_no_other_job_even_if_the_application_would():
    application = Application(answer=True)
    caller = Caller(ADA, only=OTHER, ask=application)
    assert not await caller.may_watch(JOB, OF_ADA)
    assert application.asked == []
    assert await caller.may_watch(OTHER, replace(OF_ADA, id=OTHER))


@pytest.mark.parametrize(
    ("shared", "may"),
    [
        ({"team": "red"}, True),
        ({"team": "blue"}, False),
        ({"team": "blue", "club": "x"}, False),
        ({"club": "x", "team": "red"}, True),
        ({"empty": ""}, False),
        ({}, False),
    ],
)
async def test_a_field_of_the_hash_opens_the_job_to_those_who_have_its_value(shared, may):
    assert await Caller(EVE, shared=shared).may_watch(JOB, OF_ADA) is may


@pytest.mark.parametrize("answer", [True, False])
async def test_the_application_decides_about_others(answer):
    application = Application(answer)
    assert await Caller(EVE, ask=application).may_watch(JOB, OF_ADA) is answer
    assert application.asked == [(JOB,)]


@pytest.mark.parametrize("found", [None, replace(OF_ADA, exists=False)], ids=["unknown", "left over"])
async def test_a_job_that_is_not_there_costs_the_same_question_and_is_not_shown(found):
    application = Application(answer=True)
    assert not await Caller(EVE, ask=application).may_watch(JOB, found)
    assert application.asked == [(JOB,)]


async def test_an_application_that_fails_is_no_answer_and_a_line_in_the_log(caplog):
    with pytest.raises(BrokerUnavailable, match="may_watch"):
        await Caller(EVE, ask=break_down).may_watch(JOB, OF_ADA)
    assert "may_watch failed" in caplog.text
    assert "expected a database, got none" in caplog.text
    with pytest.raises(BrokerUnavailable, match="may_command"):
        await Caller(ADA, ask_command=break_down).may_command(OF_ADA, "cancel")


async def test_an_application_that_hangs_is_given_up():
    with pytest.raises(BrokerUnavailable):
        await Caller(EVE, ask=hang).may_watch(JOB, OF_ADA)
    assert asyncio.get_running_loop().time() == 1000 + ANSWER


async def test_the_owner_may_give_commands_and_others_may_not():
    assert await Caller(ADA).may_command(OF_ADA, "cancel")
    assert not await Caller(EVE, shared={"team": "red"}).may_command(OF_ADA, "cancel")


@pytest.mark.parametrize("answer", [True, False])
async def test_the_application_decides_about_commands_of_owners_too(answer):
    application = Application(answer)
    assert await Caller(ADA, ask_command=application).may_command(OF_ADA, "cancel") is answer
    assert application.asked == [(JOB, "cancel")]


async def test_nobody_gives_commands_by_a_ticket():
    application = Application(answer=True)
    assert not await Caller(ADA, only=JOB, ask_command=application).may_command(OF_ADA, "cancel")
    assert not await Caller(ADA, only=JOB).may_command(OF_ADA, "cancel")
    assert application.asked == []
