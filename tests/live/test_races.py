"""Many viewers at once on a real uvicorn and Redis: joins, leaves, the terminal, and what is left."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.support import producers
from tests.support.viewer import dashboard, view

TRANSPORTS = ("sse", "websocket")


async def numsub(live, job) -> int:
    """The number of subscriptions that Redis has of the job's channel."""
    ((_, number),) = await live.client.pubsub_numsub(f"job:{job}:events")
    return number


async def connections(live) -> int:
    """The number of connections that Redis has."""
    return len(await live.client.client_list())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("how", ["ours", "foreign", "hash only"])
async def test_no_viewer_waits_when_joins_race_the_terminal(start_hub, seed, how):
    """Each of 60 viewers that join around the terminal event gets that event and the end."""
    rng = random.Random(seed)
    async with start_hub(
        linger=rng.choice([0, 5]), max_viewers_per_user_and_job=100, position_check=0.3
    ) as live:
        job = (
            await producers.job(live, events=3) if how == "ours" else await producers.foreign_job(live.client)
        )
        joined = 0

        async def end() -> None:
            while joined < at:
                await asyncio.sleep(0)
            if how == "ours":
                await live.publisher.ready(job)
                return
            if how == "foreign":
                await producers.shout(live.client, job, {"type": "build.stage.started", "status": "ready"})
            await live.client.hset(f"job:{job}", "status", "ready")

        async def join(transport: str, pauses: int) -> list:
            nonlocal joined
            for _ in range(pauses):
                await asyncio.sleep(0)
            joined += 1
            async with view(live, transport, job) as viewer:
                seen = await viewer.all()
                assert viewer.closed == "ended"
                return seen

        at = rng.randrange(60)
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            group.create_task(end())
            joins = [group.create_task(join(TRANSPORTS[n % 2], rng.randrange(200))) for n in range(60)]
        for task in joins:
            *_, terminal, last = task.result()
            assert (terminal.fields["status"], last.fields) == ("ready", {"status": "ready"})
            assert [one.name for one in task.result()].count("build.stage.started") == 1
            if how == "ours":
                assert producers.numbers(task.result()) == [0, 1, 2]
        await live.until(lambda: live.hub.statistics().viewers == 0)


async def test_fifty_concurrent_first_viewers_share_one_subscription(start_hub):
    """There is one SUBSCRIBE and one feed, whichever transport is first."""
    async with start_hub() as live:
        job = await producers.job(live)
        viewers = [view(live, TRANSPORTS[n % 2], job) for n in range(50)]
        async with asyncio.timeout(20):
            before = (await live.client.info("commandstats"))["cmdstat_subscribe"]["calls"]
            await asyncio.gather(*(viewer.__aenter__() for viewer in viewers))
            assert await numsub(live, job) == 1
            after = (await live.client.info("commandstats"))["cmdstat_subscribe"]["calls"]
            assert after - before == 1
            assert live.hub.statistics().jobs == 1
            await producers.publish(live, job, 3)
            await live.publisher.ready(job)
            everything = await asyncio.gather(*(viewer.all() for viewer in viewers))
            await asyncio.gather(*(viewer.__aexit__(None, None, None) for viewer in viewers))
        assert all(producers.numbers(seen) == [0, 1, 2] for seen in everything)


async def test_connections_to_redis_do_not_grow_with_watched_jobs(start_hub):
    """200 jobs need one Pub/Sub connection and some for commands, as one job does."""
    async with start_hub() as live:
        jobs = [await producers.job(live) for _ in range(200)]
        async with asyncio.timeout(30), dashboard(live) as one, dashboard(live) as two:
            await one.say("subscribe", job=jobs[0], ref=0)
            await one.answer(0)
            before = await connections(live)
            for n, job in enumerate(jobs[1:], 1):
                board = one if n < 100 else two
                await board.say("subscribe", job=job, ref=n)
                await board.answer(n)
            assert live.hub.statistics().jobs == 200
            assert await connections(live) <= before + 2
            pubsub = await live.client.client_list(_type="pubsub")
            assert len(pubsub) == 1
            assert int(pubsub[0]["sub"]) == 201  # the jobs and the control channel
            await producers.publish(live, jobs[150], 1)
            assert (await two.next()).fields["job_id"] == jobs[150]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_nothing_is_left_after_the_last_viewer_and_the_linger(start_hub, transport):
    """No subscription, feed, task or viewer is left."""
    async with start_hub(linger=0.05) as live:
        jobs = [await producers.job(live, events=2) for _ in range(5)]
        for job in jobs:
            async with view(live, transport, job) as viewer:
                await viewer.take(2)
                assert await numsub(live, job) == 1
        async with asyncio.timeout(10):
            await live.until(lambda: not live.hub.statistics().jobs)
            while any([await numsub(live, job) for job in jobs]):
                await asyncio.sleep(0.005)
        assert live.hub.statistics().viewers == 0
        assert live.hub.broker.statistics().channels == 0
        assert [task for task in asyncio.all_tasks() if task.get_name().startswith("hub-feed")] == []


async def test_an_ended_job_is_unsubscribed_while_its_viewers_are_still_there(start_hub):
    """No further event can come."""
    async with start_hub() as live:
        job = await producers.job(live)
        async with view(live, "sse", job) as viewer:
            assert await numsub(live, job) == 1
            await live.publisher.ready(job)
            await viewer.all()
            async with asyncio.timeout(10):
                while await numsub(live, job):
                    await asyncio.sleep(0.005)


async def test_a_reload_within_linger_costs_no_new_subscription(start_hub):
    """Ten reloads need one SUBSCRIBE, and every event comes once."""
    async with start_hub() as live:
        job = await producers.foreign_job(live.client)
        async with view(live, "sse", job) as viewer:
            pass
        calls = (await live.client.info("commandstats"))["cmdstat_subscribe"]["calls"]
        cursor, got = viewer.cursor, []
        for n in range(10):
            await live.until(lambda: live.hub.statistics().viewers == 0)
            await producers.shout(live.client, job, {"type": "step", "n": n})
            async with view(live, TRANSPORTS[n % 2], job, cursor=cursor) as viewer:
                got += producers.numbers(await viewer.take(1))
                cursor = viewer.cursor
        assert got == list(range(10))
        assert (await live.client.info("commandstats"))["cmdstat_subscribe"]["calls"] == calls


@pytest.mark.parametrize("seed", range(3))
async def test_joins_and_leaves_in_any_order_leave_nothing(start_hub, seed):
    """Viewers come, read and leave on few jobs without linger; no event is missed, nothing is left."""
    rng = random.Random(seed)
    async with start_hub(linger=0, max_viewers_per_user_and_job=1000) as live:
        jobs = [await producers.job(live, events=5) for _ in range(3)]

        async def come_and_go() -> None:
            for _ in range(5):
                job, wanted = rng.choice(jobs), rng.randrange(6)
                async with view(live, rng.choice(TRANSPORTS), job) as viewer:
                    assert producers.numbers(await viewer.take(wanted)) == list(range(wanted))

        async with asyncio.timeout(30):
            await asyncio.gather(*(come_and_go() for _ in range(20)))
            await live.until(lambda: not live.hub.statistics().jobs)
        assert live.hub.statistics().viewers == 0
        async with asyncio.timeout(10):  # the last command may still be on its way to Redis
            while any([await numsub(live, job) for job in jobs]):
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_viewer_that_disconnects_abruptly_is_gone(start_hub, transport):
    """After a reset the statistics do not count it, and the other viewers are unaffected."""
    async with start_hub() as live:
        job = await producers.job(live)
        async with view(live, transport, job) as gone, view(live, transport, job) as stays:
            await live.until(lambda: live.hub.statistics().viewers == 2)
            socket = gone.viewer.writer.transport if transport == "sse" else gone.socket.transport
            socket.abort()
            await live.until(lambda: live.hub.statistics().viewers == 1)
            await live.publisher.ready(job)
            assert [one.name for one in await stays.all()] == ["build.stage.started", "end"]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_viewer_that_leaves_during_its_replay_is_gone(start_hub, transport):
    """This holds also before the viewer has a seat."""
    async with start_hub(window_events=20, linger=0) as live:
        job = await producers.job(live)
        await producers.retain(live.client, job, 900)
        for _ in range(5):
            async with view(live, transport, job) as viewer:
                socket = viewer.viewer.writer.transport if transport == "sse" else viewer.socket.transport
                socket.abort()
        await live.until(lambda: live.hub.statistics().viewers == 0)
        await live.until(lambda: not live.hub.statistics().jobs)
