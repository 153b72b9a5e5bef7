"""The Python client against a real hub: on both transports, async and blocking, through what goes wrong."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
import pytest_asyncio
from websockets.asyncio.server import serve

from hub import dashboard, watch, watch_sync
from hub.client import board
from hub.client import following as module
from hub.errors import InvalidSettings, JobNotFound
from tests.clients.test_hub_js import Chaos
from tests.support import producers
from tests.support.live import live_hub, token
from tests.support.viewer import view

TRANSPORTS = ("websocket", "sse")


@pytest_asyncio.fixture
async def live(real_redis):
    async with live_hub(real_redis, heartbeat=1, retry=0.2) as hub:
        yield hub


def numbers(frames: list[dict]) -> list[int]:
    return [frame["n"] for frame in frames if frame.get("type") == "step"]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_it_yields_the_frames_of_a_job_up_to_the_end(live, transport):
    """In the form of the WebSocket, on both."""
    job = await producers.job(live, events=3)
    await live.publisher.ready(job)
    seen = [frame async for frame in watch(live.url, job, token(), transport=transport)]
    assert [frame["type"] for frame in seen] == ["step", "step", "step", "build.stage.started", "end"]
    assert numbers(seen) == [0, 1, 2]
    rest = [frame async for frame in watch(live.url, job, token(), transport=transport, after=seen[1]["id"])]
    assert numbers(rest) == [2]
    assert [
        frame async for frame in watch(live.url, job, token(), transport=transport, after=seen[3]["id"])
    ] in ([], [seen[4]])
    last = [frame async for frame in watch(live.url, job, token(), transport=transport, types=["none"])]
    assert [frame["type"] for frame in last] == ["build.stage.started", "end"]


@pytest.mark.parametrize("transport", ["auto", *TRANSPORTS])
async def test_it_sees_every_event_once_through_chaos(live, transport, monkeypatch):
    """502, silence, cuts and resets."""
    monkeypatch.setattr("hub.client.stream.SLACK", 0.5)
    monkeypatch.setattr("hub.client.stream.SILENCE", 2.0)
    job = await producers.job(live)
    async with Chaos(live.port, seed=5) as chaos:

        async def collect() -> list[dict]:
            return [
                frame
                async for frame in watch(f"http://127.0.0.1:{chaos.port}", job, token(), transport=transport)
            ]

        collecting = asyncio.create_task(collect())
        await live.until(lambda: live.hub.statistics().viewers)
        chaos.begin()
        for n in range(120):
            await live.publisher.emit(job, "step", {"n": n, "text": "a\nb \u2028 \U0001f680"})
            await asyncio.sleep(0.05)
        chaos.on = False
        await live.publisher.ready(job)
        assert numbers(await asyncio.wait_for(collecting, 60)) == list(range(120))
        assert len(chaos.done) > 2


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_it_stops_where_another_try_is_of_no_use(live, transport):
    job = await producers.job(live, events=1, user="eve")
    for name in (job, "nowhere"):
        with pytest.raises(JobNotFound):
            await anext(watch(live.url, name, token(), transport=transport))
    with pytest.raises(JobNotFound):
        await anext(watch(live.url, job, "x" * 20_000, transport=transport))
    with pytest.raises(InvalidSettings, match="http"):
        await anext(watch("hub.example.com", job, token()))


@pytest.mark.alone
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_deadline_bounds_the_watch_and_not_the_callers_work(live, transport):
    job = await producers.job(live, events=2)
    frames = watch(live.url, job, token(), transport=transport, deadline=1.5)
    assert (await anext(frames))["type"] == "hello"
    await asyncio.sleep(1.6)
    with pytest.raises(TimeoutError, match=job):
        async for _ in frames:
            pass
    with pytest.raises(TimeoutError):
        await anext(watch("http://127.0.0.1:1", job, token(), transport=transport, deadline=0.3))


async def test_it_blocks_in_a_thread(live):
    """For code without an event loop."""
    job = await producers.job(live, events=2)
    ended = await producers.job(live, events=2)
    await live.publisher.ready(ended)

    def work() -> tuple[list[dict], dict]:
        whole = list(watch_sync(live.url, ended, token()))
        for frame in watch_sync(live.url, job, token()):
            if frame["type"] == "step":
                return whole, frame
        raise AssertionError("expected a step")

    whole, first = await asyncio.to_thread(work)
    assert numbers(whole) == [0, 1]
    assert first["n"] == 0
    await live.until(lambda: live.hub.statistics().viewers == 0)


async def test_it_does_what_the_hub_asks(monkeypatch):
    """`after_ms`, a slow return to a full hub, a fresh token when one has expired; nothing comes twice."""
    monkeypatch.setattr(module, "BACKOFF", (0.0, 0.0))
    monkeypatch.setattr(module, "FULL", 0.3)
    visits: list[tuple[float, str | None]] = []
    script = [
        [
            {"type": "hello", "heartbeat_ms": 1000, "position": "7-0"},
            {"id": "7-1", "type": "t"},
            {"type": "reconnect", "after_ms": 200},
        ],
        [{"id": "7-1", "type": "t"}, {"id": "7-2", "type": "t"}],
        [],
        [{"type": "state", "position": "7-9"}],
        [{"id": "7-9", "type": "t"}, {"id": "8-0", "type": "t"}, {"type": "end", "status": "ready"}],
    ]
    codes = [1012, 4010, 4013, 4401, 1000]

    async def hub(socket) -> None:
        turn = len(visits)
        visits.append((time.monotonic(), socket.request.headers.get("Authorization")))
        for frame in script[turn]:
            await socket.send(json.dumps(frame))
        await socket.close(codes[turn])

    given = iter(range(100))
    async with serve(hub, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        seen = [frame async for frame in watch(url, "a", lambda: f"t{next(given)}", transport="websocket")]
    assert [frame["id"] for frame in seen if "id" in frame] == ["7-1", "7-2", "8-0"]
    assert [name for _, name in visits] == [f"Bearer t{n}" for n in range(5)]
    assert visits[1][0] - visits[0][0] >= 0.2
    assert visits[3][0] - visits[2][0] >= 0.3


async def test_a_dashboard_sees_every_event_of_every_job_once_through_chaos(live, monkeypatch):
    """On one connection at a time; a job of somebody else is said once, and left out."""
    monkeypatch.setattr("hub.client.stream.SLACK", 0.5)
    monkeypatch.setattr("hub.client.stream.SILENCE", 2.0)
    jobs = [await producers.job(live, events=2) for _ in range(3)]
    foreign = await producers.job(live, user="eve")
    async with Chaos(live.port, seed=7) as chaos:

        async def collect() -> list[dict]:
            url = f"http://127.0.0.1:{chaos.port}"
            return [frame async for frame in dashboard(url, [*jobs, foreign], token)]

        collecting = asyncio.create_task(collect())
        await live.until(lambda: live.hub.statistics().viewers == 3)
        chaos.begin()
        for n in range(2, 60):
            for job in jobs:
                await live.publisher.emit(job, "step", {"n": n})
            await asyncio.sleep(0.05)
        chaos.on = False
        for job in jobs:
            await live.publisher.ready(job)
        seen = await asyncio.wait_for(collecting, 60)
    for job in jobs:
        of_job = [frame for frame in seen if frame.get("job_id") == job]
        assert numbers(of_job) == list(range(60))
        assert of_job[-1] == {"type": "end", "job_id": job, "status": "ready"}
    errors = [(frame["code"], frame["job_id"]) for frame in seen if frame["type"] == "error"]
    assert errors == [("not_found", foreign)]
    assert len(chaos.done) > 2


async def test_a_dashboard_of_nothing_ends_and_a_bad_url_is_an_error(live):
    assert [frame async for frame in dashboard(live.url, [], token())] == []
    with pytest.raises(InvalidSettings, match="http"):
        await anext(dashboard("hub.example.com", ["a"], token()))
    with pytest.raises(TimeoutError):
        await anext(dashboard("http://127.0.0.1:1", ["a"], token(), deadline=0.3))


async def test_a_dashboard_asks_again_for_a_job_that_was_refused_for_now(real_redis, monkeypatch):
    """`overloaded` about one job leaves the others alone."""
    monkeypatch.setitem(board.AGAIN, "overloaded", 0.2)
    async with live_hub(real_redis, heartbeat=1, max_viewers_per_user_and_job=1) as live:
        job, other = await producers.job(live, events=1), await producers.job(live, events=1)
        seen = []
        frames = dashboard(live.url, [job, other], token())
        async with view(live, "websocket", job) as first, asyncio.timeout(20):
            await first.until("step")
            while (other, 0) not in seen:
                frame = await anext(frames)
                seen.append((frame.get("job_id"), frame.get("n")))
            assert (job, 0) not in seen
        async with asyncio.timeout(20):
            while (job, 0) not in seen:
                frame = await anext(frames)
                seen.append((frame.get("job_id"), frame.get("n")))
        await frames.aclose()
