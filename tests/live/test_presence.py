"""How many viewers a job has, over all hubs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx
import pytest
from redis.asyncio import Redis

from hub import Publisher, SyncPublisher
from hub.broker import presence as broker_module
from hub.broker.presence import RedisCounts
from hub.demo.embedded import EmbeddedServer
from hub.engine import presence as presence_module
from tests.support import producers
from tests.support.live import Live, live_hub, token
from tests.support.viewer import dashboard, view

ROUND = 0.05


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence_module, "INTERVAL", ROUND)


@pytest.fixture
async def redis() -> AsyncIterator[Redis]:
    with EmbeddedServer() as server:
        async with Redis.from_url(server.url) as client:
            yield client


@pytest.fixture
async def hubs(redis: Redis) -> AsyncIterator[list[Live]]:
    """Two hubs on one Redis."""
    async with live_hub(redis, linger=0) as one, live_hub(redis, linger=0) as other:
        yield [one, other]


async def count(live: Live, job: str) -> int | None:
    headers = {"Authorization": f"Bearer {token()}"}
    async with httpx.AsyncClient(headers=headers) as http:
        answer = await http.get(f"{live.url}/api/jobs/{job}")
    assert answer.status_code == 200
    return answer.json()["viewers"]


async def until(live: Live, job: str, number: int | None) -> None:
    async with asyncio.timeout(10):
        while await count(live, job) != number:
            await asyncio.sleep(ROUND)


async def test_viewers_are_counted_over_all_hubs_and_transports(hubs):
    """Also those of a dashboard; each of both hubs knows, and who asks is not counted."""
    job = await producers.job(hubs[0], events=1)
    assert await count(hubs[0], job) == 0
    async with AsyncExitStack() as stack:
        for live in hubs:
            for transport in ("sse", "websocket"):
                viewer = await stack.enter_async_context(view(live, transport, job))
                await viewer.next()
            board = await stack.enter_async_context(dashboard(live))
            await board.say("subscribe", job=job)
        for live in hubs:
            await until(live, job, 6)
    for live in hubs:
        await until(live, job, 0)


async def test_a_dashboard_that_asks_is_told_of_changes_only(hubs):
    """And not after it has left; the others on the job hear nothing."""
    job = await producers.job(hubs[0], events=1)
    async with dashboard(hubs[0]) as board, dashboard(hubs[0]) as other:
        await board.say("subscribe", job=job, viewers=True)
        await other.say("subscribe", job=job)
        assert (await board.until("viewers"))[-1].fields["count"] == 2
        async with view(hubs[1], "sse", job) as viewer:
            await viewer.next()
            assert (await board.until("viewers"))[-1].fields["count"] == 3
        assert (await board.until("viewers"))[-1].fields["count"] == 2
        await board.say("unsubscribe", job=job)
        await board.until("unsubscribed")
        async with view(hubs[1], "sse", job) as viewer:
            await viewer.next()
            await until(hubs[0], job, 2)
            await asyncio.sleep(3 * ROUND)
            await board.say("ping", ref="p")
            assert (await board.next()).name == "pong"
        heard = [frame.name async for frame in _rest(other)]
    assert "viewers" not in heard


async def _rest(board):
    await board.say("ping", ref="last")
    while (frame := await board.next()).name != "pong":
        yield frame


async def test_a_frame_that_does_not_say_it_well_is_refused(hubs):
    async with dashboard(hubs[0]) as board:
        await board.say("subscribe", job="a", viewers="yes", ref=1)
        assert (await board.answer(1)).fields["code"] == "malformed"


async def test_a_hub_that_is_killed_does_not_count_for_long(redis, monkeypatch):
    """Nobody takes its counts back; its own key runs out."""
    monkeypatch.setattr(broker_module, "LIFE", 1)

    async def killed(self, *_):
        """It cannot say goodbye."""
        return []

    async with live_hub(redis, linger=0) as stays:
        job = await producers.job(stays, events=1)
        async with live_hub(redis, linger=0) as dies, view(dies, "sse", job) as viewer:
            await viewer.next()
            await until(stays, job, 1)
            monkeypatch.setattr(RedisCounts, "leave", killed)
            monkeypatch.setattr(RedisCounts, "say", killed)
            assert await count(stays, job) == 1
        await until(stays, job, 0)


async def test_a_hub_that_ends_is_gone_at_once(redis):
    async with live_hub(redis, linger=0) as stays:
        job = await producers.job(stays, events=1)
        async with live_hub(redis, linger=0) as ends, view(ends, "sse", job) as viewer:
            await viewer.next()
            await until(stays, job, 1)
        assert await count(stays, job) == 0


async def test_counts_that_redis_lost_are_said_again(hubs, redis):
    job = await producers.job(hubs[0], events=1)
    async with view(hubs[1], "sse", job) as viewer:
        await viewer.next()
        await until(hubs[0], job, 1)
        for pattern in ("push-hub:*:viewers", "push-hub:hub:*"):
            assert await redis.delete(*[key async for key in redis.scan_iter(pattern)])
        await until(hubs[0], job, 1)


async def test_what_does_not_change_is_not_written_again(hubs, redis):
    """A job that stays as it is costs no command."""
    job = await producers.job(hubs[0], events=1)
    async with view(hubs[0], "sse", job) as viewer:
        await viewer.next()
        await until(hubs[1], job, 1)
        before = (await redis.info("commandstats"))["cmdstat_hset"]["calls"]
        await asyncio.sleep(5 * ROUND)
        assert (await redis.info("commandstats"))["cmdstat_hset"]["calls"] == before


async def test_workers_are_told(hubs, redis):
    """Both publishers; a viewer that has just come counts at once, as one process that watches."""
    job = await producers.job(hubs[0], events=1)
    publisher = Publisher(redis, strict=True)
    pool = redis.connection_pool.connection_kwargs
    with SyncPublisher.from_url(f"redis://{pool['host']}:{pool['port']}/0", strict=True) as sync:
        assert await publisher.watched(job) == await asyncio.to_thread(sync.watched, job) == 0
        async with (
            view(hubs[0], "sse", job) as one,
            view(hubs[0], "sse", job) as two,
            view(hubs[1], "sse", job),
        ):
            await one.next()
            await two.next()
            assert await publisher.watched(job) >= 1
            async with asyncio.timeout(10):  # a hub knows its own count before Redis does
                while await publisher.watched(job) != 3:
                    await asyncio.sleep(0.02)
            assert await asyncio.to_thread(sync.watched, job) == 3


async def test_it_can_be_left_out(redis):
    """Then the hub writes nothing, and says nothing."""
    async with live_hub(redis, linger=0, presence=False) as live:
        job = await producers.job(live, events=1)
        async with view(live, "sse", job) as viewer, dashboard(live) as board:
            await viewer.next()
            await board.say("subscribe", job=job, viewers=True, ref=1)
            await board.answer(1)
            await asyncio.sleep(3 * ROUND)
            headers = {"Authorization": f"Bearer {token()}"}
            async with httpx.AsyncClient(headers=headers) as http:
                state = json.loads((await http.get(f"{live.url}/api/jobs/{job}")).text)
            assert "viewers" not in state
            assert live.hub.admission.changed == set()
            heard = [frame.name async for frame in _rest(board)]
        assert "viewers" not in heard
        assert [key async for key in redis.scan_iter("push-hub:hub:*")] == []


async def test_a_hub_without_the_right_to_write_serves_without_counts(redis):
    """It says so in its log; the state's count is null where it may not even read."""
    await redis.execute_command(
        "ACL", "SETUSER", "reader", "on", ">x", "~*", "&*", "+@all", "-set", "-hset", "-exists"
    )
    pool = redis.connection_pool.connection_kwargs
    url = f"redis://reader:x@{pool['host']}:{pool['port']}/0"
    async with (
        Redis.from_url(url) as client,
        live_hub(redis, linger=0) as writes,
        live_hub(client, redis_url=url, linger=0) as live,
    ):
        job = await producers.job(writes, events=1)
        async with view(live, "sse", job) as viewer, view(writes, "sse", job) as other:
            await viewer.next()
            await other.next()
            await until(writes, job, 1)
            assert await count(live, job) is None
            await live_events(writes, job, viewer)


async def live_events(live: Live, job: str, viewer) -> None:
    """The viewer still gets what is published."""
    await producers.publish(live, job, 1, start=7)
    assert producers.numbers(await viewer.take(1)) == [7]
