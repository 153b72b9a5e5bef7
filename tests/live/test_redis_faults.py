"""Redis goes away, comes back or loses data: viewers get every event, or learn what is missing."""

from __future__ import annotations

import asyncio

import pytest
import redis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from hub.demo.embedded import EmbeddedServer
from tests.support import producers
from tests.support.live import live_hub
from tests.support.viewer import dashboard, view

TRANSPORTS = pytest.mark.parametrize("transport", ["sse", "websocket"])


def returning_client(url: str) -> Redis:
    """A client for a Redis that is restarted: its open connections are dead then, so it reconnects."""
    return Redis.from_url(url, retry=Retry(NoBackoff(), 1), retry_on_error=[redis.ConnectionError])


async def kill_pubsub(live) -> int:
    """Kill every Pub/Sub connection; returns their number."""
    return await live.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")


async def wait_subscribed(live, job) -> None:
    """Return when Redis sends the hub the job's messages again."""
    async with asyncio.timeout(10):
        while (await live.client.pubsub_numsub(f"job:{job}:events"))[0][1] != 1:
            await asyncio.sleep(0.005)


@TRANSPORTS
async def test_viewers_get_everything_across_killed_subscriptions(start_hub, transport):
    """Events published between CLIENT KILLs are read from the log, and come in order and once."""
    async with start_hub() as live:
        job = await producers.job(live)
        async with (
            asyncio.timeout(30),
            view(live, transport, job) as viewer,
            view(live, transport, job) as other,
        ):
            for n in range(60):
                if n % 12 == 6:
                    assert await kill_pubsub(live) >= 1
                await producers.publish(live, job, 1, start=n)
                if n % 12 == 11:
                    await wait_subscribed(live, job)
            await live.publisher.ready(job)
            seen, same = await viewer.all(), await other.all()
        assert producers.numbers(seen) == list(range(60))
        assert producers.contiguous(seen)
        assert "gap" not in [one.name for one in seen]
        assert seen == same
        assert viewer.closed == "ended"


@TRANSPORTS
async def test_a_terminal_that_was_published_to_nobody_still_ends_the_stream(start_hub, transport):
    """The connection is down while the terminal event is published."""
    async with start_hub() as live:
        job = await producers.job(live, events=2)
        async with asyncio.timeout(20), view(live, transport, job) as viewer:
            await viewer.take(2)
            await kill_pubsub(live)
            await live.publisher.failed(job)
            assert [one.name for one in await viewer.all()] == ["build.stage.started", "end"]


@TRANSPORTS
async def test_a_job_without_a_log_gets_a_gap_after_a_killed_subscription(start_hub, transport):
    """Events that only Pub/Sub had are lost, so a `gap` with reason `redis` and the `state` follow."""
    async with start_hub() as live:
        job = await producers.foreign_job(live.client)
        async with asyncio.timeout(20), view(live, transport, job) as viewer:
            await producers.shout(live.client, job, {"type": "step", "n": 0})
            await viewer.take(1)
            await kill_pubsub(live)
            await producers.shout(live.client, job, {"type": "step", "n": 1})  # nothing is subscribed
            gap, state = await viewer.take(2)
            assert (gap.name, gap.fields["reason"], state.name) == ("gap", "redis", "state")
            await producers.shout(live.client, job, {"type": "step", "n": 2})
            assert producers.numbers(await viewer.take(1)) == [2]


async def test_a_dashboard_gets_everything_across_a_killed_subscription(start_hub):
    """The missing events of each of its jobs are read from the log."""
    async with start_hub() as live:
        jobs = [await producers.job(live) for _ in range(3)]
        async with asyncio.timeout(20), dashboard(live) as board:
            for job in jobs:
                await board.say("subscribe", job=job, ref=job)
                await board.answer(job)
            for n in range(10):
                if n == 5:
                    await kill_pubsub(live)
                for job in jobs:
                    await producers.publish(live, job, 1, start=n)
            frames = await board.take(30)
        for job in jobs:
            assert producers.numbers([one for one in frames if one.fields["job_id"] == job]) == list(
                range(10)
            )


@TRANSPORTS
async def test_a_redis_that_comes_back_empty_is_answered_by_a_resync(transport):
    """Viewers get `resync` and `state`, and the job may begin again."""
    with EmbeddedServer() as server:
        async with returning_client(server.url) as client, live_hub(client) as live:
            job = await producers.job(live, events=3)
            async with asyncio.timeout(30), view(live, transport, job) as viewer:
                assert producers.numbers(await viewer.take(3)) == [0, 1, 2]
                server.kill()
                server.start()
                seen = await viewer.until("state")
                assert [one.name for one in seen] == ["resync", "state"]
                assert seen[0].fields["reason"]
                await live.client.hset(f"job:{job}", mapping={"status": "queued", "user_id": "ada"})
                await producers.publish(live, job, 2, start=3)
                await live.publisher.ready(job)
                rest = await viewer.all()
            assert producers.numbers(rest) == [3, 4]
            assert [one.name for one in rest[-2:]] == ["build.stage.started", "end"]


@TRANSPORTS
async def test_an_outage_keeps_streams_open_and_is_healed(transport):
    """During an outage streams stay open and new viewers are told to retry; afterwards events continue."""
    with EmbeddedServer() as server:
        async with returning_client(server.url) as client, live_hub(client) as live:
            job, other = await producers.job(live), await producers.job(live)
            async with asyncio.timeout(40), view(live, transport, job) as viewer:
                server.kill()
                await live.until(lambda: not live.hub.statistics().connected)
                async with view(live, transport, other) as refused:
                    await refused.all()
                    assert refused.closed == "reconnect"
                server.start()
                await live.until(lambda: live.hub.statistics().connected)
                assert (await viewer.until("state"))[0].name in ("resync", "gap")
                assert viewer.closed == ""
