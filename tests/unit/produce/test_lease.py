"""A worker's lease: renewed while its block runs, then released or left to lapse, by Redis's clock."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from redis import Redis as PlainRedis
from redis.asyncio import Redis

from hub.broker.redis import GRACE, RedisBroker
from hub.broker.script import Publication
from hub.errors import BrokerUnavailable, InvalidEvent, JobEnded, JobNotFound
from hub.produce.blocking import SyncPublisher
from hub.produce.hearing import Heard
from hub.produce.lease import AsyncLease, held
from hub.produce.publisher import Publisher
from tests.support.keys import log_of, meta_of

JOB = "a"
KEY = f"job:{JOB}"
META = meta_of(JOB)


async def nobody() -> AsyncIterator[Heard]:
    """No commands come."""
    return
    yield


@pytest.fixture
async def job(redis: Redis) -> str:
    await redis.hset(KEY, mapping={"status": "code", "user_id": "ada"})
    return JOB


@pytest.fixture
def publisher(redis: Redis) -> Publisher:
    return Publisher(redis, strict=True)


@pytest.fixture
def broker(redis: Redis, monkeypatch) -> RedisBroker:
    broker = RedisBroker(redis, Publication())
    monkeypatch.setattr(broker.subscriber, "connected_for", lambda _: GRACE)
    return broker


async def lapse(redis: Redis) -> None:
    """Set the lease's time to the past."""
    await redis.hset(META, "lease", "1")


async def events(redis: Redis) -> list[dict]:
    return [json.loads(row[1][b"data"]) for row in await redis.xrange(log_of(JOB))]


async def test_a_lease_is_held_for_the_block_and_given_back(publisher, broker, job, redis):
    """The lease is in the job's hash, but not among the application's fields."""
    async with publisher.lease(job, ttl=30) as lease:
        (found,) = await broker.jobs([job])
        assert found.lease is not None
        assert 28 < found.lease <= 30
        assert "lease" not in found.fields
        assert not lease.lost
    assert await redis.hget(META, "lease") is None


async def test_an_exception_lets_it_lapse(publisher, job, redis):
    """After an exception the lease stays until it lapses, so that viewers learn of the failure."""
    with pytest.raises(RuntimeError):
        async with publisher.lease(job, ttl=30):
            raise RuntimeError("out of disk")
    assert await redis.hget(META, "lease") is not None


async def test_a_lapsed_lease_is_one_failed_event(publisher, broker, job, redis):
    """If several processes find the lapsed lease, one event is published."""
    await lapse(redis)
    await asyncio.gather(*(broker.declare_lost(job) for _ in range(5)))
    (event,) = await events(redis)
    assert (event["status"], event["reason"], event["job_id"]) == ("failed", "producer_lost", job)
    assert await redis.hget(META, "lease") is None
    with pytest.raises(JobEnded):
        await publisher.ready(job)


async def test_a_lease_that_holds_or_never_was_declares_nobody_lost(publisher, broker, job, redis):
    """`declare_lost` publishes nothing for a valid lease or a job without a lease."""
    await broker.declare_lost(job)
    async with publisher.lease(job):
        await broker.declare_lost(job)
    await broker.declare_lost(job)
    assert await events(redis) == []


async def test_nobody_is_lost_while_redis_has_just_come_back(broker, job, redis, monkeypatch):
    """Live workers could not renew during the outage; `GRACE` gives them time to."""
    await lapse(redis)
    monkeypatch.setattr(broker.subscriber, "connected_for", lambda _: GRACE - 0.1)
    assert not await broker.declare_lost(job)
    assert await events(redis) == []


async def test_the_workers_own_end_wins_over_a_lapse(publisher, broker, job, redis):
    """If the worker ends the job before its lapsed lease is found, only its own event is published."""
    await lapse(redis)
    await publisher.ready(job)
    await broker.declare_lost(job)
    assert [event["status"] for event in await events(redis)] == ["ready"]


async def test_there_is_no_lease_on_what_is_not_there_or_over(publisher, redis, job):
    """A lease on an unknown or ended job is refused, and creates no key; so is a lease that is too short."""
    with pytest.raises(JobNotFound):
        async with publisher.lease("b"):
            pass
    assert not await redis.exists("job:b")
    await publisher.ready(job)
    with pytest.raises(JobEnded):
        async with publisher.lease(job):
            pass
    with pytest.raises(InvalidEvent):
        publisher.lease("no job id")
    with pytest.raises(ValueError, match="at least 1 s"):
        publisher.lease(job, ttl=0.5)
    with pytest.raises(ValueError, match="at least 8 s"):
        SyncPublisher(PlainRedis()).lease(job, ttl=7)


async def test_a_publisher_that_is_not_strict_never_breaks_the_job(redis, job):
    """The block runs although the lease was refused; `lost` is True only if the job has ended."""
    publisher = Publisher(redis)
    await publisher.ready(job)
    async with publisher.lease(job) as lease:
        assert lease.lost
    async with publisher.lease("b") as lease:
        assert not lease.lost  # the job may be created later


@pytest.mark.looptime
async def test_it_is_renewed_three_times_within_its_time_until_the_job_is_over():
    """A failed renewal is retried after a second, a hanging one is given up, and JobEnded stops renewing."""
    said: list[tuple[float, float]] = []
    loop = asyncio.get_running_loop()

    async def renew(seconds: float) -> None:
        said.append((loop.time(), seconds))
        if len(said) == 3:
            raise BrokerUnavailable("away")
        if len(said) == 5:
            await asyncio.sleep(1000)  # as a frozen Redis
        if len(said) == 7:
            raise JobEnded("over")

    async with held(AsyncLease(JOB, 30, nobody), renew, strict=True) as lease:
        await asyncio.sleep(50)
        assert not lease.lost
        await asyncio.sleep(300)
        assert lease.lost
    assert said == [(0, 30), (10, 30), (20, 30), (21, 30), (31, 30), (42, 30), (52, 30)]


async def test_a_job_that_this_worker_has_ended_is_over_and_not_lost(redis, job):
    """The lease is `over`, not `lost`."""
    publisher = Publisher(redis)
    async with publisher.lease(job) as lease:
        await publisher.ready(job)
        assert lease.over
    assert not lease.lost


async def test_a_worker_that_was_replaced_does_not_give_back_its_successors_lease(publisher, job, redis):
    """Leaving the block does not release a lease that another worker has taken over."""
    async with publisher.lease(job):
        successor = publisher.lease(job, ttl=60)
        await successor.__aenter__()
    assert await redis.hget(META, "lease") is not None
    await successor.__aexit__(None, None, None)
    assert await redis.hget(META, "lease") is None


@pytest.mark.looptime
async def test_a_first_renewal_that_failed_is_tried_again_soon():
    """The job may be created a moment later; from then on a lost worker must be noticed."""
    said: list[float] = []

    async def renew(seconds: float) -> None:
        said.append(asyncio.get_running_loop().time())
        if len(said) < 3:
            raise JobNotFound("not yet")

    async with held(AsyncLease(JOB, 30, nobody), renew, strict=False):
        await asyncio.sleep(13)
    assert said[:4] == [0, 1, 2, 12]


def test_blocking_code_holds_a_lease_too(redis_server, monkeypatch):
    """A thread renews the lease, and leaving the block releases it."""
    monkeypatch.setattr("hub.produce.lease.SHORTEST_BLOCKING", 1)
    with PlainRedis.from_url(redis_server.url) as client:
        client.hset("job:plain", mapping={"status": "code", "user_id": "ada"})
        publisher = SyncPublisher(client, strict=True)
        with publisher.lease("plain", ttl=1) as lease:
            first = client.hget(meta_of("plain"), "lease")
            while client.hget(meta_of("plain"), "lease") == first:
                pass
            assert not lease.lost
        assert client.hget(meta_of("plain"), "lease") is None
