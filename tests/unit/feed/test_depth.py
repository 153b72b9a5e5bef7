"""A window begins with what its first viewer needs, and grows backwards when somebody asks."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from hub.errors import BrokerUnavailable
from hub.fanout.pace import Pace
from hub.feed.feed import Feed
from hub.feed.pump import Pump
from hub.job.event import EventId, JobId
from hub.job.record import Entry
from hub.settings import Settings
from hub.timings import Timings
from hub.totals import Totals
from tests.unit.feed.test_watching import Broker as Simple
from tests.unit.feed.test_watching import E, a_job, at, seated, settled


class Broker(Simple):
    """A job with 50 retained events, each tenth of a type of its own. `asked` has what was read backwards."""

    def __init__(self, events: int = 50) -> None:
        super().__init__(a_job(position=at(events - 1)))
        self.entries = [self.entry(n) for n in range(events)]
        self.limits: list[int] = []
        self.asked: list[tuple[EventId, int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    @staticmethod
    def entry(n: int, **more) -> Entry:
        kind = "step" if n % 10 else f"stage{n // 10}"
        return Entry(at(n), json.dumps({"type": kind, "n": n, **more}).encode())

    async def latest(self, job, *, limit, size):
        self.limits.append(limit)
        return await super().latest(job, limit=limit, size=size)

    async def before(self, job, first, *, limit, size):
        assert job.id == JobId("a")
        self.asked.append((first, limit))
        found = [one for one in self.entries if one.id < first][-limit:]
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return found

    def publish(self, n: int) -> None:
        entry = self.entry(n)
        self.entries.append(entry)
        self.job = replace(self.job, position=at(n))
        for sink in list(self.sinks):
            sink.receive(b'{"id":"%d-%d",' % (E, n) + entry.body[1:])


@pytest.fixture
async def start(monkeypatch):
    feeds = []

    async def starting(depth, broker=None, **settings):
        broker = broker or Broker()
        feed = Feed(
            broker.job,
            broker,
            Settings(**settings),
            Totals(),
            lambda _: None,
            Pump(Timings()),
            Pace(15),
            depth=depth,
        )
        feeds.append(feed)
        await feed.wait_started()
        return feed, broker

    yield starting
    for feed in feeds:
        if hasattr(feed, "_task"):
            await feed.aclose()
        assert feed.totals.window_bytes == feed.totals.state_bytes == 0


def held(feed: Feed) -> list[int]:
    return [frame.id.seq for frame in feed.log.slice(feed.log.start, 1 << 30) if frame.name is None]


def state(feed: Feed) -> dict:
    return json.loads(feed.state.text(None))


@pytest.mark.parametrize(
    ("depth", "first"), [(0, 48), (1, 48), (7, 43), (50, 0), (51, 0), (10_000, 0), (None, 0)]
)
async def test_it_begins_with_what_the_first_viewer_needs(start, depth, first):
    feed, broker = await start(depth)
    assert held(feed) == list(range(first, 50))
    assert broker.asked == []
    assert feed.is_whole == (depth is None or depth > 50)


async def test_the_past_is_read_for_who_needs_it_and_once_for_all(start):
    feed, broker = await start(0)
    broker.gate.clear()
    askers = [asyncio.create_task(feed.reach(20)) for _ in range(5)]
    await settled()
    askers[0].cancel()  # who reads may leave
    await settled()
    broker.gate.set()
    await asyncio.gather(*askers[1:])
    assert held(feed) == list(range(30, 50))
    assert broker.asked == [(at(48), 18), (at(48), 18)]
    await feed.reach(20)
    await feed.reach(3)
    assert len(broker.asked) == 2
    await feed.reach()
    assert held(feed) == list(range(50))
    assert feed.is_whole
    await feed.reach()
    assert len(broker.asked) == 3


async def test_what_comes_meanwhile_is_after_the_past(start):
    feed, broker = await start(0, window_events=100)
    wire = seated(feed)
    broker.gate.clear()
    asker = asyncio.create_task(feed.reach(10))
    await settled()
    for n in range(50, 55):
        broker.publish(n)
        await settled()
    broker.gate.set()
    await asker
    assert held(feed) == list(range(40, 55))
    assert [frame.id.seq for frame in wire.frames] == list(range(50, 55))


async def test_a_window_that_moved_on_meanwhile_keeps_what_it_has(start):
    """What was read of its old beginning does not meet it."""
    feed, broker = await start(0, window_events=10)
    broker.gate.clear()
    asker = asyncio.create_task(feed.reach())
    await settled()
    for n in range(50, 75):
        broker.publish(n)
        await settled()
    broker.gate.set()
    await asker
    assert held(feed) == list(range(65, 75))


async def test_the_state_has_the_last_event_of_each_type(start):
    feed, _ = await start(0)
    assert set(state(feed)["last"]) == {"step"}
    await feed.reach()
    assert set(state(feed)["last"]) == {"step", *(f"stage{n}" for n in range(5))}
    assert state(feed)["last"]["step"]["n"] == 49


async def test_a_gap_is_followed_by_a_state_that_says_all(start):
    """For whatever reason: the log is trimmed, an event is over the limit."""
    feed, broker = await start(0, max_event_bytes=100)
    wire = seated(feed)
    broker.entries.append(Broker.entry(50, x="x" * 100))
    broker.job = replace(broker.job, position=at(50))
    broker.sinks[0].receive(b'{"id":"%d-50",' % E + broker.entries[-1].body[1:])
    await settled()
    assert [frame.name for frame in wire.frames] == ["gap", "state"]
    assert "stage0" in json.loads(wire.frames[1].body)["last"]
    feed, broker = await start(0)
    wire = seated(feed)
    del broker.entries[48:]
    broker.job = replace(broker.job, position=at(60))
    feed.doubt()
    await settled()
    assert [frame.name for frame in wire.frames] == ["gap", "state"]
    assert "stage0" in json.loads(wire.frames[1].body)["last"]


async def test_a_beginning_with_a_hole_is_read_whole(start):
    broker = Broker()
    del broker.entries[48]
    feed, _ = await start(2, broker)
    (said,) = [
        json.loads(frame.body) for frame in feed.log.slice(feed.log.start, 1 << 30) if frame.name == "state"
    ]
    assert "stage0" in said["last"]
    assert broker.limits == [2, 1000]


async def test_a_gap_while_redis_is_away_says_that_its_state_is_cut(start):
    feed, broker = await start(0)
    wire = seated(feed)
    broker.error = BrokerUnavailable("away")
    broker.entries.append(Broker.entry(50))
    broker.job = replace(broker.job, position=at(50))
    broker.sinks[0].receive(b'{"id":"%d-50","x":"%s"}' % (E, b"x" * (1 << 21)))
    await settled()
    assert json.loads(wire.frames[1].body)["truncated"]
    with pytest.raises(BrokerUnavailable):
        await feed.reach()
    broker.error = None


async def test_an_event_over_the_limit_ends_the_past(start):
    broker = Broker()
    broker.entries[30] = Broker.entry(30, x="x" * 100)
    feed, _ = await start(0, broker, max_event_bytes=100)
    await feed.reach()
    assert held(feed) == list(range(31, 50))
    await feed.reach()
    assert len(broker.asked) == 1


async def test_a_numbering_that_was_restarted_has_no_past(start):
    feed, broker = await start(0)
    wire = seated(feed)
    broker.gate.clear()
    asker = asyncio.create_task(feed.reach())
    await settled()
    broker.entries = [Entry(EventId(9, 0), b'{"type":"new"}')]
    broker.job = replace(broker.job, epoch=9, position=EventId(9, 0))
    feed.doubt()
    await settled()
    broker.gate.set()
    await asker
    await settled()
    assert [frame.name for frame in wire.frames] == ["resync", "state", None]
    assert feed.log.position_after(at(20)) is None
    assert set(state(feed)["last"]) == {"new"}


async def test_a_feed_that_ends_during_a_read_holds_nothing(start):
    feed, broker = await start(0)
    broker.gate.clear()
    asker = asyncio.create_task(feed.reach())
    await settled()
    await feed.aclose()
    broker.gate.set()
    await asker  # and the fixture looks at the totals


async def test_a_read_of_a_log_without_entries_is_not_repeated(start):
    broker = Broker(events=3)
    feed, _ = await start(0, broker)
    broker.entries = []
    await feed.reach()
    await feed.reach()
    assert len(broker.asked) == 1
