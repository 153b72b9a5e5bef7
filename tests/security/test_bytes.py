"""Everything that holds events is bounded by bytes, and counted."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
import pytest_asyncio

from hub.feed.inbox import LIMIT_BYTES, Inbox, Mark
from hub.feed.paging import AIM
from hub.job.cursor import MAX_TYPE, MAX_TYPES, Wish
from hub.totals import Totals
from hub.transports.page import MAX_PAGE
from tests.support import producers
from tests.support.live import live_hub, token
from tests.support.viewer import dashboard, view

MEGABYTE = 1_000_000


@pytest_asyncio.fixture
async def live(real_redis):
    async with live_hub(real_redis, linger=0.2) as hub:
        yield hub


async def large(live, job: str, number: int, *, size: int = MEGABYTE, types: int = 1) -> None:
    """Publish `number` events of `size` bytes."""
    for n in range(number):
        await live.publisher.emit(job, f"t{n % types}", {"n": n, "x": "x" * size})


async def get(live, path: str) -> httpx.Response:
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token()}"}, timeout=30) as client:
        return await client.get(live.url + path)


async def test_the_state_is_a_window_at_most(live):
    """64 types of a megabyte were 64 MB in each answer."""
    job = await producers.job(live)
    async with view(live, "websocket", job) as viewer:
        await large(live, job, 12, size=200_000, types=12)
        await viewer.until("t11")
        assert live.hub.statistics().state_bytes <= live.hub.settings.window_bytes
        answer = await get(live, f"/api/jobs/{job}")
        assert len(answer.content) <= live.hub.settings.window_bytes + 1000
        assert answer.json()["truncated"] is True
        assert list(answer.json()["last"])[-1] == "t11"
        await viewer.say("state", ref=1)
        assert (await viewer.answer(1)).fields["truncated"] is True
    await live.until(lambda: not live.hub.statistics().held_bytes)
    statistics = live.hub.statistics()
    assert (
        statistics.jobs,
        statistics.state_bytes,
        statistics.window_bytes,
        statistics.inbox_bytes,
        statistics.past_bytes,
    ) == (0, 0, 0, 0, 0)


async def test_a_feed_begins_with_a_window_and_not_with_everything(live, monkeypatch):
    """400 events of a megabyte stopped the loop for a second, and took 582 MB."""
    job = await producers.job(live)
    await large(live, job, 60)
    read = _count_reads(live, monkeypatch)
    async with view(live, "sse", job, "?from=live") as viewer:
        assert viewer.status == 200
    assert sum(read) <= 21
    assert live.hub.statistics().window_bytes <= live.hub.settings.window_bytes + MEGABYTE


def _count_reads(live, monkeypatch) -> list[int]:
    """How many retained events each command brought."""
    read = []
    ask = live.hub.broker.ask

    async def counted(key, commands):
        answers = await ask(key, commands)
        read.extend(
            len(rows) for command, rows in zip(commands, answers, strict=True) if command[0] == "XREVRANGE"
        )
        return answers

    monkeypatch.setattr(live.hub.broker, "ask", counted)
    snapshot = live.hub.broker._snapshot

    async def counted_snapshot(*args):
        found = await snapshot(*args)
        read.append(len(found.entries))
        return found

    monkeypatch.setattr(live.hub.broker, "_snapshot", counted_snapshot)
    return read


async def test_small_events_are_read_at_once(live, monkeypatch):
    """A window of a thousand is two reads."""
    job = await producers.job(live)
    await live.publisher.emit_many(job, [("step", {"n": n}) for n in range(900)])
    read = _count_reads(live, monkeypatch)
    async with view(live, "sse", job) as viewer:
        assert len(await viewer.take(900)) == 900
    assert read == [20, 880]


async def test_the_past_of_a_slow_reader_is_a_read(live):
    """50 MB each, shared by nobody."""
    job = await producers.job(live)
    await large(live, job, 12)
    sockets = [await asyncio.open_connection("127.0.0.1", live.port, limit=1024) for _ in range(10)]
    for _, writer in sockets:
        head = f"GET /api/jobs/{job}/events/stream HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token()}\r\n\r\n"
        writer.write(head.encode())
    await asyncio.sleep(1)
    assert live.hub.statistics().past_bytes <= 10 * (AIM + MEGABYTE)
    for _, writer in sockets:
        writer.transport.abort()
    await live.until(lambda: live.hub.statistics().past_bytes == 0)


async def test_a_page_is_full_after_some_bytes(live):
    """`limit=1000` of a megabyte each was a gigabyte. The next page goes on."""
    job = await producers.job(live)
    await large(live, job, 8, size=100_000)
    seen, after = [], ""
    while len(seen) < 8:
        page = (await get(live, f"/api/jobs/{job}/events?limit=1000&after={after}")).json()
        assert len(json.dumps(page)) <= MAX_PAGE + 110_000
        seen += [event["n"] for event in page["events"]]
        after = page["position"]
    assert seen == list(range(8))


async def test_the_inbox_is_bounded_by_bytes():
    """Beyond it the log is read; one message may be larger."""
    totals = Totals()
    inbox = Inbox(totals, longest=10**9)
    inbox.receive(b"x" * 3 * LIMIT_BYTES)
    assert (len(inbox), totals.inbox_bytes) == (1, 3 * LIMIT_BYTES)
    inbox.receive(b"y")
    assert inbox.pop() is Mark.LOST
    assert inbox.pop() == b"y"
    for _ in range(40):
        inbox.receive(b"z" * MEGABYTE)
        assert totals.inbox_bytes <= LIMIT_BYTES
    inbox.put_back(item := inbox.pop())
    assert item is Mark.LOST
    inbox.drop_numbered()
    inbox.clear()
    assert (totals.inbox_bytes, totals.inbox) == (0, 0)
    short = Inbox(totals, longest=1000)
    short.receive(b"x" * MEGABYTE)
    assert 1000 < len(short.first) < 1100, "of what is too long for an event, enough to see that"


@pytest.mark.parametrize(
    "types",
    [",".join(f"t{n}" for n in range(MAX_TYPES + 1)), "x" * (MAX_TYPE + 1), "a," * 30_000, "a" * 60_000],
)
async def test_a_filter_that_is_too_large_is_none(live, types):
    """62 KB of types cost 666 KB a subscription. A viewer can ignore what it did not want."""
    assert Wish.parse(types=types).types in (None, frozenset("a"))
    job = await producers.job(live, events=2)
    async with dashboard(live) as board:
        await board.say("subscribe", job=job, types=types.split(",")[:2000])
        assert (await board.until("subscribed"))[-1].name == "subscribed"


async def test_a_filter_may_have_as_many_types_as_it_says():
    types = [f"{n}".rjust(MAX_TYPE, "t") for n in range(MAX_TYPES)]
    assert Wish.parse(types=",".join(types)).types == frozenset(types)


async def test_at_the_bound_no_further_job_is_watched(real_redis):
    """Those that are watched go on; one that lingers is let go first."""
    async with live_hub(real_redis, memory=6 * MEGABYTE, linger=60) as live:
        first, second, third = [await producers.job(live) for _ in range(3)]
        for job in (first, second):
            await large(live, job, 1)
        async with view(live, "sse", first) as one:
            await one.until("t0")
            async with view(live, "sse", second) as two:
                await two.until("t0")
                assert live.hub.statistics().held_bytes >= 6 * MEGABYTE
                async with view(live, "sse", third) as refused:
                    assert [seen.name for seen in await refused.all()] == ["reconnect"]
                assert live.hub.statistics().refused == 1
                async with view(live, "websocket", first) as again:
                    await again.until("t0")
            await live.until(lambda: len(live.hub.feeds._lingering) == 1)
            async with view(live, "sse", third) as admitted:
                assert admitted.status == 200
                await live.publisher.emit(third, "step", {})
                await admitted.until("step")
            await live.publisher.emit(first, "step", {})
            await one.until("step")


async def test_slow_readers_of_the_past_have_a_share_of_the_memory(real_redis):
    """A thousand of them with a megabyte each were gigabytes. The next one is told to come back, and gets all of it
    then."""
    async with live_hub(real_redis, memory=32 * MEGABYTE, max_viewers_per_user_and_job=100) as live:
        job = await producers.job(live)
        await large(live, job, 12)
        slow = []
        head = f"GET /api/jobs/{job}/events/stream HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token()}\r\n\r\n"
        for _ in range(30):
            _, writer = await asyncio.open_connection("127.0.0.1", live.port, limit=1024)
            writer.write(head.encode())
            slow.append(writer)
        await asyncio.sleep(1)
        assert live.hub.statistics().past_bytes <= 4 * MEGABYTE + 2 * MEGABYTE
        async with view(live, "websocket", job) as refused:
            await refused.all()
            assert refused.code == 4013
        async with view(live, "sse", job, "?from=live") as unaffected:
            assert unaffected.status == 200
        for writer in slow:
            writer.transport.abort()
        await live.until(lambda: not live.hub.statistics().past_bytes)
        async with view(live, "sse", job) as viewer:
            assert [seen.fields["n"] for seen in await viewer.take(12)] == list(range(12))
