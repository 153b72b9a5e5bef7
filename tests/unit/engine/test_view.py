"""One viewer's way in: where it begins, its past, gaps and resyncs, the seat. On a Redis in memory."""

from __future__ import annotations

import asyncio
import json
import math

import pytest

from hub.engine.caller import Caller
from hub.engine.hub import Hub
from hub.engine.patience import LIMIT
from hub.engine.view import View
from hub.errors import BrokerUnavailable
from hub.fanout.audience import CHUNK
from hub.fanout.wire import Reason
from hub.feed import paging
from hub.feed.paging import AIM, MOST
from hub.job.cursor import Wish
from hub.job.event import EventId, UserId
from hub.job.frame import Frame
from tests.unit.engine.test_hub import Wire, running, take_seat
from tests.unit.scripted import JOB, USER, Recording, ScriptedBroker

pytestmark = pytest.mark.looptime(start=1000)


def published(number: int, *, size: int = 0) -> ScriptedBroker:
    """A broker whose log has this many events."""
    broker = ScriptedBroker()
    for _ in range(number):
        broker.publish(size=size)
    return broker


async def past(hub: Hub, view: View) -> list[Frame]:
    frames: list[Frame] = []
    while more := await hub.read_past(view):
        frames += more
    return frames


def names(frames: list[Frame]) -> list[str]:
    """`3` for the event with that number, and the name of each control frame."""
    return [frame.name or str(frame.id.seq) for frame in frames]


async def watched(hub: Hub, wish: Wish) -> list[str]:
    """All that a viewer with this wish is given of what is there already."""
    with await hub.view(Caller(USER), JOB, wish) as view:
        frames = [*view.preamble, *await past(hub, view)]
        wire, _ = take_seat(view)
        return names([*frames, *wire.frames])


def cursor(broker: ScriptedBroker, seq: int) -> str:
    return f"{broker.epoch}-{seq}"


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        (Wish(), range(20)),
        (Wish(from_="live"), []),
        (Wish(from_=3), range(17, 20)),
        (Wish(from_=100), range(20)),
    ],
)
async def test_without_a_cursor_the_wish_says_where(wish, expected):
    for window in (1000, 8):
        async with running(published(20), window_events=window) as hub:
            assert await watched(hub, wish) == [str(one) for one in expected], window


@pytest.mark.parametrize("seq", [0, 7, 11, 12, 13, 18, 19])
async def test_a_cursor_goes_on_after_it_in_the_window_and_before_it(seq):
    broker = published(20)
    async with running(broker, window_events=8) as hub:
        assert await watched(hub, Wish(cursor=cursor(broker, seq))) == [
            str(one) for one in range(seq + 1, 20)
        ]


async def test_the_window_needs_no_read():
    broker = published(20)
    async with running(broker, window_events=8) as hub:
        await watched(hub, Wish(cursor=cursor(broker, 11)))
        assert broker.snapshots == 1  # the feed's own


@pytest.mark.parametrize(
    ("text", "reason"), [("nonsense", "malformed"), ("1-1", "unknown"), ("99999999999999-0", "unknown")]
)
async def test_a_cursor_that_nobody_knows_is_said_to_be(text, reason):
    async with running(published(5)) as hub:
        with await hub.view(Caller(USER), JOB, Wish(cursor=text)) as view:
            resync, state = view.preamble
            assert (resync.name, state.name) == ("resync", "state")
            assert resync.event.fields["reason"] == reason
            assert json.loads(state.body)["position"] == str(view.seen) == f"{hub.broker.epoch}-4"


async def test_what_the_log_has_lost_is_a_gap_or_a_resync():
    broker = published(40)
    broker.trim(25)  # 15 is the oldest
    async with running(broker, window_events=8) as hub:
        with await hub.view(Caller(USER), JOB, Wish()) as view:
            frames = [*view.preamble, *await past(hub, view)]
            assert names(frames)[:3] == ["gap", "state", "15"]
            gap = frames[0].event.fields
            assert (gap["from"], gap["to"], gap["reason"]) == (
                cursor(broker, 0),
                cursor(broker, 14),
                "trimmed",
            )
            assert json.loads(frames[1].body)["position"] == cursor(broker, 14)
        with await hub.view(Caller(USER), JOB, Wish(cursor=cursor(broker, 3))) as view:
            assert view.preamble[0].event.fields["reason"] == "trimmed"
        with await hub.view(Caller(USER), JOB, Wish(cursor=cursor(broker, 14))) as view:
            assert view.preamble == []
            assert names(await past(hub, view))[0] == "15"


async def test_a_log_that_begins_late_says_so_from_the_start_only():
    broker = published(40)
    broker.trim(5)
    async with running(broker, window_events=8) as hub:
        assert (await watched(hub, Wish()))[:3] == ["gap", "state", "35"]
        assert await watched(hub, Wish(from_=3)) == ["37", "38", "39"]
        assert await watched(hub, Wish(from_="live")) == []


async def test_a_log_that_is_trimmed_while_it_is_read_leaves_a_gap(monkeypatch):
    monkeypatch.setattr(paging, "MOST", 50)
    broker = published(400)
    async with running(broker, window_events=8) as hub:
        with await hub.view(Caller(USER), JOB, Wish()) as view:
            first = await hub.read_past(view)
            broker.trim(100)  # 300 is the oldest
            rest = await past(hub, view)
            told = names([*first, *rest])
    at = told.index("gap")
    assert told[at + 1] == "state"
    assert told[:at] == [str(one) for one in range(at)]
    assert told[at + 2 :] == [str(one) for one in range(300, 392)]


async def test_a_log_that_goes_away_while_it_is_read_leaves_a_gap_up_to_the_window(monkeypatch):
    monkeypatch.setattr(paging, "MOST", 50)
    broker = published(400)
    async with running(broker, window_events=8) as hub:
        with await hub.view(Caller(USER), JOB, Wish()) as view:
            first = await hub.read_past(view)
            broker.log.clear()
            rest = await past(hub, view)
            last = first[-1].id.seq
            view.position  # noqa: B018  # the seat has a place
            assert rest[-2].event.fields["from"] == cursor(broker, last + 1)
            assert rest[-2].event.fields["to"] == cursor(broker, 391)
            wire, _ = take_seat(view)
            assert names(wire.frames) == [str(one) for one in range(392, 400)]


async def test_the_past_is_read_in_pages_that_follow_the_size_of_events():
    asked: list[int] = []

    class Counting(ScriptedBroker):
        async def since(self, job, after, *, limit):
            asked.append(limit)
            return await super().since(job, after, limit=limit)

    async def pages(size: int, number: int) -> list[int]:
        broker = Counting()
        for _ in range(number):
            broker.publish(size=size)
        asked.clear()
        async with running(broker, window_events=1, max_event_bytes=10**7) as hub:
            with await hub.view(Caller(USER), JOB, Wish()) as view:
                assert [frame.id.seq for frame in await past(hub, view)] == list(range(number - 1))
        return list(asked)

    assert set(await pages(10, 2000)) == {MOST}
    medium = await pages(AIM // 50, 120)
    assert all(45 <= limit <= 50 for limit in medium)
    assert set(await pages(AIM, 20)) == {1}
    assert set(await pages(10 * AIM, 5)) == {1}


async def test_one_write_of_the_past_is_a_chunk_at_most_and_an_event():
    async with running(published(60, size=CHUNK // 10), window_events=1, max_event_bytes=10**7) as hub:
        with await hub.view(Caller(USER), JOB, Wish()) as view:
            while frames := await hub.read_past(view):
                assert sum(frame.size for frame in frames) <= CHUNK + CHUNK // 10 + 100


async def test_an_event_over_the_limit_is_a_gap_in_the_past_too():
    broker = published(3)
    broker.publish(size=500)
    for _ in range(5):
        broker.publish()
    async with running(broker, window_events=3, max_event_bytes=300) as hub:
        assert await watched(hub, Wish()) == ["0", "1", "2", "gap", "state", "4", "5", "6", "7", "8"]


async def test_a_cursor_ahead_of_the_window_waits_until_the_window_has_it():
    broker = published(5)
    async with running(broker) as hub:
        with await hub.view(Caller(USER), JOB, Wish(from_="live")):
            broker.down = True  # its messages do not arrive
            ahead = broker.publish().id
            broker.down = False
            with await hub.view(Caller(USER), JOB, Wish(cursor=str(ahead))) as view:
                assert (view.preamble, view.seen) == ([], ahead)
        with await hub.view(Caller(USER), JOB, Wish(cursor=cursor(broker, 77))) as view:
            assert view.preamble[0].event.fields["reason"] == "unknown"


async def test_a_cursor_of_the_end_of_a_job_that_is_over_is_told_to_be():
    broker = published(3)
    end = broker.publish(status="ready").id
    async with running(broker) as hub:
        for text in (str(end), "0-0"):
            with await hub.view(Caller(USER), JOB, Wish(cursor=text)) as view:
                assert view.begin.over
        with await hub.view(Caller(USER), JOB, Wish(cursor=cursor(broker, 1))) as view:
            assert not view.begin.over
            wire, _ = take_seat(view)
            assert (names(wire.frames), wire.reasons) == (["2", "3", "end"], [Reason.ENDED])


async def test_only_the_end_of_a_job_that_is_over_can_be_asked_for():
    broker = published(3)
    broker.publish(status="ready")
    async with running(broker) as hub:
        with await hub.view(Caller(USER), JOB, Wish()) as view:
            view.skip_to_end()
            wire, _ = take_seat(view)
            assert names(wire.frames) == ["end"]
    async with running(published(3)) as hub:
        with await hub.view(Caller(USER), JOB, Wish()) as view:
            view.skip_to_end()
            wire, _ = take_seat(view)
            assert (names(wire.frames), wire.reasons) == ([], [])


async def test_a_view_says_what_its_job_is():
    broker = published(2)
    async with running(broker) as hub:
        with await hub.view(Caller(USER), JOB, Wish(types=frozenset({"t"}))) as view:
            assert (view.status, view.job.user_id, view.log.end) == ("code", USER, 2)
            assert f'"position":"{cursor(broker, 1)}"' in view.state_text()
            _, seat = take_seat(view)
            assert seat.audience.types == {"t"}


async def test_closing_twice_is_closing_once():
    async with running() as hub:
        first, other = await hub.view(Caller(USER), JOB, Wish()), await hub.view(Caller(USER), JOB, Wish())
        _, seat = take_seat(first)
        first.close()
        first.close()
        assert hub.statistics().viewers == 1
        assert seat not in seat.audience.seats
        other.close()
        with pytest.raises(AssertionError):
            other.seat(Wire(), Recording())


async def test_a_settled_view_keeps_nothing_of_its_beginning():
    async with running(published(20), window_events=4) as hub:
        with await hub.view(Caller(USER), JOB, Wish(cursor="nonsense")) as view:
            take_seat(view)
            view.settle()
            assert (view.preamble, view._replay, view.wish) == ([], None, Wish())


async def test_a_seat_that_is_taken_when_the_hub_has_ended_is_sent_away():
    async with running() as hub:
        view = await hub.view(Caller(USER), JOB, Wish())
        await hub.aclose()
        wire, _ = take_seat(view)
        await asyncio.sleep(0)
        assert wire.reasons == [Reason.RESTART]
        view.close()


async def test_a_log_that_does_not_answer_is_given_up(monkeypatch):
    monkeypatch.setattr(paging, "MOST", 50)
    broker = published(400)
    async with running(broker, window_events=4) as hub:
        with await hub.view(Caller(USER), JOB, Wish()) as view:
            broker.since = hang
            with pytest.raises(BrokerUnavailable):
                while await hub.read_past(view):
                    pass
        assert asyncio.get_running_loop().time() <= 1000 + LIMIT + 1


async def hang(*_: object, **__: object) -> None:
    await asyncio.Event().wait()


async def test_the_position_of_a_view_whose_past_meets_the_window():
    broker = published(20)
    async with running(broker, window_events=8) as hub:
        with await hub.view(Caller(USER), JOB, Wish(cursor=cursor(broker, 3))) as view:
            assert view.seen == EventId(broker.epoch, 3)
            await past(hub, view)
            assert view.position == view.log.start


async def test_how_long_a_join_took_is_measured_until_the_seat():
    async with running(published(3)) as hub:
        with await hub.view(Caller(USER), JOB, Wish()) as view:
            await asyncio.sleep(2)
            take_seat(view)
        joins = hub.totals.timings.joins["sse"]
        assert (joins.count, joins.total) == (1, pytest.approx(2.0))


async def test_who_may_not_watch_any_more_is_given_nothing_of_the_past_nor_of_the_window():
    async with running(published(20), window_events=8) as hub:
        with await hub.view(Caller(USER), JOB, Wish()) as view:
            assert not view.expelled
            view.expel(Reason.REVOKED)
            assert view.expelled
            assert await past(hub, view) == []
            wire, _ = take_seat(view)
            await asyncio.sleep(0)
            assert (wire.frames, wire.reasons) == ([], [Reason.REVOKED])


@pytest.mark.parametrize(("number", "preamble"), [(8, []), (9, ["gap", "state"]), (12, ["gap", "state"])])
async def test_what_no_log_has_any_more_is_a_gap_for_who_begins_at_the_start(number, preamble):
    """The job has no retained log, and the window has room for eight events."""
    broker = ScriptedBroker()
    async with running(broker, window_events=8) as hub:
        with await hub.view(Caller(USER), JOB, Wish()) as first:
            for _ in range(number):
                broker.publish(foreign=True)
                broker.deliver()
            await asyncio.sleep(0.1)
            with await hub.view(Caller(USER), JOB, Wish()) as view:
                assert names(view.preamble) == preamble
                assert all(one.event.fields["to"] == str(view.log.origin) for one in view.preamble[:1])
            for wish in (Wish(from_="live"), Wish(from_=3), Wish(cursor=str(first.log.seen_at(5)))):
                with await hub.view(Caller(USER), JOB, wish) as view:
                    assert "gap" not in names(view.preamble)


async def test_who_gets_the_state_in_place_of_events_gets_all_of_it():
    """Though the viewers before needed nothing of the retained log."""
    async with running(published(20)) as hub:
        with await hub.view(Caller(USER), JOB, Wish(from_="live")) as live:
            assert not live.is_whole
            with await hub.view(Caller(USER), JOB, Wish(cursor="nonsense")) as view:
                assert names(view.preamble) == ["resync", "state"]
                assert view.is_whole
                assert '"g":19' in view.preamble[1].body


async def test_a_cursor_ahead_of_the_window_that_arrives_while_it_is_looked_up_is_no_resync():
    class Late(ScriptedBroker):
        async def since(self, job, after, *, limit):
            self.deliver()
            await asyncio.sleep(0.1)
            return await super().since(job, after, limit=limit)

    broker = Late()
    broker.publish()
    async with running(broker) as hub:
        with await hub.view(Caller(USER), JOB, Wish(from_="live")):
            ahead = broker.publish().id
            with await hub.view(Caller(USER), JOB, Wish(cursor=str(ahead))) as view:
                assert (view.preamble, view.seen) == ([], ahead)


async def test_new_credentials_move_the_end_of_a_stream_whether_it_has_a_seat_or_not():
    async with running(stream_age=10**6) as hub:
        with (
            await hub.view(Caller(USER, expires=10.0**10), JOB, Wish()) as seated,
            await hub.view(Caller(USER), JOB, Wish()) as other,
        ):
            _, seat = take_seat(seated)
            seated.renew(Caller(USER), 1500.0)
            other.renew(Caller(USER), 1600.0)
            _, later = take_seat(other)
            assert (seat.until, seat.last) == (1500.0, Reason.EXPIRED)
            assert (later.until, later.last) == (1600.0, Reason.EXPIRED)


async def test_only_of_a_guest_the_caller_is_kept():
    async def yes(_: object) -> bool:
        return True

    eve = Caller(UserId("eve"), ask=yes)
    async with running() as hub:
        with (
            await hub.view(Caller(USER), JOB, Wish()) as own,
            await hub.view(Caller(USER, only=JOB), JOB, Wish()) as by_ticket,
            await hub.view(eve, JOB, Wish()) as guest,
        ):
            assert (own.guest, by_ticket.guest, guest.guest) == (None, Caller(USER, only=JOB), eve)
            renewed = Caller(UserId("eve"), issued=5.0, ask=yes)
            own.renew(Caller(USER), 2000.0)
            guest.renew(renewed, 2000.0)
            assert (own.guest, guest.guest) == (None, renewed)


async def test_the_last_seat_of_an_audience_takes_it_along():
    async with running() as hub:
        with await hub.view(Caller(USER), JOB, Wish()):
            view = await hub.view(Caller(USER), JOB, Wish())
            take_seat(view)
            feed = hub.feeds.watched[JOB]
            assert len(feed.audiences) == 1
            view.close()
            assert feed.audiences == []


async def test_a_seat_on_a_shared_wire_has_no_end_of_its_own():
    """And begins where it is told to."""
    async with running(published(5)) as hub:
        with await hub.view(Caller(USER, expires=10.0**10), JOB, Wish()) as view:
            seat = view.share(Wire(), Recording(), at=view.log.end - 1)
            assert (seat.until, seat.position) == (math.inf, view.log.end - 1)


async def test_a_viewer_makes_the_hub_read_no_more_of_the_log_than_it_needs():
    async with running(published(50)) as hub:
        with (
            await hub.view(Caller(USER), JOB, Wish(from_="live")) as live,
            await hub.view(Caller(USER), JOB, Wish(from_=3)) as view,
        ):
            assert await past(hub, view) == []
            wire, _ = take_seat(view)
            assert names(wire.frames) == ["47", "48", "49"]
            assert not live.is_whole
            assert view.log.end - view.log.start == 3
