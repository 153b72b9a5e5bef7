"""Missing events are read from the log, or announced by a `gap` and a `state`; none is silently missing."""

from __future__ import annotations

import pytest

from hub import Publisher
from hub.broker.script import Publication
from hub.errors import EventTooLarge
from tests.support import producers
from tests.support.keys import log_of, meta_of
from tests.support.viewer import view

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def epoch_of(redis, job):
    return (await redis.hget(meta_of(job), "epoch")).decode()


async def test_a_hole_in_the_log_is_announced(redis, live, watch):
    """A `gap` names a deleted entry; the `state` and the later events follow."""
    job = await producers.job(live, events=8)
    epoch = await epoch_of(redis, job)
    await redis.xdel(log_of(job), f"{epoch}-3", f"{epoch}-4")
    async with watch(job) as viewer:
        seen = await viewer.take(8)
    assert [one.name for one in seen] == ["step"] * 3 + ["gap", "state"] + ["step"] * 3
    assert seen[3].fields == {"from": f"{epoch}-3", "to": f"{epoch}-4", "reason": "trimmed"}
    assert producers.numbers(seen) == [0, 1, 2, 5, 6, 7]


async def test_a_trimmed_beginning_is_announced_to_a_viewer_that_wants_the_start(redis, live, watch):
    """If the log begins later than the job, a `gap` comes before its first event."""
    job = await producers.job(live, events=10)
    epoch = await epoch_of(redis, job)
    await redis.xtrim(log_of(job), maxlen=5, approximate=False)
    async with watch(job) as viewer:
        seen = await viewer.take(7)
    assert [one.name for one in seen] == ["gap", "state"] + ["step"] * 5
    assert seen[0].fields == {"from": f"{epoch}-0", "to": f"{epoch}-4", "reason": "trimmed"}


async def test_a_viewer_that_joins_after_a_gap_was_announced_is_told_as_well(redis, live, watch):
    """A second viewer gets the same frames from memory."""
    job = await producers.job(live, events=6)
    await redis.xdel(log_of(job), f"{await epoch_of(redis, job)}-2")
    async with watch(job) as first, watch(job) as second:
        assert await first.take(7) == await second.take(7)


async def test_events_that_pubsub_dropped_are_healed_from_the_log(redis, live, watch, job):
    """The missing ids show a hole, which the log fills, in order, before the next event."""
    async with watch(job) as viewer:
        await producers.publish(live, job, 2)
        for n in (2, 3):
            await producers.whisper(redis, job, {"type": "step", "n": n})
        await producers.publish(live, job, 1, start=4)
        await live.publisher.ready(job)
        seen = await viewer.all()
    assert producers.numbers(seen) == [0, 1, 2, 3, 4]
    assert producers.contiguous(seen)
    assert "gap" not in [one.name for one in seen]


async def test_what_the_log_cannot_heal_is_announced_live(redis, live, watch, job):
    """A hole that the log has too gives `gap` and `state`; then events continue."""
    epoch = await epoch_of(redis, job)
    async with watch(job) as viewer:
        await producers.publish(live, job, 2)
        for n in (2, 3):
            await producers.whisper(redis, job, {"type": "step", "n": n})
        await redis.xdel(log_of(job), f"{epoch}-2")
        await producers.publish(live, job, 1, start=4)
        seen = await viewer.take(6)
    assert [one.name for one in seen] == ["step", "step", "gap", "state", "step", "step"]
    assert seen[2].fields == {"from": f"{epoch}-2", "to": f"{epoch}-2", "reason": "trimmed"}
    assert producers.numbers(seen) == [0, 1, 3, 4]
    assert viewer.cursor == f"{epoch}-4"


async def test_a_message_that_comes_twice_is_delivered_once(redis, live, watch, job):
    """A repeated numbered message is not delivered again."""
    async with watch(job) as viewer:
        (event_id,) = await producers.publish(live, job, 1)
        await producers.shout(redis, job, f'{{"id":"{event_id}","type":"step","n":0}}')
        await producers.publish(live, job, 1, start=1)
        await producers.shout(redis, job, f'{{"id":"{event_id}","type":"step","n":0}}')
        await live.publisher.ready(job)
        assert producers.numbers(await viewer.all()) == [0, 1]


async def test_the_position_check_finds_what_pubsub_never_brought(redis, start_hub, transport):
    """A missing terminal event is found too; without it the viewer would wait for ever."""
    async with start_hub(position_check=0.2) as live:
        job = await producers.job(live, events=1)
        async with view(live, transport, job) as viewer:
            await viewer.take(1)
            await producers.whisper(redis, job, {"type": "step", "n": 1})
            assert producers.numbers(await viewer.take(1)) == [1]
            await producers.whisper(redis, job, {"type": "build.stage.started", "status": "ready"})
            assert [one.name for one in await viewer.all()] == ["build.stage.started", "end"]
    assert viewer.closed == "ended"


async def test_the_position_check_finds_a_job_that_ended_without_any_event(redis, start_hub, transport):
    """If the application writes only the hash, viewers get the final status and the end."""
    async with start_hub(position_check=0.2) as live:
        job = await producers.foreign_job(redis)
        async with view(live, transport, job) as viewer:
            await redis.hset(f"job:{job}", "status", "failed")
            final, end = await viewer.all()
    assert (final.fields["status"], end.fields) == ("failed", {"status": "failed"})


async def test_a_log_that_began_anew_is_answered_by_a_resync(redis, live, watch, job):
    """After a log was deleted or has expired, `resync` and `state` come before the new epoch's event."""
    async with watch(job) as viewer:
        await producers.publish(live, job, 3)
        await viewer.take(3)
        before = viewer.cursor
        await redis.delete(log_of(job))
        await producers.publish(live, job, 2, start=3)
        seen = await viewer.take(4)
    assert [one.name for one in seen] == ["resync", "state", "step", "step"]
    assert seen[0].fields["reason"]
    assert producers.numbers(seen) == [3, 4]
    assert producers.contiguous(seen)
    async with watch(job, cursor=before) as again:
        assert (await again.next()).name == "resync"


async def test_an_event_over_the_limit_is_announced_and_the_next_one_flows(redis, start_hub, transport):
    """An oversize event of a foreign producer gives `gap` and `state`; then events continue."""
    async with start_hub(max_event_bytes=2000) as live:
        job = await producers.foreign_job(redis)
        async with view(live, transport, job) as viewer:
            step = {"type": "step", "n": 0}
            await producers.shout(redis, job, step, {**step, "fill": "x" * 3000}, {**step, "n": 1})
            seen = await viewer.take(4)
            await producers.shout(redis, job, {"type": "x", "status": "ready"})
            rest = await viewer.all()
    assert [one.name for one in seen] == ["step", "gap", "state", "step"]
    assert seen[1].fields["reason"] == "oversize"
    assert producers.numbers(seen) == [0, 1]
    assert [one.name for one in rest] == ["x", "end"]


async def test_an_oversize_event_of_the_log_is_announced_by_its_id(redis, start_hub, transport):
    """If a publisher's limit is higher than the hub's, the gap names the id, and resume works."""
    async with start_hub(max_event_bytes=2000) as live:
        job = await producers.job(live)
        epoch = await epoch_of(redis, job)
        large = Publisher(redis, strict=True, publication=Publication(limit=10_000))
        async with view(live, transport, job) as viewer:
            await producers.publish(live, job, 1)
            await large.emit(job, "step", {"n": 1, "fill": "x" * 3000})
            seen = await viewer.take(3)
        await producers.publish(live, job, 1, start=2)
        assert seen[1].fields == {"from": f"{epoch}-1", "to": f"{epoch}-1", "reason": "oversize"}
        assert [one.name for one in seen] == ["step", "gap", "state"]
        async with view(live, transport, job, cursor=viewer.cursor) as viewer:
            assert producers.numbers(await viewer.take(1)) == [2]
    async with start_hub(max_event_bytes=2000) as cold, view(cold, transport, job) as viewer:
        assert [one.name for one in await viewer.take(4)] == ["step", "gap", "state", "step"]


async def test_an_event_at_the_limit_is_delivered(redis, start_hub, transport):
    """The limit applies to the producer's text, without the id that the script adds."""
    async with start_hub(max_event_bytes=2000) as live:
        job = await producers.job(live)
        at_limit = Publisher(redis, strict=True, publication=Publication(limit=2000))
        fill = 2000 - len(f'{{"type":"step","n":0,"fill":"","job_id":"{job}"}}')
        async with view(live, transport, job) as viewer:
            await at_limit.emit(job, "step", {"n": 0, "fill": "x" * fill})
            assert producers.numbers(await viewer.take(1)) == [0]
        with pytest.raises(EventTooLarge):
            await at_limit.emit(job, "step", {"n": 0, "fill": "x" * (fill + 1)})


async def test_a_hole_before_an_oversize_event_is_announced_as_well(redis, start_hub, transport):
    """The hole and the oversize event give two gaps, each with its ids."""
    async with start_hub(max_event_bytes=2000) as live:
        job = await producers.job(live, events=3)
        epoch = await epoch_of(redis, job)
        large = Publisher(redis, strict=True, publication=Publication(limit=10_000))
        await large.emit(job, "step", {"n": 3, "fill": "x" * 3000})
        await redis.xdel(log_of(job), f"{epoch}-1", f"{epoch}-2")
        async with view(live, transport, job) as viewer:
            seen = await viewer.take(5)
    assert [one.name for one in seen] == ["step", "gap", "state", "gap", "state"]
    assert [one.fields["reason"] for one in seen if one.name == "gap"] == ["trimmed", "oversize"]


async def test_the_state_after_a_rollback_has_what_is_left(redis, start_hub, transport):
    """After a rollback clients replace what they have by the `state`, so it must be complete."""
    async with start_hub(position_check=0.2) as live:
        job = await producers.job(live)
        await live.publisher.snapshot_updated(job, "http://picture")
        epoch = await epoch_of(redis, job)
        await producers.publish(live, job, 2)
        async with view(live, transport, job) as viewer:
            await viewer.take(3)
            await redis.xdel(log_of(job), f"{epoch}-2")
            await redis.hset(meta_of(job), "position", f"{epoch}-1")
            resync, state = await viewer.take(2)
    assert resync.fields["reason"] == "rolled back"
    assert state.fields["last"]["snapshot.updated"]["url"] == "http://picture"
    assert state.fields["last"]["step"]["n"] == 0


@pytest.mark.parametrize("window", [1000, 5], ids=["window", "replay"])
async def test_an_oversize_event_of_the_log_is_never_delivered(redis, start_hub, transport, window):
    """A `gap` stands for it, whether it is read from memory or from the retained log."""
    async with start_hub(max_event_bytes=2000, window_events=window) as live:
        job = await producers.job(live, events=3)
        await Publisher(redis, strict=True, publication=Publication(limit=10_000)).emit(
            job, "step", {"n": 3, "fill": "x" * 3000}
        )
        await producers.publish(live, job, 20, start=4)
        await live.publisher.ready(job)
        async with view(live, transport, job) as viewer:
            seen = await viewer.all()
    assert producers.numbers(seen) == [n for n in range(24) if n != 3]
    assert [one.fields["reason"] for one in seen if one.name == "gap"] == ["oversize"]
    assert seen[[one.name for one in seen].index("gap") + 1].name == "state"


async def test_every_gap_is_followed_by_the_state(redis, live, watch):
    """The `state` has status, public fields, and the last event of each type."""
    job = await producers.job(live, title="T")
    await live.publisher.stage_started(job, "code", "one")
    await producers.publish(live, job, 5)
    await redis.xdel(log_of(job), f"{await epoch_of(redis, job)}-2")
    async with watch(job) as viewer:
        seen = await viewer.take(7)
    (at,) = [index for index, one in enumerate(seen) if one.name == "gap"]
    state = seen[at + 1]
    assert (state.name, state.fields["job_id"], state.fields["status"]) == ("state", job, "code")
    assert state.fields["job"]["title"] == "T"
    assert "user_id" not in state.fields["job"]
    assert state.fields["last"]["build.stage.started"]["narration"] == "one"
