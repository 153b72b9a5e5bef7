"""Producers that only PUBLISH, and garbage on the channel: all of it is delivered, and streams continue."""

from __future__ import annotations

import asyncio
import json
import random
import re

import pytest
import pytest_asyncio

from hub.job.event import RESERVED, EventId
from tests.support import producers
from tests.support.keys import log_of, meta_of
from tests.support.viewer import strict_json, view

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def foreign(redis) -> str:
    """A job with a hash and no log."""
    return await producers.foreign_job(redis)


READY = {"type": "build.stage.started", "status": "ready"}

RAW = {
    "not JSON": b"hello",
    "not UTF-8": b'{"type":"x","a":"\xff\xfe"',
    "half a character": b"caf\xc3",
    "array": b'[1,{"type":"build.stage.started","status":"ready"}]',
    "number": b"42",
    "string": b'"ready"',
    "null": b"null",
    "true": b"true",
    "empty": b"",
    "space": b" ",
    "NaN": b'{"type":"x","n":NaN}',
    "Infinity": b'{"type":"x","n":-Infinity}',
    "half an object": b'{"type":"x"',
    "two objects": b'{"type":"x"}{"type":"y"}',
    "one quote": b"'",
    "lines": b"one\ntwo\r\nthree\rfour",
    "blank lines": b"\n\n\r\r\n\n",
    "fields of the format": b"data: x\n\nevent: end\ndata: {}\n\nid: 9-9\n\n",
    "colon": b": comment\n: more",
    "NUL": b"a\0b\0",
    "U+2028": "a\u2028b\u2029c\u0085d\u000be\u000c".encode(),
    "control characters": bytes(range(32)),
    "high bytes": bytes(range(128, 256)),
    "surrogates": b"\xed\xa0\x80\xed\xb0\x80",
    "deep nesting": b"[" * 50_000,
    "deep object": b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    "many digits": b'{"type":"x","n":' + b"9" * 5000 + b"}",
    "trailing comma": b'{"type":"x",}',
    "comment": b'{"type":"x"} // y',
}
"""Messages that are not JSON objects; they are delivered as they are."""

OBJECTS = {
    "nothing in it": "{}",
    "no type": '{"a":1}',
    "type is a number": '{"type":5}',
    "type is null": '{"type":null,"status":null}',
    "status is a list": '{"type":"x","status":["ready"]}',
    "spaces": ' \t{ "type" : "x" ,\n "a" : [ 1 ,\r\n 2 ] }\n',
    "line ends escaped": r'{"type":"x","a":"\r\n\u2028\u0000\u0085"}',
    "U+2028": '{"type":"x","a":"\u2028\u2029\u0085\ufeff"}',
    "lone surrogate": r'{"type":"x","a":"\ud800"}',
    "id": '{"type":"x","id":"17"}',
    "id first": '{"id":"12-34","type":"x"}',
    "id first with zeros": '{"id":"012-34","type":"x"}',
    "id of 20 nines": '{"id":"99999999999999999999-1","type":"x"}',
    "id alone": '{"id":"12-34"}',
    "id is an object": '{"id":{"a":1},"type":"x"}',
    "another job": '{"type":"x","job_id":"other"}',
    "a control frame's name": '{"type":"end","status":"code","a":1}',
    "keys of the format": '{"event":"end","data":"x","retry":1}',
    "twice": '{"type":"x","type":"y"}',
    "large numbers": '{"type":"x","n":123456789012345678901234567890,"f":1.7976931348623157e308}',
    "emoji": '{"type":"x","a":"🚀\U0010ffff"}',
    "empty key": '{"":"","type":"x"}',
    "proto": '{"__proto__":{"a":1},"type":"x"}',
}
"""Objects with something odd in them; they are delivered unchanged."""


def lines_joined(data: bytes) -> str:
    """The text that a browser makes of a message, which was sent as one `data:` line per line."""
    return re.sub(r"\r\n|\r", "\n", data.decode("utf-8", "replace"))


async def test_bare_messages_are_numbered_delivered_and_end_the_job(redis, watch, foreign):
    """Events come in order, with contiguous ids and all their fields, the terminal event last."""
    events = [{"type": "build.stage.started", "stage": str(n), "n": n, "x": {"y": [n]}} for n in range(20)]
    async with watch(foreign) as viewer:
        await producers.shout(redis, foreign, *events, READY)
        seen = await viewer.all()
    assert [one.fields for one in seen[:-1]] == [*events, READY]
    assert producers.contiguous(seen[:-2])
    assert all(seen[n].id for n in range(20))
    assert (seen[-1].name, viewer.closed) == ("end", "ended")


async def test_a_reload_in_the_same_process_resumes(redis, live, watch, foreign):
    """Within the linger the window and its ids are kept, so no event is missing or repeated."""
    async with watch(foreign) as viewer:
        await producers.shout(redis, foreign, *({"type": "step", "n": n} for n in range(4)))
        await viewer.take(4)
        cursor = (await viewer.take(0), viewer.cursor)[1]
    await live.until(lambda: live.hub.statistics().viewers == 0)
    await producers.shout(redis, foreign, {"type": "step", "n": 4})
    async with watch(foreign, cursor=cursor) as viewer:
        await producers.shout(redis, foreign, {"type": "step", "n": 5})
        assert producers.numbers(await viewer.take(2)) == [4, 5]


async def test_another_process_answers_a_local_cursor_by_a_resync(
    redis, watch, start_hub, transport, foreign
):
    """Another process cannot know the numbers of this one's subscription."""
    async with start_hub() as other, watch(foreign) as viewer:
        await producers.shout(redis, foreign, {"type": "step", "n": 0}, {"type": "step", "n": 1})
        await viewer.take(2)
        async with view(other, transport, foreign, cursor=viewer.cursor) as moved:
            assert [one.name for one in await moved.take(2)] == ["resync", "state"]
            await producers.shout(redis, foreign, {"type": "step", "n": 2}, READY)
            assert producers.numbers(await moved.all()) == [2]
        assert producers.numbers(await viewer.all()) == [2]


async def test_after_linger_a_local_cursor_is_answered_by_a_resync(redis, start_hub, transport, foreign):
    """The subscription has ended, and its numbers are forgotten."""
    async with start_hub(linger=0) as live:
        async with view(live, transport, foreign) as viewer:
            await producers.shout(redis, foreign, {"type": "step", "n": 0})
            await viewer.take(1)
        await live.until(lambda: not live.hub.statistics().jobs)
        async with view(live, transport, foreign, cursor=viewer.cursor) as again:
            assert [one.name for one in await again.take(2)] == ["resync", "state"]


async def test_bare_messages_on_a_job_with_a_log_have_no_id(redis, live, watch, job):
    """They come in order between numbered events; the cursor is the last numbered one's."""
    async with watch(job) as viewer:
        (event_id,) = await producers.publish(live, job, 1)
        await producers.shout(redis, job, {"type": "step", "n": 1})
        seen = await viewer.take(2)
        assert [one.id for one in seen] == [str(event_id), None]
        assert viewer.cursor == str(event_id)
        await producers.publish(live, job, 1, start=2)
        await live.publisher.ready(job)
        seen += await viewer.all()
    assert producers.numbers(seen) == [0, 1, 2]
    assert producers.contiguous([one for one in seen if one.id])


async def test_a_bare_terminal_ends_a_job_with_a_log(redis, live, watch, job):
    """A terminal status ends the job, whichever producer published it."""
    async with watch(job) as viewer:
        await producers.publish(live, job, 1)
        await producers.shout(redis, job, {"type": "x", "status": "failed"})
        seen = await viewer.all()
    assert [one.name for one in seen] == ["step", "x", "end"]
    assert seen[-1].fields == {"status": "failed"}


async def test_a_job_that_gets_a_log_while_it_is_watched_goes_on(redis, live, watch, foreign):
    """While an old and an updated worker both publish, no event is lost."""
    async with watch(foreign) as viewer:
        await producers.shout(redis, foreign, {"type": "step", "n": 0})
        await producers.publish(live, foreign, 2, start=1)
        seen = await viewer.take(3)
        await producers.shout(redis, foreign, {"type": "step", "n": 3})
        seen += await viewer.take(1)
        await live.publisher.ready(foreign)
        seen += await viewer.all()
    assert producers.numbers(seen) == [0, 1, 2, 3]
    assert viewer.closed == "ended"


async def test_a_bare_message_beside_a_hole_that_is_healed_is_not_lost(redis, watch, job):
    """The log that heals the hole also has the terminal: what only Pub/Sub had is delivered before it, or announced."""
    epoch = (await redis.hget(meta_of(job), "epoch")).decode()
    step, ready = '"type":"step","n":1}', '"type":"x","status":"ready"}'
    async with watch(job) as viewer:
        async with redis.pipeline(transaction=True) as pipe:
            pipe.xadd(log_of(job), {"data": '{"type":"step","n":0}'}, id=f"{epoch}-0")
            pipe.xadd(log_of(job), {"data": "{" + step}, id=f"{epoch}-1")
            pipe.xadd(log_of(job), {"data": "{" + ready}, id=f"{epoch}-2")
            pipe.hset(meta_of(job), "position", f"{epoch}-2")
            pipe.hset(f"job:{job}", "status", "ready")
            pipe.publish(f"job:{job}:events", f'{{"id":"{epoch}-1",{step}')
            pipe.publish(f"job:{job}:events", '{"type":"bare"}')
            pipe.publish(f"job:{job}:events", f'{{"id":"{epoch}-2",{ready}')
            await pipe.execute()
        names = [one.name for one in await viewer.all()]
    assert [kind for kind in names if kind in ("step", "x", "end")] == ["step", "step", "x", "end"]
    assert {"bare", "gap"} & set(names)


@pytest.mark.parametrize("has_log", [False, True], ids=["foreign", "ours"])
async def test_what_is_no_object_is_delivered_as_it_is(redis, live, watch, transport, has_log):
    """Each message is one frame, only bytes that are not UTF-8 are replaced, and events continue."""
    job = await producers.job(live) if has_log else await producers.foreign_job(redis)
    async with watch(job) as viewer:
        for data in RAW.values():
            await producers.shout(redis, job, data, {"type": "next"})
        await producers.shout(redis, job, READY)
        seen = await viewer.all()
    assert [one.name for one in seen] == ["raw", "next"] * len(RAW) + ["build.stage.started", "end"]
    wrong = {}
    for (what, data), got in zip(RAW.items(), seen[::2], strict=False):
        expected = lines_joined(data) if transport == "sse" else data.decode("utf-8", "replace")
        if got.fields != {"data": expected}:
            wrong[what] = got.fields
    assert wrong == {}
    assert viewer.closed == "ended"


def as_published(text: str, transport: str) -> dict:
    """The object arrives; over WebSocket the hub's `id` replaces one of the producer."""
    fields = json.loads(text)
    if transport == "websocket":
        fields.pop("id", None)
    return fields


@pytest.mark.parametrize("has_log", [False, True], ids=["foreign", "ours"])
async def test_an_object_arrives_as_it_was_published(redis, live, watch, transport, has_log):
    """Odd objects, unknown types and unknown fields read back unchanged."""
    job = await producers.job(live) if has_log else await producers.foreign_job(redis)
    async with watch(job) as viewer:
        await producers.shout(redis, job, *OBJECTS.values(), READY)
        seen = await viewer.all()
    # What begins with an id like ours is of another database's log (test_again).
    ours = {what: text for what, text in OBJECTS.items() if EventId.of_message(text.encode()) is None}
    assert len(seen) == len(ours) + 2
    wrong = {}
    for (what, text), got in zip(ours.items(), seen, strict=False):
        fields = {
            name: value for name, value in strict_json(got.text).items() if name != "id" or transport == "sse"
        }
        if json.loads(text).get("type") in RESERVED and transport == "websocket":
            fields = json.loads(fields["data"])
        if fields != as_published(text, transport):
            wrong[what] = got.text
    assert wrong == {}
    assert viewer.closed == "ended"


async def test_a_number_too_large_for_a_float_breaks_no_parser(redis, watch, foreign):
    """1e999 is valid JSON; viewers get valid JSON too, also if a producer's id is replaced."""
    async with watch(foreign) as viewer:
        await producers.shout(redis, foreign, '{"id":"a","type":"x","n":1e999}', READY)
        assert [one.name for one in await viewer.all()] == ["x", "build.stage.started", "end"]


async def test_nesting_has_one_limit_and_never_ends_a_stream(redis, watch, foreign, transport):
    """Up to 64 levels a message is an event, deeper ones are text; also with an id that has to give way."""
    depths = [62, 63, 64, 65, 500, *range(990, 1001), 20_000]
    arrays = ["[" * (depth - 1) + "]" * (depth - 1) for depth in depths]
    messages = [f'{{"id":"a","type":"x","a":{text}}}' for text in arrays]
    async with watch(foreign) as viewer:
        await producers.shout(redis, foreign, *messages, READY)
        seen = await viewer.all()
    assert [one.name for one in seen[-2:]] == ["build.stage.started", "end"]
    assert len(seen) == len(depths) + 2
    if transport == "sse":
        assert [one.text for one in seen[:-2]] == messages
    else:
        assert [one.name for one in seen[:3]] == ["x"] * 3
        assert [(one.name, one.fields["data"]) for one in seen[3:-2]] == [
            ("raw", text) for text in messages[3:]
        ]


async def test_two_megabytes_are_announced_and_the_next_event_flows(redis, live, watch):
    """A message over the limit gives a gap, be it an object, junk, or text that begins with an id."""
    job = await producers.job(live)
    fill = "x" * (2 << 20)
    async with watch(job) as viewer:
        for large in ({"type": "x", "fill": fill}, fill, f'{{"id":"12-34","fill":"{fill}"}}'):
            await producers.shout(redis, job, large, {"type": "next"})
            seen = await viewer.until("next")
            assert [one.name for one in seen] == ["gap", "state", "next"]
            assert seen[0].fields["reason"] == "oversize"
        await live.publisher.ready(job)
        assert [one.name for one in await viewer.all()] == ["build.stage.started", "end"]


@pytest.mark.parametrize("seed", range(5))
async def test_random_garbage_never_ends_a_stream(redis, live, watch, transport, seed):
    """Among 300 messages of garbage, 20 good events all arrive, in order."""
    rng = random.Random(seed)
    job = await producers.job(live)
    good = [json.dumps({"type": "good", "n": n}).encode() for n in range(20)]
    base = json.dumps({"type": "bad", "n": 12, "s": [1, "a"]}).encode()
    pieces = [
        b"\r",
        b"\n",
        b"\0",
        b"data:",
        b"event: end",
        b"id: 1-1",
        b'{"',
        b'"}',
        b"\xff",
        b"\xef\xbb\xbf",
        b":",
        b"\xe2\x80\xa8",
        b'"id":"',
        b"[]",
    ]

    def garbage() -> bytes:
        if rng.random() < 0.3:
            return rng.randbytes(rng.randrange(60))
        if rng.random() < 0.5:
            return b"".join(rng.choices(pieces, k=rng.randrange(12)))
        event = bytearray(base)
        event[rng.randrange(len(event) - 3)] = rng.choice(b'{}[]",:x\r\n\xff')
        return bytes(event)

    at = set(rng.sample(range(320), 20))
    left = iter(good)
    messages = [next(left) if place in at else garbage() for place in range(320)]
    async with watch(job) as viewer:
        for first in range(0, 320, 40):
            await producers.shout(redis, job, *messages[first : first + 40])
        await producers.shout(redis, job, READY)
        seen = await asyncio.wait_for(viewer.all(), 20)
    assert len(seen) == 322
    assert [one.fields["n"] for one in seen if one.name == "good"] == list(range(20))
    assert [one.name for one in seen[-2:]] == ["build.stage.started", "end"]
