"""The list of revocations: read before anybody is let in, read again when it may be stale, and newer than none."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from hub.engine.caller import Caller
from hub.engine.revocations import RETRY, Revocations
from hub.errors import BrokerUnavailable
from hub.job.event import JobId, UserId
from hub.job.revocation import Revocation

pytestmark = pytest.mark.looptime(start=1000)
ADA, EVE = UserId("ada"), UserId("eve")
JOB, OTHER = JobId("j"), JobId("k")


class Broker:
    """Has a list of revocations, or fails."""

    def __init__(self, *found: Revocation) -> None:
        self.found = list(found)
        self.is_down = False
        self.reads: list[float] = []

    async def revocations(self) -> list[Revocation]:
        self.reads.append(asyncio.get_running_loop().time() - 1000)
        await asyncio.sleep(0)
        if self.is_down:
            raise BrokerUnavailable("expected a server, got none")
        return self.found


def made(broker: Broker | None = None) -> tuple[Revocations, list[Revocation]]:
    told: list[Revocation] = []
    return Revocations(broker or Broker(), told.append), told


@asynccontextmanager
async def running(revocations: Revocations):
    task = asyncio.create_task(revocations.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_nobody_is_let_in_before_the_list_was_read():
    one = Revocation(ADA, None, 100.0)
    revocations, told = made(Broker(one))
    waiting = asyncio.create_task(revocations.wait_known())
    await asyncio.sleep(1)
    assert not waiting.done()
    assert not revocations.known
    async with running(revocations):
        await waiting
        assert revocations.known
        assert told == [one]


async def test_a_list_that_cannot_be_read_is_said_at_once_and_read_again_soon():
    broker = Broker()
    broker.is_down = True
    revocations, _ = made(broker)
    async with running(revocations):
        with pytest.raises(BrokerUnavailable):
            await revocations.wait_known()
        assert broker.reads == [0.0]
        broker.is_down = False
        await asyncio.sleep(RETRY + 0.1)
        assert broker.reads == [0.0, RETRY]
        await revocations.wait_known()
        await asyncio.sleep(10 * RETRY)
        assert broker.reads == [0.0, RETRY]  # and not again while nothing happens


async def test_a_list_that_was_read_once_is_good_until_it_can_be_read_again():
    broker = Broker()
    revocations, _ = made(broker)
    async with running(revocations):
        await revocations.wait_known()
        broker.is_down = True
        revocations.missed()
        await asyncio.sleep(0.1)
        assert len(broker.reads) == 2
        await revocations.wait_known()


async def test_after_an_interruption_the_list_is_read_again():
    broker = Broker()
    revocations, told = made(broker)
    async with running(revocations):
        await revocations.wait_known()
        broker.found.append(Revocation(ADA, None, 100.0))
        revocations.missed()
        await asyncio.sleep(0.1)
        assert (told, len(broker.reads)) == (broker.found, 2)


@pytest.mark.parametrize(
    ("one", "covered"),
    [
        (Revocation(ADA, None, 100.0), True),
        (Revocation(ADA, JOB, 100.0), True),
        (Revocation(ADA, OTHER, 100.0), False),
        (Revocation(EVE, None, 100.0), False),
        (Revocation(EVE, JOB, 100.0), False),
    ],
)
def test_a_revocation_covers_a_users_credentials_for_all_jobs_or_for_one(one, covered):
    revocations, _ = made()
    revocations.add(one)
    assert revocations.cover(Caller(ADA, issued=50.0), JOB) is covered
    assert not revocations.cover(Caller(ADA, issued=150.0), JOB)


def test_credentials_of_the_very_moment_of_a_revocation_are_covered():
    revocations, _ = made()
    revocations.add(Revocation(ADA, None, 100.0))
    assert revocations.cover(Caller(ADA, issued=100.0))
    assert revocations.cover(Caller(ADA))  # they say no time
    assert not revocations.cover(Caller(ADA, issued=100.5))


def test_credentials_without_a_time_of_a_user_who_was_not_revoked_are_not_covered():
    revocations, _ = made()
    assert not revocations.cover(Caller(ADA), JOB)
    revocations.add(Revocation(EVE, None, 100.0))
    assert not revocations.cover(Caller(ADA), JOB)


def test_of_two_revocations_the_later_one_counts_in_whichever_order_they_come():
    for first, second in ((100.0, 200.0), (200.0, 100.0)):
        revocations, _ = made()
        revocations.add(Revocation(ADA, None, first))
        revocations.add(Revocation(ADA, None, second))
        assert revocations.cover(Caller(ADA, issued=150.0), JOB)
        revocations, _ = made()
        revocations.add(Revocation(ADA, None, first))
        revocations.add(Revocation(ADA, JOB, second))
        assert revocations.cover(Caller(ADA, issued=150.0), JOB)


def test_each_revocation_is_told_once_however_often_it_is_heard():
    revocations, told = made()
    one, later = Revocation(ADA, None, 100.0), Revocation(ADA, None, 101.0)
    for heard in (one, one, later, one):
        revocations.add(heard)
    assert told == [one, later]


def test_a_message_on_the_channel_is_a_revocation_or_changes_nothing():
    revocations, told = made()
    one = Revocation(ADA, JOB, 100.0)
    revocations.receive(b"none of ours")
    revocations.receive(one.message())
    assert told == [one]
