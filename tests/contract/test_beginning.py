"""Where a viewer without a cursor begins, also if Redis retains more than memory, and its `types`."""

from __future__ import annotations

import asyncio

import pytest
import pytest_asyncio

from tests.support import producers
from tests.support.keys import meta_of
from tests.support.live import live_hub
from tests.support.viewer import view

pytestmark = pytest.mark.asyncio(loop_scope="module")

RETAINED = 300


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def small(redis):
    """A hub that keeps 20 events of a job in memory."""
    async with live_hub(redis, window_events=20) as hub:
        yield hub


async def long_job(live) -> str:
    """A job with 300 retained events."""
    made = await producers.job(live)
    await producers.retain(live.client, made, RETAINED)
    return made


async def test_from_start_is_the_default(live, watch, job):
    """The viewer gets all events in the log, then live ones."""
    await producers.publish(live, job, 3)
    for query in ("", "?from=start"):
        async with watch(job, query) as viewer:
            assert producers.numbers(await viewer.take(3)) == [0, 1, 2]


async def test_from_live_gives_nothing_of_the_past(live, watch, job):
    """The viewer gets only events from now on."""
    await producers.publish(live, job, 3)
    async with watch(job, "?from=live") as viewer:
        await producers.publish(live, job, 1, start=3)
        assert producers.numbers(await viewer.take(1)) == [3]


@pytest.mark.parametrize(
    ("query", "first"), [("-20", 10), ("-1", 29), ("-30", 0), ("-31", 0), ("-999999", 0)]
)
async def test_from_minus_n_gives_the_last_n(live, watch, query, first):
    """The viewer gets the last n events, or all if there are fewer."""
    job = await producers.job(live, events=30)
    async with watch(job, f"?from={query}") as viewer:
        await producers.publish(live, job, 1, start=30)
        assert producers.numbers(await viewer.take(31 - first)) == list(range(first, 31))


@pytest.mark.parametrize("query", ["0", "-0", "-", "-01", "20", "x", "-9999999999", "", "-1.5", "-%D9%A1"])
async def test_an_odd_from_is_never_refused(live, watch, job, query):
    """An unknown `from` means all events."""
    await producers.publish(live, job, 2)
    async with watch(job, f"?from={query}") as viewer:
        await live.publisher.ready(job)
        assert [one.name for one in (await viewer.all())[-2:]] == ["build.stage.started", "end"]


async def test_from_live_on_an_ended_job_ends(live, watch, job):
    """The viewer gets at least the terminal event and the end."""
    await producers.publish(live, job, 3)
    await live.publisher.failed(job)
    async with watch(job, "?from=live") as viewer:
        seen = await viewer.all()
    assert [one.name for one in seen] == ["build.stage.started", "end"]
    assert viewer.closed == "ended"


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("", 0),
        ("?from=start", 0),
        ("?from=-20", 280),
        ("?from=-5", 295),
        ("?from=-50", 250),
        ("?from=-299", 1),
        ("?from=-5000", 0),
    ],
)
async def test_a_replay_pages_through_the_log_when_memory_holds_less(small, transport, query, first):
    """With 20 events in memory and 300 in the log, all 300 come once and in order, then live ones."""
    job = await long_job(small)
    async with view(small, transport, job, query) as viewer:
        seen = await viewer.take(RETAINED - first)
        await producers.publish(small, job, 2, start=RETAINED)
        seen += await viewer.take(2)
    assert producers.numbers(seen) == list(range(first, RETAINED + 2))
    assert producers.contiguous(seen)


@pytest.mark.parametrize("at", [0, 100, 278, 279, 280, 281, 298, 299])
async def test_a_resume_pages_through_the_log_when_memory_holds_less(small, transport, at):
    """A cursor may be before the window, at its edge, or within it."""
    job = await long_job(small)
    epoch = int(await small.client.hget(meta_of(job), "epoch"))
    async with view(small, transport, job, cursor=f"{epoch}-{at}") as viewer:
        await producers.publish(small, job, 2, start=RETAINED)
        seen = await viewer.take(RETAINED + 1 - at)
    assert producers.numbers(seen) == list(range(at + 1, RETAINED + 2))
    assert producers.contiguous(seen)


async def test_a_replay_longer_than_one_page_is_complete(small, transport, redis):
    """900 events are two pages of the log; the job ends during the replay, which ends as well."""
    job = await producers.job(small)
    await producers.retain(redis, job, 900)
    await small.publisher.ready(job)
    async with view(small, transport, job) as viewer:
        seen = await viewer.all()
    assert producers.numbers(seen) == list(range(900))
    assert [one.name for one in seen[-2:]] == ["build.stage.started", "end"]
    assert producers.contiguous(seen)


async def test_events_published_during_a_replay_come_after_it(small, transport):
    """If a worker publishes during replays, each viewer gets one order without a hole."""
    job = await long_job(small)

    async def see() -> list:
        async with view(small, transport, job) as viewer:
            return await viewer.all()

    async with asyncio.TaskGroup() as group:
        watching = [group.create_task(see()) for _ in range(5)]
        await producers.publish(small, job, 100, start=RETAINED)
        await small.publisher.ready(job)
    for task in watching:
        seen = task.result()
        assert producers.numbers(seen) == list(range(RETAINED + 100))
        assert producers.contiguous(seen)


async def test_types_let_through_what_was_asked_for(live, watch, job):
    """Other types are left out, cursors stay valid, and the terminal event and the end always pass."""
    publisher = live.publisher
    await publisher.snapshot_updated(job, "/0.svg")
    await producers.publish(live, job, 1)
    async with watch(job, "?types=snapshot.updated,build.stage.completed") as viewer:
        await publisher.stage_completed(job, "code", 1)
        await producers.publish(live, job, 1)
        await publisher.snapshot_updated(job, "/1.svg")
        await publisher.ready(job)
        seen = await viewer.all()
    assert [one.name for one in seen] == [
        "snapshot.updated",
        "build.stage.completed",
        "snapshot.updated",
        "build.stage.started",
        "end",
    ]


async def test_types_hold_for_a_replay_from_the_log(small, transport):
    """The filter applies also to events that are not in memory any more."""
    job = await producers.job(small)
    for n in range(100):
        await small.publisher.emit(job, "odd" if n % 2 else "even", {"n": n})
    await small.publisher.ready(job)
    async with view(small, transport, job, "?types=odd") as viewer:
        seen = await viewer.all()
    assert [one.fields["n"] for one in seen if one.name == "odd"] == list(range(1, 100, 2))
    assert [one.name for one in seen[-2:]] == ["build.stage.started", "end"]
    assert len(seen) == 52


async def test_types_that_never_come_still_end(live, watch, job):
    """A filter that no event matches lets the terminal event through."""
    await producers.publish(live, job, 5)
    async with watch(job, "?types=nothing") as viewer:
        await live.publisher.ready(job)
        assert [one.name for one in await viewer.all()] == ["build.stage.started", "end"]
