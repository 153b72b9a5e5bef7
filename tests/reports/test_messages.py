"""Messages of producers that never heard of us, and clients that spell things their own way."""

from __future__ import annotations

import asyncio

import pytest

from hub import watch
from tests.support import producers
from tests.support.viewer import view

READY = {"type": "build.stage.started", "status": "ready"}
BARE = ['{"progress":10}', "5", '"x"', "[]", "1" * 5000, "{}", "null", "true"]


async def test_whatever_a_bare_producer_sends_is_delivered(start_hub, real_redis, job, transport):
    """A BOM is skipped, so that the status behind it is seen."""
    async with start_hub() as live:
        await real_redis.hset(f"job:{job}", mapping={"user_id": "ada", "status": "code"})
        async with view(live, transport, job) as viewer:
            await producers.shout(real_redis, job, *BARE, b'\xef\xbb\xbf{"type":"bom","status":"ready"}')
            seen = await viewer.all()
            assert len(seen) == len(BARE) + 2
            assert seen[-1].fields == {"status": "ready"}


async def test_watch_goes_on_whatever_comes(push_hub, viewer, job, transport):
    """An event without a type, numbers, text; it ends at the end, and at no event that is called so."""
    await push_hub.redis.hset(f"job:{job}", mapping={"user_id": "ada", "status": "code"})
    watching = viewer(transport)
    await watching.connected()
    await producers.shout(push_hub.redis, job, *BARE, {"type": "end"}, READY)
    await watching.ended("ready")
    assert len(watching.frames) == len(BARE) + 4
    assert watching.frames[-1] == {"type": "end", "status": "ready"}


async def test_a_token_is_asked_for_before_each_connection(push_hub, job):
    """One that expired while the hub was away is not "no such job"."""
    given = []

    async def fresh() -> str:
        given.append(push_hub.token())
        return given[-1]

    await push_hub.create_job(job)
    watching = watch(push_hub.url, job, fresh)
    assert (await anext(watching))["type"] == "hello"
    next_frame = asyncio.create_task(anext(watching))
    await push_hub.expire(given[0])
    await push_hub.cut()
    assert (await asyncio.wait_for(next_frame, 10))["type"] in ("hello", "reconnect")
    await push_hub.publisher.emit(job, "step", {"n": 1})
    while (frame := await asyncio.wait_for(anext(watching), 10))["type"] != "step":
        pass
    assert (frame["n"], len(given)) == (1, 2)
    await watching.aclose()


@pytest.mark.parametrize("name", ["last_event_id", "lastEventId"])
async def test_a_cursor_may_be_spelled_as_libraries_do(start_hub, job, transport, name):
    """`?lastEventId=` after a restart resumes."""
    async with start_hub() as live:
        await live.jobs.create_job(job, user_id="ada")
        ids = await producers.publish(live, job, 3)
        async with view(live, transport, job, f"?{name}={ids[0]}") as viewer:
            assert producers.numbers(await viewer.take(2)) == [1, 2]


@pytest.mark.parametrize("ended", [False, True])
async def test_every_message_of_a_stream_has_data(start_hub, job, ended):
    """Seven of 21 libraries hand out a message that has only an id or a retry, and `JSON.parse("")` throws."""
    async with start_hub(heartbeat=0.05) as live:
        await live.jobs.create_job(job, user_id="ada")
        await producers.publish(live, job, 2)
        if ended:
            await live.publisher.ready(job)
        stream = live.sse(job, "?last_event_id=nonsense")
        text = b""
        async with stream:
            while b"event: end" not in text or not text.endswith(b"\n\n"):
                text += await stream._chunk()
                if not ended and text.count(b"event: heartbeat") == 2:
                    ended = await live.publisher.ready(job) is not None
    blocks = [block for block in text.decode().split("\n\n") if block]
    without = [block for block in blocks if not any(line.startswith("data:") for line in block.split("\n"))]
    assert without == []
