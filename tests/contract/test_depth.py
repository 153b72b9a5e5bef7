"""A first viewer that needs none of the past costs none of it, and nobody after it notices."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from tests.support import producers
from tests.support.keys import log_of, meta_of
from tests.support.live import token
from tests.support.viewer import view

pytestmark = pytest.mark.asyncio(loop_scope="module")

KINDS = ("clone", "build", "step")


async def old_job(live) -> str:
    """60 events, the first two of types of their own."""
    job = await producers.job(live)
    for kind, events, start in (("clone", 1, 0), ("build", 1, 1), ("step", 58, 2)):
        await producers.publish(live, job, events, start=start, kind=kind)
    return job


def numbers(frames: list) -> list[int]:
    """The numbers of the events; a terminal one has none."""
    return [one.fields["n"] for one in frames if "n" in one.fields]


def depth(live, job: str) -> int:
    log = live.hub.feeds.watched[job].log
    return log.end - log.start


async def test_a_live_viewer_reads_none_of_the_past(live, watch):
    job = await old_job(live)
    async with watch(job, "?from=live") as viewer:
        await live.until(lambda: live.hub.feeds.watched[job].ready)
        assert depth(live, job) == 2
        await producers.publish(live, job, 3, start=60)
        assert numbers(await viewer.take(3)) == [60, 61, 62]


async def test_who_comes_back_reads_what_it_has_missed(redis, live, watch):
    job = await old_job(live)
    epoch = (await redis.hget(meta_of(job), "epoch")).decode()
    async with watch(job, f"?last_event_id={epoch}-39") as viewer:
        assert numbers(await viewer.take(20)) == list(range(40, 60))
        assert depth(live, job) == 20


@pytest.mark.parametrize(
    "query", ["?from=start", "?from=-25", "?last_event_id={epoch}-29", "?types=clone,build"]
)
async def test_others_get_their_past_from_a_window_that_began_small(redis, live, watch, query, monkeypatch):
    """Many at once, on one read of it."""
    job = await old_job(live)
    epoch = (await redis.hget(meta_of(job), "epoch")).decode()
    expected = {"?from=start": range(60), "?from=-25": range(35, 60), "?types=clone,build": range(2)}
    async with watch(job, "?from=live"):
        await live.until(lambda: live.hub.feeds.watched[job].ready)
        reads = []
        before = live.hub.broker.before

        async def counted(*args, **options):
            reads.append(options)
            return await before(*args, **options)

        monkeypatch.setattr(live.hub.broker, "before", counted)

        async def one():
            async with watch(job, query.format(epoch=epoch)) as viewer:
                wanted = list(expected.get(query, range(30, 60)))
                assert numbers(await viewer.take(len(wanted))) == wanted

        await asyncio.gather(*(one() for _ in range(8)))
        assert len(reads) == 1


async def test_the_state_has_all_types(live, watch, transport):
    """Over HTTP, and on both kinds of WebSocket."""
    job = await old_job(live)
    async with watch(job, "?from=live"):
        await live.until(lambda: live.hub.feeds.watched[job].ready)
        assert depth(live, job) == 2
        if transport == "sse":
            async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token()}"}) as client:
                said = (await client.get(f"{live.url}/api/jobs/{job}")).json()
        else:
            async with live.websocket(job, "?from=live") as socket:
                await socket.send('{"op":"state","ref":1}')
                await socket.send('{"op":"ping","ref":2}')
                frames = [json.loads(await socket.recv()) for _ in range(3)]
                said = next(frame for frame in frames if frame.get("ref") == 1)
                assert [frame["type"] for frame in frames if frame.get("ref") == 2] == ["pong"]
        assert set(said["last"]) == set(KINDS)
        assert said["last"]["step"]["n"] == 59


async def test_a_dashboard_gets_the_state_of_a_window_that_began_small(live):
    job = await old_job(live)
    async with live.dashboard() as socket:
        await socket.recv()
        await socket.send(json.dumps({"op": "subscribe", "job": job, "from": "live"}))
        assert json.loads(await socket.recv())["type"] == "subscribed"
        assert depth(live, job) == 2
        await socket.send(json.dumps({"op": "state", "job": job}))
        assert set(json.loads(await socket.recv())["last"]) == set(KINDS)


async def test_a_cursor_that_is_not_known_gets_a_state_with_all_types(live, watch):
    job = await old_job(live)
    async with watch(job, "?from=live"):
        await live.until(lambda: live.hub.feeds.watched[job].ready)
        async with watch(job, "?last_event_id=7-7") as viewer:
            resync, state = await viewer.take(2)
    assert resync.fields["reason"] == "unknown"
    assert set(state.fields["last"]) == set(KINDS)


async def test_a_gap_is_followed_by_a_state_with_all_types(redis, live, watch):
    """The log lost what no message brought."""
    job = await old_job(live)
    async with watch(job, "?from=live") as viewer:
        await live.until(lambda: live.hub.feeds.watched[job].ready)
        for n in range(3):
            await producers.whisper(redis, job, {"type": "step", "n": 60 + n})
        epoch = (await redis.hget(meta_of(job), "epoch")).decode()
        await redis.xdel(log_of(job), f"{epoch}-60", f"{epoch}-61")
        await producers.publish(live, job, 1, start=63)
        seen = await viewer.take(4)
    assert [one.name for one in seen] == ["gap", "state", "step", "step"]
    assert set(seen[1].fields["last"]) == set(KINDS)


async def test_a_job_that_has_ended_says_its_end_and_its_past(live, watch, start_hub):
    job = await old_job(live)
    await live.publisher.ready(job)
    async with start_hub(linger=5) as other:
        async with view(other, "sse", job, "?from=live") as viewer:
            assert [one.control for one in await viewer.all()] == [False, True]
        assert depth(other, job) == 3
        async with view(other, "websocket", job, "?from=start") as viewer:
            seen = await viewer.all()
        assert numbers(seen) == list(range(60))
        assert seen[-1].name == "end"


@pytest.mark.parametrize("wait", [0, 5])
async def test_a_page_has_what_was_put_in_front_of_the_window(redis, live, watch, wait):
    """Positions before the first window are negative: a page and a long poll count from there, too."""
    job = await old_job(live)
    epoch = (await redis.hget(meta_of(job), "epoch")).decode()
    async with watch(job, "?from=live"):
        await live.until(lambda: live.hub.feeds.watched[job].ready)
        headers = {"Authorization": f"Bearer {token()}"}
        async with httpx.AsyncClient(base_url=live.url, headers=headers) as client:
            for after in (55, 39, 9, 56):
                query = {"after": f"{epoch}-{after}", "wait": wait}
                answer = await client.get(f"/api/jobs/{job}/events", params=query)
                assert [one["n"] for one in answer.json()["events"]] == list(range(after + 1, 60))
                assert answer.json()["position"] == f"{epoch}-59"
