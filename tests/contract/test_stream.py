"""A stream from its first byte to its end, on both transports."""

from __future__ import annotations

import asyncio
import json
import re

import pytest
from websockets.protocol import State

from hub.errors import JobEnded
from tests.support import producers
from tests.support.quiet import errors
from tests.support.viewer import Sse, WebSocket, view

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_both_transports_give_the_same_events_with_the_same_ids(live, job):
    """The transports differ only in framing."""
    async with view(live, "sse", job) as sse, view(live, "websocket", job) as ws:
        await live.publisher.stage_started(job, "code", "hello")
        await producers.publish(live, job, 30)
        await live.publisher.ready(job)
        over_sse, over_ws = await asyncio.gather(sse.all(), ws.all())
    assert len(over_sse) == 33
    assert [(seen.id, seen.name, seen.control) for seen in over_sse] == [
        (seen.id, seen.name, seen.control) for seen in over_ws
    ]
    assert [seen.fields for seen in over_sse[:-1]] == [seen.fields for seen in over_ws[:-1]]
    assert sse.cursor == ws.cursor


async def test_events_come_in_order_and_once(live, watch, job):
    """Ids are contiguous from 0 in one epoch, for past and live events together."""
    await producers.publish(live, job, 20)
    async with watch(job) as viewer:
        await producers.publish(live, job, 20, start=20)
        await live.publisher.ready(job)
        seen = await viewer.all()
    assert producers.numbers(seen) == list(range(40))
    assert producers.contiguous(seen)
    assert seen[0].id.endswith("-0")


async def test_the_first_bytes_of_an_event_stream_come_before_any_event(live, job):
    """A stream without events says at once how to keep it alive, when to come back, and with which cursor."""
    async with view(live, "sse", job) as sse:
        assert re.fullmatch(rb"retry: [0-9]+\nid: [0-9]+-[0-9]+\nevent: hello\ndata: .*\n\n", sse.viewer.raw)
        assert sse.hello["retry_ms"] == sse.viewer.parser.retry


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_the_first_frame_is_hello(live, job, transport):
    """With the interval of heartbeats, the time until a retry, the position and the attempt."""
    await producers.publish(live, job, 3)
    async with view(live, transport, job, "?from=-1") as viewer:
        (last,) = await viewer.take(1)
        assert viewer.hello.keys() == {"heartbeat_ms", "retry_ms", "position", "attempt"}
        assert viewer.hello["heartbeat_ms"] == int(live.hub.settings.heartbeat * 1000)
        assert 1000 <= viewer.hello["retry_ms"] <= 10_000
        assert viewer.hello["attempt"] == 1
        assert last.id.endswith("-2")
        assert viewer.hello["position"] == last.id[:-1] + "1"


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_hello_moves_no_cursor_past_a_notice_of_loss(live, job, transport):
    """A client that is cut off between the two comes back with its old cursor, and gets the notice again."""
    await producers.publish(live, job, 3)
    async with view(live, transport, job, cursor="17-3") as viewer:
        notice, state = await viewer.take(2)
        assert viewer.hello["position"] is None
        assert (notice.name, state.name) == ("resync", "state")
        assert state.fields["position"].endswith("-2")


async def test_the_socket_of_a_job_that_was_over_is_not_closed_at_once(live, job):
    """A client whose backoff ends with an open socket would reconnect in a tight loop."""
    await live.publisher.ready(job)
    async with view(live, "websocket", job) as viewer:
        await viewer.until("end")
        assert viewer.socket.state is State.OPEN
        assert await viewer.all() == []
        assert viewer.code == 1000


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_a_job_that_is_over_begins_with_its_events(live, job, transport):
    """There is nothing to keep alive and nothing to come back for."""
    await producers.publish(live, job, 1)
    await live.publisher.ready(job)
    async with view(live, transport, job) as viewer:
        assert [seen.name for seen in await viewer.all()][-1] == "end"
        assert viewer.hello is None
        if transport == "sse":
            assert re.match(rb"retry: [0-9]+\nid: [0-9]+-0\ndata: ", viewer.viewer.raw)


async def test_the_retry_hint_is_jittered(live, job):
    """After a deploy, browsers must not all reconnect at the same time."""
    hints = set()
    for _ in range(8):
        async with view(live, "sse", job) as sse:
            hints.add(sse.viewer.parser.retry)
    assert len(hints) > 1
    assert all(1000 <= hint <= 10_000 for hint in hints)


async def test_an_event_stream_has_the_headers_that_proxies_need(live, job):
    """It has type, no caching, keep-alive and no buffering in nginx, and no length."""
    async with view(live, "sse", job) as sse:
        headers = sse.headers
    assert sse.status == 200
    assert headers["content-type"].startswith("text/event-stream")
    assert "no-cache" in headers["cache-control"]
    assert headers["connection"].lower() == "keep-alive"
    assert headers["x-accel-buffering"] == "no"
    assert "content-length" not in headers


async def test_data_events_have_no_event_field_and_control_frames_have_one(redis, live, job):
    """EventSource.onmessage gets every event, whatever its type."""
    async with view(live, "sse", job) as sse:
        await live.publisher.snapshot_updated(job, "/1.svg")
        await producers.publish(live, job, 1, kind="message")
        await producers.shout(redis, job, {"type": "end"})
        await live.publisher.ready(job)
        await sse.all()
    named = re.findall(rb"^event: ?(.*)$", sse.viewer.raw, re.MULTILINE)
    assert named == [b"hello", b"end"]


async def test_websocket_events_are_one_flat_object_with_the_id_first(live, job):
    """The object is that of SSE, with the id as its first member."""
    async with view(live, "websocket", job) as ws:
        (event_id,) = await producers.publish(live, job, 1)
        seen = await ws.next()
    assert seen.text == f'{{"id":"{event_id}","type":"step","n":0,"job_id":"{job}"}}'


@pytest.mark.parametrize("status", ["ready", "failed"])
async def test_the_terminal_event_is_followed_by_end_and_the_stream_is_closed(live, watch, job, status):
    """`end` has the final status; then the connection is closed, a WebSocket with 1000."""
    async with watch(job) as viewer:
        await getattr(live.publisher, status)(job, "bye")
        terminal, end = await viewer.all()
    assert (terminal.name, terminal.fields["status"]) == ("build.stage.started", status)
    assert terminal.fields["narration"] == "bye"
    assert (end.id, end.name, end.fields, end.control) == (None, "end", {"status": status}, True)
    assert viewer.closed == "ended"


async def test_an_orderly_end_logs_no_error(live, watch, job, caplog):
    """The closing handshake logs none on the hub's side either."""
    async with watch(job) as viewer:
        await live.publisher.ready(job)
        await viewer.all()
    await live.until(lambda: live.hub.statistics().viewers == 0)
    assert [record.getMessage() for record in errors(caplog)] == []


@pytest.mark.parametrize("status", ["ready", "failed"])
async def test_a_job_that_ended_without_a_log_says_its_final_status_exactly_once(redis, watch, status):
    """One event in the spelling of json.dumps with the id 0-0 comes, then the end."""
    job = await producers.foreign_job(redis, status=status)
    async with watch(job) as viewer:
        final, end = await viewer.all()
    expected = json.dumps({"type": "build.stage.started", "status": status, "job_id": job})
    assert final.id == "0-0"
    assert final.fields == json.loads(expected)
    assert final.text.endswith(expected[1:])
    if isinstance(viewer, Sse):
        assert final.text == expected
    assert (end.name, end.fields, viewer.closed) == ("end", {"status": status}, "ended")


async def test_a_job_that_has_ended_gives_its_log_and_its_final_status_once(live, watch, job):
    """A late viewer gets the past events; the terminal one is the last and comes once."""
    sent = await producers.publish(live, job, 5)
    sent.append(await live.publisher.failed(job, "oh"))
    async with watch(job) as viewer:
        seen = await viewer.all()
    assert producers.ids(seen) == [str(event_id) for event_id in sent]
    assert [one.name for one in seen[-2:]] == ["build.stage.started", "end"]
    assert viewer.closed == "ended"


async def test_a_job_whose_hash_ended_without_an_event_still_ends(live, redis, watch, job):
    """If the application ended the job in the hash only, an event with the final status is made."""
    await producers.publish(live, job, 2)
    await redis.hset(f"job:{job}", "status", "ready")
    async with watch(job) as viewer:
        seen = await viewer.all()
    assert [one.name for one in seen] == ["step", "step", "build.stage.started", "end"]
    assert seen[2].fields == {"type": "build.stage.started", "status": "ready", "job_id": job}
    assert viewer.closed == "ended"


async def test_nothing_is_delivered_after_the_terminal(live, redis, watch, job):
    """Later events are dropped, also those of the same batch, and also for later viewers."""
    async with watch(job) as viewer:
        step = {"type": "step", "n": 1}
        ready = {"type": "build.stage.started", "status": "ready"}
        await producers.shout(redis, job, step, ready, {**step, "n": 2}, {**ready, "status": "failed"})
        seen = await viewer.all()
        await producers.shout(redis, job, {**step, "n": 3})
    assert [one.name for one in seen] == ["step", "build.stage.started", "end"]
    assert seen[-1].fields == {"status": "ready"}
    async with watch(job) as late:
        assert [one.name for one in await late.all()] == ["step", "build.stage.started", "end"]


async def test_the_script_refuses_events_after_the_terminal(live, watch, job):
    """A worker that publishes after the end gets an error, and no viewer gets the event."""
    await live.publisher.ready(job)
    with pytest.raises(JobEnded):
        await live.publisher.stage_started(job, "code")
    async with watch(job) as viewer:
        assert [one.name for one in await viewer.all()] == ["build.stage.started", "end"]


async def test_a_repeated_idempotency_key_reaches_viewers_once(live, watch, job):
    """The second call returns the first id and publishes nothing."""
    async with watch(job) as viewer:
        first = await live.publisher.emit(job, "step", {"n": 1}, once="key")
        assert await live.publisher.emit(job, "step", {"n": 2}, once="key") == first
        await live.publisher.ready(job)
        assert producers.numbers(await viewer.all()) == [1]


async def test_the_typed_events_travel_as_they_were_published(live, watch, job):
    """The four types of the catalogue arrive with all their fields."""
    publisher = live.publisher
    await publisher.stage_started(job, "scaffold", "Laying out")
    await publisher.stage_completed(job, "scaffold", 1.5)
    await publisher.snapshot_updated(job, "/s.svg")
    await publisher.documentation_updated(job, "Intro", "Zeile 1\nZeile 2 \u2028 ü 🚀")
    async with watch(job) as viewer:
        seen = [one.fields for one in await viewer.take(4)]
    for fields in seen:
        assert fields.pop("job_id") == job
    started, completed, snapshot, documentation = seen
    rest = {name: value for name, value in started.items() if name != "type"}
    assert rest == {"stage": "scaffold", "narration": "Laying out", "status": "scaffold"}
    assert completed == {"type": "build.stage.completed", "stage": "scaffold", "duration": 1.5}
    assert snapshot == {"type": "snapshot.updated", "url": "/s.svg"}
    assert documentation["section"] == "Intro"
    assert documentation["content"] == "Zeile 1\nZeile 2 \u2028 ü 🚀"


async def test_other_terminal_statuses_are_a_setting(redis, start_hub, transport):
    """With HUB_TERMINAL_STATUSES=done, `done` ends a job and `ready` does not."""
    async with start_hub(terminal_statuses="done") as live:
        job = await producers.foreign_job(redis)
        async with view(live, transport, job) as viewer:
            await producers.shout(
                redis, job, {"type": "a", "status": "ready"}, {"type": "a", "status": "done"}
            )
            seen = await viewer.all()
    assert [one.fields.get("status") for one in seen] == ["ready", "done", "done"]
    assert viewer.closed == "ended"


async def test_viewers_of_one_job_see_nothing_of_another(live, watch):
    """Jobs are separate, also those whose ids begin alike."""
    one = await producers.job(live)
    other = one + "0"
    await live.jobs.create_job(other, user_id="ada")
    async with watch(one) as first, watch(other) as second:
        await producers.publish(live, one, 2)
        await producers.publish(live, other, 3)
        await live.publisher.ready(one)
        await live.publisher.ready(other)
        assert len(producers.numbers(await first.all())) == 2
        assert len(producers.numbers(await second.all())) == 3


async def test_a_websocket_of_one_job_answers_ping_and_state(live, job):
    """Other commands are for dashboards and get an error frame; the socket stays open."""
    await producers.publish(live, job, 1)
    async with view(live, "websocket", job, "?from=live") as ws:
        assert isinstance(ws, WebSocket)
        await ws.say("ping", ref="a")
        assert (await ws.answer("a")).name == "pong"
        await ws.say("state", ref=2)
        state = await ws.answer(2)
        assert (state.name, state.fields["job_id"], state.fields["position"][-2:]) == ("state", job, "-0")
        await ws.say("subscribe", job=job, ref=3)
        assert (await ws.answer(3)).name == "error"
        await ws.raw("nonsense")
        assert (await ws.next()).name == "error"
        await live.publisher.ready(job)
        assert [one.name for one in await ws.all()] == ["build.stage.started", "end"]
