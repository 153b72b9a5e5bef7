"""The hub: one feed per job, its life, who is let in, and that nothing stays behind. On a Redis in memory."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from hub.engine.caller import Caller
from hub.engine.drain import STEP
from hub.engine.hub import Hub
from hub.engine.patience import LIMIT
from hub.engine.view import View
from hub.errors import BrokerUnavailable, JobNotFound, Overloaded
from hub.fanout.wire import Reason
from hub.job.cursor import Wish
from hub.job.event import JobId, UserId
from hub.job.revocation import Revocation
from hub.settings import Settings
from tests.unit.scripted import JOB, USER, Recording, ScriptedBroker

pytestmark = pytest.mark.looptime(start=1000)
LINGER = 5.0


class Wire:
    """A connection that takes everything."""

    paused = False

    def __init__(self) -> None:
        self.frames: list[object] = []
        self.reasons: list[Reason] = []

    def write(self, frames: list[object]) -> None:
        self.frames += frames

    def finish(self, reason: Reason) -> None:
        self.reasons.append(reason)


@asynccontextmanager
async def running(broker: ScriptedBroker | None = None, **settings):
    """A hub; nothing of it is left at the end."""
    broker = broker or ScriptedBroker()
    broker.subscriber = SimpleNamespace(connected=True)
    hub = Hub(broker, Settings(**{"linger": LINGER, "position_check": 10**6, **settings}))
    before = asyncio.all_tasks()
    try:
        yield hub
    finally:
        await hub.aclose()
        left = {task for task in asyncio.all_tasks() - before if not task.done()}
        assert not left
        assert hub.totals.viewers == hub.totals.window_bytes == 0


def take_seat(view: View) -> tuple[Wire, object]:
    wire = Wire()
    seat = view.seat(wire, Recording())
    seat.catch_up()
    return wire, seat


async def test_viewers_of_a_job_share_a_feed():
    async with running() as hub:
        views = [await hub.view(Caller(USER), JOB, Wish()) for _ in range(5)]
        assert hub.broker.subscriptions == 1
        statistics = hub.statistics()
        assert (statistics.jobs, statistics.viewers) == (1, 5)
        for view in views:
            view.close()
        assert hub.statistics().viewers == 0


async def test_a_feed_stays_for_the_linger_and_then_leaves_nothing():
    async with running() as hub:
        (await hub.view(Caller(USER), JOB, Wish())).close()
        await asyncio.sleep(LINGER - 0.1)
        assert (hub.statistics().jobs, hub.broker.subscribed) == (1, True)
        await asyncio.sleep(0.2)
        assert (hub.statistics().jobs, hub.broker.subscribed) == (0, False)


async def test_who_comes_back_within_the_linger_finds_the_feed():
    async with running() as hub:
        (await hub.view(Caller(USER), JOB, Wish())).close()
        await asyncio.sleep(LINGER - 0.1)
        with await hub.view(Caller(USER), JOB, Wish()):
            await asyncio.sleep(2 * LINGER)
            assert hub.statistics().jobs == 1
        assert hub.broker.subscriptions == 1
        await asyncio.sleep(LINGER + 0.1)
        assert hub.statistics().jobs == 0


async def test_who_is_not_the_owner_is_refused_and_holds_nothing():
    async with running() as hub:
        with pytest.raises(JobNotFound):
            await hub.view(Caller(UserId("eve")), JOB, Wish())
        statistics = hub.statistics()
        assert (statistics.viewers, statistics.jobs, statistics.unavailable) == (0, 0, 0)


async def test_a_start_that_fails_is_counted_and_the_next_viewer_gets_a_new_feed():
    broker = ScriptedBroker()
    async with running(broker) as hub:
        subscribe, broker.subscribe = broker.subscribe, refuse_to_subscribe
        with pytest.raises(BrokerUnavailable):
            await hub.view(Caller(USER), JOB, Wish())
        assert (hub.statistics().viewers, hub.statistics().unavailable) == (0, 1)
        broker.subscribe = subscribe
        with await hub.view(Caller(USER), JOB, Wish()):
            assert hub.statistics().jobs == 1


async def refuse_to_subscribe(*_: object) -> None:
    raise BrokerUnavailable("expected a confirmation, got none")


async def test_a_start_that_hangs_is_given_up_after_the_limit():
    broker = ScriptedBroker()
    async with running(broker) as hub:
        broker.subscribe = hang
        with pytest.raises(BrokerUnavailable):
            await hub.view(Caller(USER), JOB, Wish())
        assert asyncio.get_running_loop().time() == 1000 + LIMIT
        assert hub.statistics().viewers == 0


async def hang(*_: object) -> None:
    await asyncio.Event().wait()


async def test_who_is_cancelled_on_the_way_in_holds_nothing():
    broker = ScriptedBroker()
    async with running(broker) as hub:
        broker.subscribe = hang
        coming = asyncio.create_task(hub.view(Caller(USER), JOB, Wish()))
        await asyncio.sleep(1)
        assert hub.statistics().viewers == 1
        coming.cancel()
        await asyncio.wait([coming])
        assert hub.statistics().viewers == 0
        await asyncio.sleep(LINGER + 0.1)
        assert hub.statistics().jobs == 0


async def test_a_job_that_changes_hands_ends_the_streams_of_its_old_owner():
    broker = ScriptedBroker()
    async with running(broker) as hub:
        old = await hub.view(Caller(USER), JOB, Wish())
        wire, _ = take_seat(old)
        broker.fields["user_id"] = "bob"
        with await hub.view(Caller(UserId("bob")), JOB, Wish()) as new:
            assert wire.reasons == [Reason.NOT_FOUND]
            other, _ = take_seat(new)
            assert other.reasons == []
            old.close()
            await asyncio.sleep(0)
            assert hub.statistics().jobs == 1
            assert broker.subscribed


async def test_a_refused_stranger_does_not_disturb_the_owners_stream():
    async with running() as hub:
        with await hub.view(Caller(USER), JOB, Wish()) as view:
            wire, _ = take_seat(view)
            with pytest.raises(JobNotFound):
                await hub.view(Caller(UserId("eve")), JOB, Wish())
            await asyncio.sleep(1)
            assert wire.reasons == []


async def test_a_deleted_job_ends_its_streams_when_the_next_viewer_asks():
    broker = ScriptedBroker()
    async with running(broker) as hub:
        with await hub.view(Caller(USER), JOB, Wish()) as view:
            wire, _ = take_seat(view)
            broker.delete_job()
            with pytest.raises(JobNotFound):
                await hub.view(Caller(USER), JOB, Wish())
            await asyncio.sleep(2)
            assert wire.reasons == [Reason.NOT_FOUND]


async def test_a_job_that_has_ended_needs_no_subscription_and_is_read_once():
    broker = ScriptedBroker()
    broker.publish(status="ready")
    async with running(broker) as hub:
        for _ in range(3):
            with await hub.view(Caller(USER), JOB, Wish()) as view:
                wire, _ = take_seat(view)
                assert wire.reasons == [Reason.ENDED]
        assert (broker.subscriptions, broker.snapshots) == (0, 1)


async def test_a_draining_hub_lets_nobody_in_and_tells_everybody():
    async with running(drain=1.0) as hub:
        assert hub.ready
        views = [await hub.view(Caller(USER), JOB, Wish()) for _ in range(3)]
        wires = [take_seat(view)[0] for view in views]
        waiting = asyncio.create_task(hub.drain())
        await asyncio.sleep(0)
        assert hub.statistics().draining
        assert not hub.ready
        with pytest.raises(Overloaded):
            await hub.view(Caller(USER), JOB, Wish())
        with pytest.raises(Overloaded):
            hub.check_open()
        await waiting
        assert [wire.reasons for wire in wires] == [[Reason.RESTART]] * 3
        for view in views:
            view.close()


async def test_a_drain_begins_once():
    async with running(drain=0.0) as hub:
        hub.begin_drain()
        moving = hub._moving
        await hub.drain()
        assert hub._moving is moving


async def test_the_drain_waits_for_who_is_on_the_way_in_and_sends_them_on():
    broker = ScriptedBroker()
    async with running(broker, drain=0.0) as hub:
        broker.subscribe = hang
        coming = asyncio.create_task(hub.view(Caller(USER), JOB, Wish()))
        await asyncio.sleep(1)
        await hub.drain()
        with pytest.raises((BrokerUnavailable, Overloaded)):
            await coming
        assert asyncio.get_running_loop().time() <= 1001 + 2 * STEP


async def test_who_is_read_while_the_drain_begins_is_not_let_in():
    broker = ScriptedBroker()
    async with running(broker, drain=0.0) as hub:
        broker.open = False
        coming = asyncio.create_task(hub.view(Caller(USER), JOB, Wish()))
        await asyncio.sleep(0.1)
        hub.draining = True
        broker.open = True
        while broker.parked:
            broker.release(0)
            await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await coming
        assert hub.statistics().viewers == 0


async def test_the_end_moves_those_away_who_are_still_there():
    async with running(drain=100.0) as hub:
        with await hub.view(Caller(USER), JOB, Wish()) as view:
            wire, _ = take_seat(view)
            await hub.aclose()
            assert wire.reasons == [Reason.RESTART]
        assert hub.statistics().jobs == 0


async def test_readiness_needs_the_subscription_connection():
    async with running() as hub:
        hub.broker.subscriber.connected = False
        assert not hub.ready


async def test_silent_audiences_are_found_by_format():
    async with running() as hub:
        with (
            await hub.view(Caller(USER), JOB, Wish()) as one,
            await hub.view(Caller(USER), JOB, Wish()) as other,
        ):
            fmt = Recording()
            one.seat(Wire(), fmt)
            other.seat(Wire(), Recording())
            now = asyncio.get_running_loop().time() + hub.settings.heartbeat
            assert [audience.format for audience in hub.feeds.pace.silent(now, fmt)] == [fmt]


async def test_a_stream_is_to_end_with_the_credentials_of_its_viewer():
    async with running(stream_age=100.0) as hub:
        with await hub.view(Caller(USER, expires=0.0), JOB, Wish()) as view:
            _, seat = take_seat(view)
            assert (seat.last, seat.until < asyncio.get_running_loop().time()) == (Reason.EXPIRED, True)
        with await hub.view(Caller(USER), JOB, Wish()) as view:
            _, seat = take_seat(view)
            assert seat.last is Reason.AGED
            assert 80 <= seat.until - asyncio.get_running_loop().time() <= 100


async def test_a_job_that_is_not_made_yet_is_waited_for():
    broker = ScriptedBroker()
    fields, broker.fields = broker.fields, {}
    async with running(broker) as hub:
        coming = asyncio.create_task(hub.view(Caller(USER), JOB, Wish(), wait=10))
        await asyncio.sleep(3)
        broker.fields = fields
        with await coming as view:
            assert view.job_id == JOB


async def test_a_job_begun_again_is_a_new_feed_and_the_old_log_stays_readable():
    """A viewer of the attempt that is over keeps what it reads; who comes now gets the new attempt."""
    broker = ScriptedBroker()
    broker.publish(status="ready")
    async with running(broker) as hub:
        old = await hub.view(Caller(USER), JOB, Wish())
        broker.fields["status"] = "code"
        broker.lose_numbers()
        broker.publish()
        with await hub.view(Caller(USER), JOB, Wish()) as new:
            assert new.log is not old.log
            assert hub.statistics().jobs == 1
            wire, _ = take_seat(old)
            assert wire.reasons == [Reason.ENDED]
            old.close()
            assert broker.subscribed  # by the new feed


async def test_a_feed_that_failed_while_it_was_held_is_replaced_without_a_second_word():
    broker = ScriptedBroker()
    async with running(broker) as hub:
        with await hub.view(Caller(USER), JOB, Wish()) as view:
            wire, _ = take_seat(view)
            hub.feeds.watched[JOB].expel()
            with await hub.view(Caller(USER), JOB, Wish()) as other:
                assert other.log is not view.log
            assert wire.reasons == [Reason.NOT_FOUND]


async def test_a_feed_that_failed_ends_with_its_last_viewer_and_does_not_linger():
    async with running() as hub:
        view = await hub.view(Caller(USER), JOB, Wish())
        hub.feeds.watched[JOB].expel()
        view.close()
        assert hub.statistics().jobs == 0


async def test_what_was_read_for_one_viewer_reaches_the_feed():
    """A new epoch in the hash, and a hash that is as it was."""
    broker = ScriptedBroker()
    broker.publish()
    async with running(broker) as hub:
        with await hub.view(Caller(USER), JOB, Wish()) as view:
            wire, _ = take_seat(view)
            for _ in range(3):
                (await hub.view(Caller(USER), JOB, Wish())).close()
            await asyncio.sleep(1)
            reads = broker.snapshots
            assert names_of(wire) == [None]
            broker.delete_log()
            broker.publish()  # a new epoch, whose message is lost
            broker.flight.clear()
            (await hub.view(Caller(USER), JOB, Wish())).close()
            await asyncio.sleep(1)
            assert names_of(wire) == [None, "resync", "state", None]
            assert broker.snapshots > reads


async def test_what_is_read_before_the_window_is_filled_is_left_to_the_feed():
    broker = ScriptedBroker()
    async with running(broker) as hub:
        broker.open = False
        coming = [asyncio.create_task(hub.view(Caller(USER), JOB, Wish())) for _ in range(2)]
        broker_turns = 0
        while not all(one.done() for one in coming) and broker_turns < 100:
            broker.release(0)
            broker_turns += 1
            await asyncio.sleep(0)
        first, other = [one.result() for one in coming]
        assert first.log is other.log
        first.close()
        other.close()
        broker.open = True


def names_of(wire: Wire) -> list[object]:
    return [frame.name for frame in wire.frames]


async def test_each_new_feed_is_planned_for_the_position_check():
    broker = ScriptedBroker()
    async with running(broker, position_check=50.0) as hub:
        with await hub.view(Caller(USER), JOB, Wish()) as view:
            wire, _ = take_seat(view)
            assert hub.feeds.watched[JOB].due > asyncio.get_running_loop().time()
            broker.publish()
            broker.flight.clear()  # the message is lost
            await asyncio.sleep(120)
            assert names_of(wire) == [None]


async def test_the_end_closes_the_door():
    async with running() as hub:
        await hub.aclose()
        with pytest.raises(Overloaded):
            hub.check_open()
        assert not hub.feeds.closing


async def test_a_job_that_is_over_is_shown_as_it_was_last_read():
    broker = ScriptedBroker()
    broker.publish(status="ready")
    async with running(broker) as hub:
        with await hub.view(Caller(USER), JOB, Wish()) as view:
            broker.fields["title"] = "new"
            with await hub.view(Caller(USER), JOB, Wish()):
                assert view.job.fields["title"] == "new"


@pytest.mark.parametrize(
    ("one", "reasons"),
    [
        (Revocation(USER, None, 10**10), [Reason.REVOKED]),
        (Revocation(USER, JOB, 10**10), [Reason.NOT_FOUND]),
        (Revocation(USER, JobId("another"), 10**10), []),
        (Revocation(UserId("eve"), None, 10**10), []),
    ],
)
async def test_a_revocation_ends_the_streams_that_it_concerns(one, reasons):
    """And tells the dashboards, whose sockets may have no view."""
    async with running() as hub:
        told = []
        hub.on_revoked = told.append
        with await hub.view(Caller(USER), JOB, Wish()) as view:
            wire, _ = take_seat(view)
            hub.revocations.add(one)
            assert (wire.reasons, told) == (reasons, [one])


async def test_credentials_from_before_a_revocation_open_nothing_and_newer_ones_do():
    async with running() as hub:
        hub.revocations.add(Revocation(USER, JOB, 100.0))
        with pytest.raises(JobNotFound):
            await hub.view(Caller(USER, issued=99.0), JOB, Wish())
        assert hub.totals.auth_refused_revoked == 1
        (await hub.view(Caller(USER, issued=101.0), JOB, Wish())).close()
        assert hub.totals.auth_refused_revoked == 1


async def test_at_the_bound_of_memory_jobs_that_nobody_watches_go_first():
    """And a job that is watched already is no new one."""
    async with running(memory=1000, linger=100) as hub:
        (await hub.view(Caller(USER), JOB, Wish())).close()
        assert hub.statistics().jobs == 1
        hub.totals.inbox_bytes += 1000
        (await hub.view(Caller(USER), JOB, Wish())).close()  # its own feed is there
        assert hub.totals.refused == 0
        assert not hub.feeds.make_room(1000)
        assert hub.statistics().jobs == 0
        with pytest.raises(Overloaded, match="1000 bytes"):
            await hub.view(Caller(USER), JOB, Wish())
        hub.totals.inbox_bytes -= 1
        assert hub.feeds.make_room(1000)
        hub.totals.inbox_bytes -= 999


async def test_what_is_being_freed_is_room():
    async with running(memory=1000) as hub:
        hub.totals.inbox_bytes += 1500
        hub.feeds._freed += 501
        assert hub.feeds.make_room(1000)
        hub.feeds._freed -= 1
        assert not hub.feeds.make_room(1000)
        hub.feeds._freed -= 500
        hub.totals.inbox_bytes -= 1500


async def test_the_window_of_a_job_that_is_let_go_counts_until_it_is_gone():
    broker = ScriptedBroker()
    broker.publish(size=100)
    async with running(broker, linger=1.0) as hub:
        with await hub.view(Caller(USER), JOB, Wish()) as view:
            size = view.log.size
            assert hub.statistics().held_bytes >= 3 * size > 0
        feed = hub.feeds.watched[JOB]
        hub.feeds._end(feed)
        hub.feeds._end(feed)
        assert (hub.feeds._freed, len(hub.feeds.closing), feed.closing) == (3 * size, 1, True)
        await asyncio.sleep(0.1)
        assert (hub.feeds._freed, len(hub.feeds.closing)) == (0, 0)


async def test_the_past_as_payloads_leaves_out_what_the_filter_does():
    """Chunks without anything for this viewer are skipped, up to the window."""
    broker = ScriptedBroker()
    for _ in range(30):
        broker.publish()
    async with running(broker, window_events=4) as hub:
        with await hub.view(Caller(USER), JOB, Wish(from_="start")) as view:
            frames = []
            while (payload := await hub.read_payload(view, Recording())) is not None:
                frames += payload
            assert len(frames) == 26
        with await hub.view(Caller(USER), JOB, Wish(from_="start", types=frozenset({"none"}))) as view:
            assert await hub.read_payload(view, Recording()) is None
