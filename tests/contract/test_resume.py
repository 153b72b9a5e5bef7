"""Cursors on both transports: all later events follow, or a `resync` with the reason."""

from __future__ import annotations

import pytest

from hub.job.event import EventId
from tests.support import producers
from tests.support.keys import log_of, meta_of
from tests.support.viewer import view

pytestmark = pytest.mark.asyncio(loop_scope="module")

JUNK = [
    "-",
    "+",
    "$",
    "0",
    "-1",
    "0-0",
    "1-0",
    "0-1",
    "1-2-3",
    "-1-2",
    "01-1",
    "1-01",
    "9" * 400,
    "99999999999999999999999-1",
    "18446744073709551615-18446744073709551615",
    "18446744073709551616-0",
    "1-18446744073709551616",
    "None",
    "null",
    "*",
    "(1-0",
    "ff-1",
    "1.5-0",
    "a b",
    "x" * 2000,
    "%00",
    "'\"<>{}",
]
"""Texts in a cursor that are no ids: Redis's special ids, numbers beyond 64 bits, other formats."""

ONLY_IN_A_QUERY = [
    "\x00",
    "\n",
    "1-1\r\nid: 2-2",
    "\u0661-\u0662",
    "\ud83d\ude80".encode("utf-16", "surrogatepass").decode("utf-16"),
]


async def assert_resync_then_live(live, viewer, job, reason=None):
    """The viewer gets `resync` with a reason, `state` and live events; its new cursor is valid."""
    assert viewer.status in (200, 101)
    resync, state = await viewer.take(2)
    assert (resync.name, resync.control, state.name, state.control) == ("resync", True, "state", True)
    assert resync.fields["reason"]
    assert reason in (None, resync.fields["reason"])
    assert state.fields["job_id"] == job
    cursor = viewer.cursor
    (event_id,) = await producers.publish(live, job, 1, start=100)
    seen = await viewer.next()
    assert (seen.id, seen.fields["n"]) == (str(event_id), 100)
    return cursor


async def test_a_viewer_resumes_after_what_it_has(live, watch, job):
    """The cursor of any moment gives all later events, then live ones, none of them twice."""
    sent = await producers.publish(live, job, 10)
    async with watch(job) as viewer:
        await viewer.take(4)
        cursor = viewer.cursor
    assert cursor == str(sent[3])
    async with watch(job, cursor=cursor) as viewer:
        await producers.publish(live, job, 2, start=10)
        await live.publisher.ready(job)
        seen = await viewer.all()
    assert producers.numbers(seen) == list(range(4, 12))
    assert producers.contiguous(seen)


async def test_a_cursor_works_on_the_other_transport(live, job):
    """A page that changes from WebSocket to SSE, or back, misses nothing."""
    await producers.publish(live, job, 6)
    async with view(live, "sse", job) as sse:
        await sse.take(2)
    async with view(live, "websocket", job, cursor=sse.cursor) as ws:
        assert producers.numbers(await ws.take(2)) == [2, 3]
    async with view(live, "sse", job, cursor=ws.cursor) as sse:
        assert producers.numbers(await sse.take(2)) == [4, 5]


async def test_the_header_of_a_browser_resumes(live, job):
    """EventSource sends its cursor as Last-Event-ID."""
    sent = await producers.publish(live, job, 5)
    async with view(live, "sse", job, header=str(sent[2])) as sse:
        assert producers.numbers(await sse.take(2)) == [3, 4]


async def test_the_header_wins_over_the_query(live, job):
    """EventSource reconnects with its first URL and a newer header."""
    sent = await producers.publish(live, job, 5)
    async with view(live, "sse", job, cursor=str(sent[0]), header=str(sent[3])) as sse:
        assert producers.numbers(await sse.take(1)) == [4]


async def test_a_cursor_wins_over_from(live, watch, job):
    """`from` applies only without a cursor."""
    sent = await producers.publish(live, job, 5)
    async with watch(job, "?from=live", cursor=str(sent[1])) as viewer:
        assert producers.numbers(await viewer.take(3)) == [2, 3, 4]


async def test_an_empty_cursor_is_none(live, watch, job):
    """A client without events may send an empty cursor, and gets everything."""
    await producers.publish(live, job, 3)
    async with watch(job, cursor="") as viewer:
        assert producers.numbers(await viewer.take(3)) == [0, 1, 2]


async def test_a_stream_without_events_can_be_resumed(live, watch, job):
    """The first bytes have a position, after which later events follow without a resync."""
    async with view(live, "sse", job) as sse:
        cursor = sse.cursor
    await producers.publish(live, job, 2)
    async with watch(job, cursor=cursor) as viewer:
        assert producers.numbers(await viewer.take(2)) == [0, 1]


async def test_a_cursor_at_the_end_of_a_running_job_waits_for_what_is_new(live, watch, job):
    """A viewer that has all events waits for live ones."""
    sent = await producers.publish(live, job, 3)
    async with watch(job, cursor=str(sent[-1])) as viewer:
        await producers.publish(live, job, 1, start=3)
        assert producers.numbers(await viewer.take(1)) == [3]


@pytest.mark.parametrize("has_log", [True, False], ids=["log", "no log"])
@pytest.mark.parametrize("which", ["terminal", "0-0"])
async def test_a_viewer_that_has_everything_of_an_ended_job_is_told_to_stop(
    live, redis, watch, transport, has_log, which
):
    """SSE answers 204, which stops an EventSource; a WebSocket gets `end` at once."""
    if has_log:
        job = await producers.job(live, events=3)
        terminal = str(await live.publisher.ready(job))
    else:
        job, terminal = await producers.foreign_job(redis, status="ready"), "0-0"
    async with watch(job, cursor=terminal if which == "terminal" else "0-0") as viewer:
        if transport == "sse":
            assert (viewer.status, viewer.body) == (204, b"")
        else:
            (end,) = await viewer.all()
            assert (end.name, end.fields) == ("end", {"status": "ready"})
        assert viewer.closed == "ended"


async def test_a_cursor_before_the_end_of_an_ended_job_gets_the_rest(live, watch, job):
    """The viewer gets the later events, among them the terminal one, and the end."""
    sent = await producers.publish(live, job, 4)
    await live.publisher.failed(job)
    async with watch(job, cursor=str(sent[1])) as viewer:
        seen = await viewer.all()
    assert [one.name for one in seen] == ["step", "step", "build.stage.started", "end"]
    assert producers.numbers(seen) == [2, 3]


async def test_junk_in_a_cursor_is_answered_by_a_resync(live, watch, job):
    """The answer is `resync`, `state` and live events; not a 4xx and not a silent stream."""
    await producers.publish(live, job, 3)
    for cursor in JUNK + ONLY_IN_A_QUERY:
        async with watch(job, cursor=cursor) as viewer:
            await assert_resync_then_live(live, viewer, job)


async def test_junk_in_the_header_is_answered_by_a_resync(live, job):
    """Junk in Last-Event-ID gets the same answer."""
    await producers.publish(live, job, 1)
    for cursor in JUNK:
        async with view(live, "sse", job, header=cursor) as viewer:
            await assert_resync_then_live(live, viewer, job)


@pytest.mark.parametrize("cursor", ["-", "1-0", "9999999999999-0"])
async def test_junk_on_an_ended_job_is_answered_and_the_stream_ends(live, watch, cursor):
    """`resync` and `state` are followed by the end, because no live event would come."""
    job = await producers.job(live, events=3)
    await live.publisher.ready(job)
    async with watch(job, cursor=cursor) as viewer:
        seen = await viewer.all()
    assert [one.name for one in seen[:2]] == ["resync", "state"]
    assert seen[1].fields["status"] == "ready"
    assert seen[-1].name == "end"
    assert viewer.closed == "ended"


async def test_cursors_of_others_are_answered_by_a_resync(live, watch, job):
    """Cursors of the future, of another epoch and of another job are unknown."""
    sent = await producers.publish(live, job, 3)
    other = await producers.job(live, events=2)
    async with watch(other) as viewer:
        (foreign, *_) = await viewer.take(2)
    epoch, seq = sent[-1]
    for cursor in (
        EventId(epoch, seq + 100),
        EventId(epoch + 1, 0),
        EventId(epoch - 1, 0),
        EventId(epoch + 10**9, 1),
        foreign.id if EventId.parse(foreign.id).epoch != epoch else EventId(epoch - 5, 0),
    ):
        async with watch(job, cursor=str(cursor)) as viewer:
            await assert_resync_then_live(live, viewer, job)
        await live.until(lambda: live.hub.statistics().viewers == 0)


async def test_a_cursor_whose_events_were_trimmed_is_answered_by_a_resync(live, redis, watch):
    """The events after it are no longer in the log, so the reason is `trimmed`."""
    job = await producers.job(live, events=10)
    epoch = int(await redis.hget(meta_of(job), "epoch"))
    await redis.xtrim(log_of(job), maxlen=5, approximate=False)
    async with watch(job, cursor=f"{epoch}-1") as viewer:
        await assert_resync_then_live(live, viewer, job, "trimmed")


async def test_the_event_before_the_first_retained_one_is_still_a_good_cursor(live, redis, watch):
    """All events after it are retained."""
    job = await producers.job(live, events=10)
    epoch = int(await redis.hget(meta_of(job), "epoch"))
    await redis.xtrim(log_of(job), maxlen=5, approximate=False)
    async with watch(job, cursor=f"{epoch}-4") as viewer:
        assert producers.numbers(await viewer.take(5)) == [5, 6, 7, 8, 9]


async def test_the_cursor_of_a_state_frame_is_good(live, watch, job):
    """A viewer that loses its connection after `resync` and `state` resumes from there."""
    await producers.publish(live, job, 3)
    async with watch(job, cursor="-") as viewer:
        await viewer.take(2)
        cursor = viewer.cursor
    await producers.publish(live, job, 2, start=3)
    async with watch(job, cursor=cursor) as viewer:
        assert producers.numbers(await viewer.take(2)) == [3, 4]


async def test_the_state_after_a_resync_is_current_and_public(live, redis, watch):
    """It has status, position, the last event of each type, and only public fields of the hash."""
    job = await producers.job(live, title="T", secret="s")
    await live.publisher.stage_started(job, "code", "one")
    await live.publisher.stage_started(job, "deps", "two")
    await live.publisher.snapshot_updated(job, "/1.svg")
    async with watch(job, cursor="-") as viewer:
        _, state = await viewer.take(2)
    assert state.fields["status"] == "deps"
    assert state.fields["job"]["title"] == "T"
    assert not {"user_id", "secret", "epoch"} & state.fields["job"].keys()
    assert state.fields["last"]["build.stage.started"]["narration"] == "two"
    assert state.fields["last"]["snapshot.updated"]["url"] == "/1.svg"


async def test_a_viewer_resumes_in_another_process(live, watch, start_hub, transport, job):
    """The log is in Redis, so every hub knows the cursor."""
    await producers.publish(live, job, 5)
    async with watch(job) as viewer:
        await viewer.take(2)
    async with start_hub() as other, view(other, transport, job, cursor=viewer.cursor) as moved:
        await producers.publish(live, job, 1, start=5)
        assert producers.numbers(await moved.take(4)) == [2, 3, 4, 5]
