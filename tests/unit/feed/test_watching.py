"""A feed on a broker that does what it is told: who holds it, what outdates it, its audiences, its end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import pytest_asyncio

from hub.errors import BrokerUnavailable, HubError, JobNotFound
from hub.fanout.pace import Pace
from hub.fanout.wire import Reason
from hub.feed import retained as retained_module
from hub.feed.feed import Feed
from hub.feed.pump import Pump
from hub.job.event import EventId, JobId, UserId
from hub.job.record import Entry, Job, Snapshot
from hub.settings import Settings
from hub.timings import Timings
from hub.totals import Totals
from tests.unit.engine.test_hub import Wire
from tests.unit.scripted import Recording

E = 5
FORMAT, OTHER = Recording(), Recording()


def at(seq: int) -> EventId:
    return EventId(E, seq)


def a_job(**fields) -> Job:
    given = {
        "id": JobId("a"),
        "status": "code",
        "user_id": UserId("ada"),
        "epoch": E,
        "position": at(2),
        "log_owner": "ada",
    }
    return Job(**{**given, **fields})


class Broker:
    """A job, its log and its channel."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.entries = [Entry(at(n), json.dumps({"type": "step", "n": n}).encode()) for n in range(3)]
        self.sinks: list[object] = []
        self.error: HubError | None = None
        self.read = 0

    async def subscribe(self, _job, sink):
        if self.error is not None:
            raise self.error
        self.sinks.append(sink)

    def unsubscribe(self, _job, sink):
        self.sinks.remove(sink)

    async def latest(self, _job, *, limit, size):
        return Snapshot(self.job, tuple(self.entries[-limit:]))

    async def since(self, _job, after, *, limit):
        self.read += 1
        return Snapshot(self.job, tuple([one for one in self.entries if one.id > after][:limit]))


@pytest_asyncio.fixture
async def start(monkeypatch):
    """Starts a feed and waits for it; all of them are closed at the end."""
    monkeypatch.setattr(retained_module, "RETRY", 0)
    monkeypatch.setattr(retained_module, "SETTLE", 0)
    feeds: list[Feed] = []

    async def starting(
        job: Job | None = None, *, idle: Callable[[Feed], None] = lambda _: None, **settings
    ) -> tuple[Feed, Broker]:
        job = job or a_job()
        broker = Broker(job)
        feed = Feed(job, broker, Settings(**settings), Totals(), idle, Pump(Timings()), Pace(15))
        feeds.append(feed)
        await feed.wait_started()
        return feed, broker

    yield starting
    for feed in feeds:
        if hasattr(feed, "_task"):
            await feed.aclose()


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def seated(feed: Feed, fmt=FORMAT, types=None) -> Wire:
    wire = Wire()
    wire.seat = feed.audience(fmt, types).seat(wire, feed.log.end)
    return wire


async def test_it_tells_when_its_last_user_has_gone(start):
    idle: list[Feed] = []
    feed, _ = await start(idle=idle.append)
    assert not feed.is_held
    feed.hold()
    feed.hold()
    assert feed.is_held
    feed.release()
    assert (feed.is_held, idle) == (True, [])
    feed.release()
    assert (feed.is_held, idle) == (False, [feed])


@pytest.mark.parametrize(
    ("found", "outdated"),
    [
        (a_job(), False),
        (a_job(user_id=UserId("eve")), True),
        (a_job(epoch=9), False),
        (a_job(status="failed"), False),
    ],
)
async def test_what_outdates_a_feed_of_a_job_that_runs(start, found, outdated):
    """Only another owner: all else comes by its log."""
    feed, _ = await start()
    assert feed.is_outdated(found) is outdated


async def test_a_hash_that_was_read_before_the_end_is_not_a_restart(start):
    """Of a job whose end only the hash tells, the last event is made here and has no id of the job's."""
    feed, _ = await start(a_job(status="ready", position=at(3)))
    assert feed.log.closed
    before = a_job(status="code", position=at(2))
    assert not feed.is_outdated(before)
    feed.note(before)
    assert feed.job.status == "ready"
    assert not feed.is_outdated(before)
    assert feed.is_outdated(a_job(status="code", position=at(3)))


OVER = {"status": "ready", "ended": at(2)}


@pytest.mark.parametrize(
    ("found", "outdated"),
    [
        (a_job(**OVER), False),
        (a_job(**OVER, user_id=UserId("eve")), True),
        (a_job(**OVER, epoch=9), True),
        (a_job(status="queued", position=None), False),
        (a_job(status="queued", position=at(2)), True),
        (a_job(status="queued", ended=at(2), position=at(2)), True),
        (a_job(status="ready", ended=None, position=at(2)), False),
        (a_job(status="queued", position=at(4)), True),
    ],
    ids=[
        "same",
        "another's",
        "epoch",
        "no position",
        "status",
        "attempt",
        "stands",
        "goes on",
    ],
)
async def test_what_outdates_a_feed_of_a_job_that_has_ended(start, found, outdated):
    """Another log, or the same one that goes on; and not a read that is older than its last event."""
    feed, _ = await start(a_job(**OVER))
    assert feed.log.closed
    assert feed.is_outdated(found) is outdated


async def test_the_hash_of_a_job_that_has_ended_is_noted_and_that_of_a_running_one_is_not(start):
    running, _ = await start()
    ended, _ = await start(a_job(**OVER))
    newer = a_job(**OVER, fields={"title": "x"})
    running.note(newer)
    ended.note(newer)
    assert running.job is not newer
    assert ended.job is newer


async def test_a_job_that_is_another_users_now_ends_its_viewers(start):
    feed, _ = await start()
    one, other = seated(feed), seated(feed, OTHER)
    assert feed.compare(a_job(user_id=UserId("eve")))
    assert one.reasons == other.reasons == [Reason.NOT_FOUND]
    assert feed.failed
    assert not feed.ready
    with pytest.raises(JobNotFound):
        await feed.wait_started()
    assert not feed.compare(a_job(position=at(9)))


async def test_a_difference_is_read_and_none_is_not(start):
    feed, broker = await start()
    assert not feed.compare(a_job())
    assert broker.read == 0
    broker.entries.append(Entry(at(3), b'{"type":"step","n":3}'))
    broker.job = a_job(position=at(3))
    wire = seated(feed)
    assert feed.compare(broker.job)
    await settled()
    assert [frame.event.fields["n"] for frame in wire.frames] == [3]
    feed.doubt()
    await settled()
    assert broker.read == 2


async def test_waiting_for_growth_ends_with_the_next_batch(start):
    feed, broker = await start()
    waiting = [asyncio.create_task(feed.wait_grown()) for _ in range(2)]
    await settled()
    waiting[0].cancel()
    await settled()
    assert len(feed._waiters) == 1
    broker.sinks[0].receive(b'{"id":"5-3","type":"step"}')
    await settled()
    assert waiting[1].done()
    assert feed._waiters == []


async def test_an_audience_is_shared_and_forgotten_with_its_last_seat(start):
    feed, _ = await start()
    types = frozenset({"step"})
    audience = feed.audience(FORMAT, None)
    assert feed.audience(FORMAT, None) is audience
    assert feed.audience(FORMAT, types) is not audience
    wire = seated(feed)
    feed.dismiss(audience)
    assert audience in feed.audiences
    wire.seat.leave()
    feed.dismiss(audience)
    assert audience not in feed.audiences
    newer = feed.audience(FORMAT, None)
    feed.dismiss(audience)  # the one that was forgotten is not this one
    assert newer in feed.audiences
    assert len(feed.audiences) == 2


async def test_a_filter_and_a_batch_reach_the_audience_from_where_it_stands(start):
    feed, broker = await start()
    all_of_it, some = seated(feed), seated(feed, FORMAT, frozenset({"other"}))
    for n in (3, 4):
        broker.sinks[0].receive(b'{"id":"5-%d","type":"%b"}' % (n, b"step" if n == 3 else b"other"))
    await settled()
    assert [frame.id.seq for frame in all_of_it.frames] == [3, 4]
    assert [frame.id.seq for frame in some.frames] == [4]
    assert feed.totals.deliveries == 2


async def test_a_batch_of_the_task_is_timed_and_one_position_in_eight_of_the_pump(start):
    feed, broker = await start()
    wire = seated(feed)
    timings = feed.totals.timings
    broker.sinks[0].receive(b'{"id":"5-3","type":"x"}')
    await settled()
    start_at, pumped = feed.log.end, timings.fanout.count
    for n in range(4, 4 + 16):
        broker.sinks[0].receive(b'{"id":"5-%d","type":"x"}' % n)
        await settled()
    assert feed.log.end == start_at + 16
    assert timings.fanout.count - pumped == 2
    broker.sinks[0].receive(b'{"id":"5-20","type":"x","status":"ready"}')  # the end is the task's
    await settled()
    assert wire.reasons == [Reason.ENDED]
    assert timings.delivery["write"].count == timings.fanout.count


async def test_a_retained_event_over_the_limit_has_no_frame(start):
    feed, _ = await start(max_event_bytes=50)
    body = json.dumps({"type": "step", "x": "x" * 25}).encode()
    assert len(body) == 50
    frame = feed.past_frame(Entry(at(0), body))
    assert frame is not None
    assert (frame.name, frame.id, frame.terminal) == (None, at(0), False)
    assert feed.past_frame(Entry(at(0), body + b" ")) is None
    last = feed.past_frame(Entry(at(0), b'{"status":"ready"}'))
    assert last is not None
    assert last.terminal


async def test_the_end_is_told_once_the_viewers_have_it(start):
    feed, broker = await start()
    wire = seated(feed)
    broker.sinks[0].receive(b'{"id":"5-3","type":"x","status":"ready"}')
    await settled()
    assert [frame.name for frame in wire.frames] == [None, "end"]
    assert wire.reasons == [Reason.ENDED]
    assert broker.sinks == []


async def test_a_job_that_has_ended_is_read_without_a_subscription(start):
    feed, broker = await start(a_job(**OVER))
    assert broker.sinks == []
    assert [frame.name for frame in feed.log.slice(0, 10**6)][-1] == "end"
    assert feed.state.status == "ready"


async def test_a_job_that_was_restarted_during_the_start_is_for_another_feed(start):
    """The hash said `ready` when it was read for the viewer, and another thing with the log."""
    ended = a_job(**OVER)
    broker = Broker(a_job(status="queued", ended=at(2)))
    feed = Feed(ended, broker, Settings(), Totals(), lambda _: None, Pump(Timings()), Pace(15))
    with pytest.raises(BrokerUnavailable, match="restarted"):
        await feed.wait_started()
    assert feed.failed
    await feed.aclose()


async def test_a_start_that_fails_or_is_cancelled_is_told_to_everybody_who_waits():
    broker = Broker(a_job())
    broker.error = BrokerUnavailable("away")
    feed = Feed(a_job(), broker, Settings(), Totals(), lambda _: None, Pump(Timings()), Pace(15))
    broker.unsubscribe = lambda *_: None
    with pytest.raises(BrokerUnavailable, match="away"):
        await feed.wait_started()
    await feed.aclose()
    gone = Broker(a_job(exists=False))
    feed = Feed(a_job(), gone, Settings(), Totals(), lambda _: None, Pump(Timings()), Pace(15))
    with pytest.raises(JobNotFound):
        await feed.wait_started()
    assert gone.sinks == []
    await feed.aclose()
    slow = Broker(a_job())
    slow.latest = lambda *_, **__: asyncio.get_running_loop().create_future()
    feed = Feed(a_job(), slow, Settings(), Totals(), lambda _: None, Pump(Timings()), Pace(15))
    waiting = asyncio.create_task(feed.wait_started())
    await settled()
    assert not feed.ready
    await feed.aclose()
    with pytest.raises(BrokerUnavailable, match="closing"):
        await waiting
    assert slow.sinks == []


async def test_a_feed_that_is_let_go_takes_nobody_in(start):
    feed, _ = await start()
    feed.closing = True
    with pytest.raises(BrokerUnavailable, match="closing"):
        await feed.wait_started()


@pytest.mark.parametrize("crowd", [1, 200])
async def test_a_fault_of_ours_ends_its_viewers_with_a_gap_and_a_line(start, monkeypatch, caplog, crowd):
    """In the task, which serves a crowd, and in the pump."""
    feed, broker = await start()
    wire = [seated(feed) for _ in range(crowd)][0]
    monkeypatch.setattr(feed, "_grown", None)
    broker.sinks[0].receive(b'{"id":"5-3","type":"step"}')
    await settled()
    assert wire.reasons == [Reason.GAP]
    assert feed.failed
    assert "the feed of job a failed" in caplog.text


async def test_nothing_is_held_once_it_is_closed(start):
    feed, broker = await start()
    broker.sinks[0].receive(b"x" * 1000)
    assert feed.totals.window_bytes > 0
    assert feed.totals.inbox_bytes == 1000
    await feed.aclose()
    assert (feed.totals.window_bytes, feed.totals.inbox_bytes, feed.totals.state_bytes) == (0, 0, 0)
    assert broker.sinks == []


async def test_whether_events_are_retained(start):
    feed, _ = await start()
    own, _ = await start(a_job(epoch=None, position=None, log_owner=""))
    assert (feed.retained, own.retained) == (True, False)
    assert replace(feed.job, status="x").status == "x"
