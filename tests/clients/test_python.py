"""The Python client against a real hub: on both transports, async and blocking, through what goes wrong."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
import pytest_asyncio
from websockets.asyncio.server import serve

from hub import watch, watch_sync
from hub.client import client as module
from hub.errors import InvalidSettings, JobNotFound
from tests.clients.test_hub_js import Chaos
from tests.support import producers
from tests.support.live import live_hub, token

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


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_deadline_bounds_the_watch_and_not_the_callers_work(live, transport):
    job = await producers.job(live, events=2)
    frames = watch(live.url, job, token(), transport=transport, deadline=0.5)
    assert (await anext(frames))["type"] == "hello"
    await asyncio.sleep(0.6)
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
