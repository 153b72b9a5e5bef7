"""The job state machine, on the fake and on a real Redis."""

from __future__ import annotations

import asyncio

import fakeredis
import pytest

from hub.broker.script import Publication
from hub.errors import BrokerUnavailable, InvalidEvent, JobEnded, JobExists, JobNotFound
from hub.job.event import JobId
from hub.produce.jobs import JobStateMachine
from tests.support.keys import log_of


@pytest.fixture
def jobs(redis) -> JobStateMachine:
    return JobStateMachine(redis)


async def test_a_new_job_is_what_was_asked_for(jobs, redis):
    """The hash has status, owner, project and own fields, and an epoch, so that viewers have a cursor."""
    made = await jobs.create_job("a", user_id="ada", project_id="p", status="starting", title="T")
    assert (made.id, made.status, made.user_id) == ("a", "starting", "ada")
    assert made.fields["project_id"] == "p"
    assert made.fields["title"] == "T"
    assert made.epoch is not None
    assert made.position is None
    assert await jobs.get_job("a") == made
    assert await redis.exists(log_of("a")) == 0


async def test_a_state_machine_may_have_a_connection_of_its_own(redis_server, real_redis):
    """It is closed at the end, and the caller's client is not touched."""
    async with JobStateMachine.from_url(redis_server.url) as jobs:
        await jobs.create_job("a", user_id="ada")
        await jobs.transition("a", "code")
        assert len(await real_redis.client_list()) > 1
    others = await real_redis.client_list()
    assert {one["id"] for one in others} == {str(await real_redis.client_id())}


async def test_the_first_event_has_the_epoch_of_the_job(jobs):
    """So a cursor from before the first event stays valid."""
    made = await jobs.create_job("a", user_id="ada")
    assert await jobs.transition("a", "code") == (made.epoch, 0)


async def test_an_id_is_given_once(jobs):
    """The second `create_job` raises JobExists and does not change the job."""
    await jobs.create_job("a", user_id="ada")
    with pytest.raises(JobExists):
        await jobs.create_job("a", user_id="eve", status="code")
    assert (await jobs.get_job("a")).user_id == "ada"
    assert (await jobs.get_job("a")).status == "queued"


async def test_of_concurrent_creations_one_wins(jobs):
    """One of several concurrent calls creates the job; the others raise JobExists."""
    results = await asyncio.gather(
        *(jobs.create_job("a", user_id=f"u{n}") for n in range(8)), return_exceptions=True
    )
    assert sum(isinstance(one, JobExists) for one in results) == 7
    (winner,) = [one for one in results if not isinstance(one, Exception)]
    assert (await jobs.get_job("a")).user_id == winner.user_id


async def test_a_transition_sets_the_status_and_gives_the_events_id(jobs, redis):
    """Each transition publishes one event, and the ids are in order."""
    await jobs.create_job("a", user_id="ada")
    first = await jobs.transition("a", "scaffold", "words")
    second = await jobs.transition("a", "code")
    assert second == first.next
    assert (await jobs.get_job("a")).status == "code"
    assert (await jobs.get_job("a")).position == second
    assert await redis.xlen(log_of("a")) == 2


@pytest.mark.parametrize("status", ["ready", "failed"])
async def test_a_job_ends_once(jobs, redis, status):
    """Every transition after the end raises JobEnded."""
    await jobs.create_job("a", user_id="ada")
    await jobs.transition("a", status)
    for late in ("code", "ready", "failed"):
        with pytest.raises(JobEnded):
            await jobs.transition("a", late)
    assert await redis.xlen(log_of("a")) == 1
    assert (await jobs.get_job("a")).status == status


async def test_two_ends_at_once_are_one_end(jobs, redis):
    """Of concurrent ends one is published, because the script checks again after the read."""
    await jobs.create_job("a", user_id="ada")
    results = await asyncio.gather(
        *(jobs.transition("a", status) for status in ["ready", "failed"] * 4), return_exceptions=True
    )
    assert sum(isinstance(one, JobEnded) for one in results) == 7
    assert await redis.xlen(log_of("a")) == 1


async def test_a_job_that_is_not_there_is_not_found(jobs, redis):
    """A transition raises JobNotFound and creates nothing."""
    with pytest.raises(JobNotFound):
        await jobs.get_job("a")
    with pytest.raises(JobNotFound):
        await jobs.transition("a", "code")
    assert await redis.keys("*") == []


@pytest.mark.parametrize("job", ["", "a b", "a/b", "x" * 129, "é"])
async def test_a_bad_id_is_refused(jobs, job):
    """A bad id raises InvalidEvent before any command is sent."""
    for call in (jobs.create_job(job, user_id="a"), jobs.get_job(job), jobs.transition(job, "code")):
        with pytest.raises(InvalidEvent):
            await call


async def test_a_field_that_is_no_text_is_refused_and_the_job_not_half_made(jobs, redis):
    """Nothing is written for the refused call, so the next call creates the job."""
    with pytest.raises(InvalidEvent, match="title"):
        await jobs.create_job("a", user_id="ada", title=None)
    assert await redis.keys("*") == []
    await jobs.create_job("a", user_id="ada", title="t")


async def test_a_repeated_command_makes_one_job_and_no_complaint(jobs, redis):
    """redis-py repeats a command whose answer was lost; the repetition gives the same answer."""
    keys, args = Publication().prepare_job(JobId("a"), {"user_id": "ada", "status": "queued"})
    answers = [await jobs._script.run(keys, args) for _ in range(2)]
    assert answers[0] == answers[1]
    assert await redis.hget("job:a", "user_id") == b"ada"
    with pytest.raises(JobExists):
        await jobs.create_job("a", user_id="bob")


@pytest.mark.parametrize("status", ["ready", "failed"])
async def test_a_job_does_not_begin_with_its_end(jobs, redis, status):
    """A terminal first status is refused: a transition must set it, which tells viewers."""
    with pytest.raises(InvalidEvent):
        await jobs.create_job("a", user_id="ada", status=status)
    assert await redis.keys("*") == []


async def test_a_key_of_another_type_is_no_job(jobs, redis):
    """If the job's key is a list, the job is not found, cannot be created, and the list stays as it is."""
    await redis.rpush("job:a", "x")
    with pytest.raises(JobNotFound):
        await jobs.get_job("a")
    with pytest.raises(JobNotFound):
        await jobs.transition("a", "code")
    with pytest.raises(BrokerUnavailable):
        await jobs.create_job("a", user_id="ada")
    assert await redis.lrange("job:a", 0, -1) == [b"x"]


async def test_a_job_of_the_application_can_be_moved(jobs, redis):
    """A hash that the application wrote has no epoch until the first event sets it."""
    await redis.hset("job:a", mapping={"status": "queued", "user_id": "ada"})
    assert (await jobs.get_job("a")).epoch is None
    first = await jobs.transition("a", "code")
    assert (await jobs.get_job("a")).epoch == first.epoch


async def test_without_redis_every_call_says_so():
    """Every call raises BrokerUnavailable."""
    server = fakeredis.FakeServer()
    server.connected = False
    jobs = JobStateMachine(fakeredis.FakeAsyncRedis(server=server))
    for call in (jobs.create_job("a", user_id="a"), jobs.get_job("a"), jobs.transition("a", "code")):
        with pytest.raises(BrokerUnavailable):
            await call


async def test_terminal_statuses_are_a_setting(redis):
    """`create_job` and `transition` use the publication's terminal statuses."""
    jobs = JobStateMachine(redis, publication=Publication(terminal=frozenset({"done"})))
    await jobs.create_job("a", user_id="ada", status="ready")
    await jobs.transition("a", "done")
    with pytest.raises(JobEnded):
        await jobs.transition("a", "code")
