"""Jobs created again under an earlier name, and ends that the hash has before the events."""

from __future__ import annotations

import asyncio

import pytest

from tests.support import producers
from tests.support.viewer import view

pytestmark = pytest.mark.asyncio(loop_scope="module")

READY = {"type": "build.stage.started", "status": "ready", "narration": "the real one"}


async def test_a_job_that_is_made_anew_shows_nothing_of_the_one_before(redis, live, watch):
    """The old log outlives its hash, but the new job shows none of its events, nor its end."""
    job = await producers.job(live, events=3)
    await live.publisher.failed(job)
    await redis.delete(f"job:{job}")
    await live.jobs.create_job(job, user_id="ada")
    async with watch(job, "?from=start") as viewer:
        await producers.publish(live, job, 2, start=10)
        assert producers.numbers(await viewer.take(2)) == [10, 11]
    async with watch(job, "?from=start") as late:
        assert producers.numbers(await late.take(2)) == [10, 11]
        await live.publisher.ready(job)
        assert [one.name for one in await late.all()] == ["build.stage.started", "end"]


@pytest.mark.parametrize("restored", [True, False], ids=["rewritten", "deleted"])
async def test_a_hash_that_the_application_writes_anew_stops_nobody(redis, live, watch, job, restored):
    """The log and its numbers are in keys of ours: the publisher goes on in them, and viewers miss nothing."""
    async with watch(job) as viewer:
        await producers.publish(live, job, 2)
        await viewer.take(2)
        await redis.delete(f"job:{job}")
        if restored:
            await redis.hset(f"job:{job}", mapping={"status": "code", "user_id": "ada"})
        await producers.publish(live, job, 2, start=2)
        assert producers.numbers(await viewer.take(2)) == [2, 3]
        await live.publisher.ready(job)
        assert [one.name for one in await viewer.all()] == ["build.stage.started", "end"]


async def test_what_was_published_before_the_hash_said_the_end_is_delivered_before_it(
    redis, live, transport, start_hub
):
    """The terminal event with all its fields is delivered, not an event made from the hash's status."""
    async with start_hub(position_check=1000) as cut:
        for _ in range(5):
            job = await producers.foreign_job(redis)
            async with view(cut, transport, job) as viewer:
                await producers.shout(redis, job, {"type": "step", "n": 0})
                await viewer.take(1)
                for feed in cut.hub.feeds.watched.values():
                    feed._inbox.missed()  # as after each reconnect: the hash is read, while events come
                await redis.hset(f"job:{job}", "status", "ready")
                await producers.shout(redis, job, {"type": "step", "n": 1}, {"type": "step", "n": 2}, READY)
                seen = [one for one in await viewer.all() if one.name not in ("gap", "state")]
            assert [one.name for one in seen] == ["step", "step", "build.stage.started", "end"]
            assert seen[2].fields["narration"] == "the real one"


async def test_ids_of_a_log_that_is_not_here_are_dropped_and_cost_no_read_each(redis, live, watch):
    """Channels are shared by all databases of a Redis, keys are not: another one's events are not this job's."""
    job = await producers.foreign_job(redis)
    async with watch(job) as viewer:
        before = live.hub.statistics()
        relayed = [f'{{"id":"15269190{n:05}-{n}","type":"step","n":{n}}}' for n in range(1000)]
        await producers.shout(redis, job, *relayed, {"type": "step", "n": -1})
        assert producers.numbers(await viewer.take(1)) == [-1]
        after = live.hub.statistics()
    assert after.strangers - before.strangers == 1000
    assert after.heals - before.heals < 100  # as many as batches came in


async def test_a_job_made_anew_for_another_user_ends_the_old_ones_streams(redis, transport, start_hub):
    """The old owner's streams end, reconnect and get 404; they show nothing of the new job."""
    async with start_hub(position_check=0.2, linger=60) as live:
        job = await producers.job(live, events=1)
        async with view(live, transport, job) as viewer:
            await viewer.take(1)
            await redis.delete(f"job:{job}")
            await live.jobs.create_job(job, user_id="bob", title="secret")
            await live.publisher.emit(job, "step", {"n": 1, "secret": True})
            rest = await viewer.all()
        assert "secret" not in str(rest)
        assert viewer.closed in ("cut", "4404", 4404)
        async with view(live, transport, job) as again:
            assert again.status == 404
        async with view(live, transport, job, user="bob") as theirs:
            assert producers.numbers(await theirs.take(1)) == [1]


async def test_a_job_that_has_ended_and_is_made_anew_is_not_answered_from_memory(redis, live, watch):
    """The hash has the new owner and status, so a viewer that comes at once gets those."""
    job = await producers.job(live)
    await live.publisher.ready(job)
    async with watch(job) as viewer:
        await viewer.all()
    await redis.delete(f"job:{job}")
    await live.jobs.create_job(job, user_id="bob")
    async with watch(job) as viewer:
        assert viewer.status == 404
    async with watch(job, user="bob") as theirs:
        await producers.publish(live, job, 1)
        assert producers.numbers(await theirs.take(1)) == [0]


async def test_a_viewer_that_asks_while_the_job_is_being_made_is_let_in(redis, live, watch):
    """A read begun for another viewer may be older than the job; it must not refuse this one."""
    job = producers.name()
    early = asyncio.create_task(live.hub._reads._read(job))
    await asyncio.sleep(0)
    await live.jobs.create_job(job, user_id="ada")
    async with watch(job) as viewer:
        await producers.publish(live, job, 1)
        assert producers.numbers(await viewer.take(1)) == [0]
    await early
