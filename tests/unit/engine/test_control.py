"""What is said on the control channel happens at a hub."""

from __future__ import annotations

import asyncio

import pytest

from hub.engine.caller import Caller
from hub.fanout.wire import Reason
from hub.job.begun import JobBegun
from hub.job.cursor import Wish
from hub.job.event import JobId, UserId
from hub.job.log_level import LogLevel
from hub.job.question import Answer, Away, Question
from hub.job.revocation import Revocation
from tests.unit.engine.test_hub import running, take_seat
from tests.unit.scripted import JOB, USER

pytestmark = pytest.mark.looptime(start=1000)
OTHER, EVE = JobId("b"), UserId("eve")


@pytest.mark.parametrize(
    ("message", "reasons"),
    [
        (Revocation(USER, None, 10.0**10), [Reason.REVOKED]),
        (Away(JOB, None), [Reason.RESTART]),
        (Away(None, USER), [Reason.RESTART]),
        (Away(JOB, USER), [Reason.RESTART]),
        (Away(OTHER, USER), []),
        (Away(JOB, EVE), []),
        (LogLevel("debug", 60.0), []),
        (JobBegun(JOB, USER), []),
    ],
    ids=str,
)
async def test_a_message_ends_the_streams_that_it_concerns(message, reasons):
    async with running() as hub:
        with (
            await hub.view(Caller(USER), JOB, Wish()) as view,
            await hub.view(Caller(USER), JOB, Wish()),  # has no seat yet
        ):
            wire, _ = take_seat(view)
            hub.control.receive(message.message())
            assert wire.reasons == reasons


async def test_a_job_that_begins_is_told_to_who_follows_its_user():
    async with running() as hub:
        told = []
        hub.mine.follow(USER, told.append)
        hub.control.receive(JobBegun(OTHER, USER).message())
        hub.control.receive(JobBegun(JOB, EVE).message())
        assert told == [OTHER]


async def test_a_level_is_for_whose_log_it_is():
    async with running() as hub:
        hub.control.receive(LogLevel("debug", 60.0).message())  # nobody's: nothing happens
        told = []
        hub.control.on_log_level = told.append
        hub.control.receive(LogLevel("info", 30.0).message())
        assert told == [LogLevel("info", 30.0)]


async def test_a_question_is_answered():
    async with running() as hub:
        said = []

        async def announce(message: bytes) -> int:
            said.append(Answer.parse(message))
            return 1

        hub.broker.announce = announce
        hub.control.receive(Question("n", JOB, 5).message())
        await asyncio.sleep(0.1)
        ((nonce, watched),) = [(one.nonce, one.said["watched"]) for one in said]
        assert (nonce, watched) == ("n", [])


async def test_after_an_interruption_revocations_and_jobs_are_looked_up():
    async with running() as hub:
        await hub.revocations.wait_known()
        one, told = Revocation(EVE, None, 10.0), []

        async def revocations() -> list[Revocation]:
            return [one]

        class Index:
            async def of(self, user):
                return [(JOB, 1.0)]

        hub.mine.follow(USER, told.append)
        await asyncio.sleep(0.1)
        hub.on_revoked = told.append
        hub.broker.revocations, hub.broker.index = revocations, Index()
        hub.control.missed()
        await asyncio.sleep(0.1)
        assert sorted(map(str, told)) == sorted([str(one), JOB])
