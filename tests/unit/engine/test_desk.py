"""Commands: who may give which, how many, and what a stranger learns."""

from __future__ import annotations

import asyncio
import json
from typing import Literal

import pytest

from hub.engine.caller import Caller
from hub.engine.desk import MAX_KEY, REFILL, Desk
from hub.errors import CommandForbidden, InvalidCommand, JobNotFound, NobodyListens, TooManyCommands
from hub.job import catalogue
from hub.job.command import MAX_NAME
from hub.job.event import JobId, UserId
from hub.job.record import Job
from hub.settings import Settings
from hub.totals import Totals

pytestmark = pytest.mark.looptime(start=1000)
ADA, EVE = UserId("ada"), UserId("eve")
JOB = JobId("j")
OF_ADA = Job(JOB, "code", ADA)


class Broker:
    """Keeps commands."""

    def __init__(self) -> None:
        self.kept: list[tuple[JobId, dict[str, object], str | None]] = []
        self.error: Exception | None = None

    async def command(self, job: Job, text: str, *, once: str | None) -> str:
        if self.error is not None:
            raise self.error
        self.kept.append((job.id, json.loads(text), once))
        return f"id {len(self.kept)}"


class Counter:
    """A desk, what it keeps and what it counts. `eve` is shown the job too, everybody else is a stranger."""

    def __init__(self, **settings: object) -> None:
        self.broker = Broker()
        self.totals = Totals()
        self.authorised: list[JobId] = []
        given = Settings(**{"commands": "cancel,approve", **settings})
        self.desk = Desk(self.broker, given, self._authorise, self.totals)

    async def _authorise(self, caller: Caller, job: JobId) -> Job:
        self.authorised.append(job)
        if caller.user not in (ADA, EVE):
            raise JobNotFound("expected the owner")
        return OF_ADA

    async def give(
        self, name: object = "cancel", args: object = None, *, user: str = ADA, **more: object
    ) -> str:
        caller = Caller(UserId(user))
        return await self.desk.give(caller, JOB, name, {} if args is None else args, **more)

    @property
    def counts(self) -> tuple[int, int]:
        """Commands that were kept, and that were refused."""
        return self.totals.commands, self.totals.commands_refused


async def test_a_command_of_the_owner_is_kept_for_the_worker_and_has_an_id():
    counter = Counter()
    assert await counter.give("approve", {"page": 3}) == "id 1"
    command = {"name": "approve", "user": "ada", "args": {"page": 3}}
    assert counter.broker.kept == [(JOB, command, None)]
    assert (counter.counts, counter.authorised) == ((1, 0), [JOB])


async def test_who_may_watch_and_does_not_own_is_told_so():
    counter = Counter()
    with pytest.raises(CommandForbidden):
        await counter.give(user=EVE)
    assert (counter.counts, counter.broker.kept) == ((0, 1), [])


async def test_a_stranger_is_answered_as_about_a_job_that_is_not_there_whatever_they_say():
    counter = Counter()
    for name, key in (("cancel", None), ("nonsense", None), ("cancel", 7)):
        with pytest.raises(JobNotFound):
            await counter.give(name, user="mallory", key=key)
    assert counter.counts == (0, 3)


@pytest.mark.parametrize("name", ["delete", "", 7, None, ["cancel"], "c" * (MAX_NAME + 1)])
async def test_only_the_commands_of_the_settings_are_given(name):
    counter = Counter()
    with pytest.raises(InvalidCommand, match="one of approve, cancel"):
        await counter.give(name)
    assert (counter.counts, counter.broker.kept) == ((0, 1), [])


async def test_a_name_may_have_its_most_characters_and_no_more():
    longest, longer = "c" * MAX_NAME, "c" * (MAX_NAME + 1)
    counter = Counter(commands=f"{longest},{longer}")
    await counter.give(longest)
    with pytest.raises(InvalidCommand):
        await counter.give(longer)


async def test_a_hub_without_commands_says_that_it_has_none():
    with pytest.raises(InvalidCommand, match="this hub allows none"):
        await Counter(commands="").give()


@pytest.mark.parametrize("args", [[], "text", 7])
async def test_arguments_are_an_object(args):
    with pytest.raises(InvalidCommand, match="JSON object"):
        await Counter().give("cancel", args)


async def test_a_registered_command_needs_no_setting_and_its_arguments_are_checked(monkeypatch):
    class Approve(catalogue.TypedCommand):
        name: Literal["sign"] = "sign"
        page: int
        copies: int = 1

    monkeypatch.setitem(catalogue.COMMANDS, "sign", Approve)
    counter = Counter(commands="")
    await counter.give("sign", {"page": 3})
    assert counter.broker.kept[0][1]["args"] == {"page": 3, "copies": 1}
    with pytest.raises(InvalidCommand, match="page"):
        await counter.give("sign", {"page": "three"})


@pytest.mark.parametrize("key", ["k", "k" * MAX_KEY, "two words"])
async def test_a_key_makes_a_command_one_of_its_user(key):
    counter = Counter()
    await counter.give(key=key)
    assert counter.broker.kept[0][2] == f"ada:{key}"


@pytest.mark.parametrize("key", ["", "k" * (MAX_KEY + 1), "line\n", 7, ["k"]])
async def test_another_key_is_refused(key):
    counter = Counter()
    with pytest.raises(InvalidCommand, match="key of 1 to 128"):
        await counter.give(key=key)
    assert counter.broker.kept == []


async def test_a_command_that_the_broker_refuses_is_counted_as_refused():
    counter = Counter()
    counter.broker.error = NobodyListens("expected a worker, got none")
    with pytest.raises(NobodyListens):
        await counter.give()
    assert counter.counts == (0, 1)


async def test_a_user_gives_so_many_commands_at_once_and_is_told_when_to_go_on():
    """The job is not read for those who give too many."""
    counter = Counter(max_commands=5)
    for _ in range(5):
        await counter.give()
    with pytest.raises(TooManyCommands) as caught:
        await counter.give()
    assert caught.value.after == pytest.approx(REFILL / 5, abs=0.001)
    assert (len(counter.authorised), counter.counts) == (5, (5, 1))
    with pytest.raises(CommandForbidden):
        await counter.give(user=EVE)  # another user has all of their own


async def test_all_commands_are_allowed_again_after_the_refill():
    counter = Counter(max_commands=5)
    for _ in range(5):
        await counter.give()
    await asyncio.sleep(REFILL)
    for _ in range(5):
        await counter.give()
    with pytest.raises(TooManyCommands):
        await counter.give()
