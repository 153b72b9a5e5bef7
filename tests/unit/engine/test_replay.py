"""The past of one viewer, page by page: whole writes, gaps where the log has holes, and memory that is given back."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from hub.engine.memory import Past
from hub.engine.replay import Replay
from hub.errors import BrokerUnavailable
from hub.fanout.audience import CHUNK
from hub.feed.paging import AIM, FIRST
from hub.job.event import Event, EventId, JobId
from hub.job.frame import Frame
from hub.job.log import Log
from hub.job.record import Entry, Snapshot
from hub.totals import Totals

pytestmark = pytest.mark.looptime(start=1000)
JOB = JobId("j")
EPOCH = 7
LONGEST = 100_000
"""Bytes of an event over which viewers get a gap."""


def at(seq: int) -> EventId:
    return EventId(EPOCH, seq)


START = at(0).previous


class Broker:
    """Has a log; reads park while `open` is not set."""

    def __init__(self, seqs: range | list[int], *, size: int) -> None:
        self.log = [Entry(at(seq), b'{"type":"t"}'.ljust(size)) for seq in seqs]
        self.limits: list[int] = []
        self.open = asyncio.Event()
        self.open.set()
        self.is_down = False

    async def since(self, job: JobId, after: EventId, *, limit: int) -> Snapshot:
        assert job == JOB
        self.limits.append(limit)
        await self.open.wait()
        if self.is_down:
            raise BrokerUnavailable("expected a server, got none")
        return Snapshot(None, [entry for entry in self.log if entry.id > after][:limit])


class Reader:
    """A replay of a job whose window begins after `origin`; `window`: the sizes of what is in the window."""

    def __init__(
        self, seqs: range | list[int], *, origin: int = 9, size: int = 20, window: tuple[int, ...] = ()
    ) -> None:
        self.broker = Broker(seqs, size=size)
        self.totals = Totals()
        self.reaches = 0
        log = Log(origin=at(origin))
        log.append(
            Frame(Event(None, "x" * one, {}), event_id=at(origin + 1 + n)) for n, one in enumerate(window)
        )
        state = SimpleNamespace(frame=lambda position: Frame.control("state", {"position": str(position)}))
        feed = SimpleNamespace(id=JOB, log=log, state=state, reach=self._reach, past_frame=self._past_frame)
        self.replay = Replay(feed, self.broker, Past(8_000_000, self.totals))

    async def _reach(self) -> None:
        self.reaches += 1

    def _past_frame(self, entry: Entry) -> Frame | None:
        if len(entry.body) > LONGEST:
            return None
        return Frame(Event.from_body(entry.id, entry.body), event_id=entry.id)

    async def write(self, after: EventId) -> tuple[list[str], EventId]:
        """The next write: `3` for an event, words for the rest; and the cursor after it."""
        frames, after = await self.replay.frames(after)
        return [self._words(frame) for frame in frames], after

    def _words(self, frame: Frame) -> str:
        if frame.id is not None:
            return str(frame.id.seq)
        fields = frame.event.fields
        if frame.name == "gap":
            return f"{fields['reason']} {fields['from']} to {fields['to']}"
        return f"{frame.name} {fields['position']}"


async def test_the_past_ends_where_the_window_begins():
    reader = Reader(range(15))
    assert await reader.write(START) == ([str(seq) for seq in range(10)], at(9))
    assert reader.reaches == 0  # no gap, no need for the state


async def test_the_past_begins_after_what_the_viewer_has():
    assert await Reader(range(15)).write(at(6)) == (["7", "8", "9"], at(9))


@pytest.mark.parametrize("seqs", [range(15), range(10), []], ids=["a longer log", "the past alone", "no log"])
async def test_who_is_at_the_window_has_no_past(seqs):
    assert await Reader(seqs).write(at(9)) == ([], at(9))


async def test_what_the_log_has_lost_at_its_beginning_is_a_gap_and_the_state():
    reader = Reader(range(5, 15), origin=6)
    assert await reader.write(at(1)) == (["trimmed 7-2 to 7-4", "state 7-4", "5", "6"], at(6))
    assert reader.reaches == 1


async def test_what_the_log_has_lost_in_its_middle_is_a_gap_and_the_state():
    reader = Reader([0, 1, 4, 5], origin=5)
    assert await reader.write(START) == (["0", "1", "trimmed 7-2 to 7-3", "state 7-3", "4", "5"], at(5))


@pytest.mark.parametrize("seqs", [[], [10, 11]], ids=["an empty log", "only what is in the window"])
async def test_a_log_without_anything_before_the_window_is_a_gap_up_to_it(seqs):
    assert await Reader(seqs).write(at(4)) == (["trimmed 7-5 to 7-9", "state 7-9"], at(9))


async def test_a_log_that_stops_before_the_window_leaves_a_gap_up_to_it():
    reader = Reader([3, 4, 12], origin=9)
    assert await reader.write(at(2)) == (["3", "4", "trimmed 7-5 to 7-9", "state 7-9"], at(9))


async def test_an_event_over_the_limit_is_a_gap_of_its_own():
    reader = Reader(range(3), origin=2)
    reader.broker.log[1] = Entry(at(1), b"x" * (LONGEST + 1))
    assert await reader.write(START) == (["0", "oversize 7-1 to 7-1", "state 7-1"], at(1))
    assert reader.reaches == 1
    assert await reader.write(at(1)) == (["2"], at(2))


async def test_a_write_ends_with_the_event_that_fills_it_and_the_next_one_goes_on():
    reader = Reader(range(8), origin=7, size=CHUNK // 2)
    after, writes = START, []
    while after < at(7):
        write, after = await reader.write(after)
        writes.append(write)
    assert writes == [["0", "1"], ["2", "3"], ["4", "5"], ["6", "7"]]


async def test_a_page_is_read_once_for_all_of_its_writes():
    reader = Reader(range(FIRST), origin=FIRST - 1, size=CHUNK)
    for seq in range(FIRST):
        assert await reader.write(at(seq).previous) == ([str(seq)], at(seq))
    assert reader.broker.limits == [FIRST]


async def test_pages_grow_by_steps_while_events_are_small():
    reader = Reader(range(1000), origin=999)
    after = START
    while after < at(999):
        _, after = await reader.write(after)
    assert reader.broker.limits == [FIRST, 10 * FIRST, 500, 500]


async def test_a_first_page_is_as_long_as_the_window_lets_expect():
    reader = Reader(range(100), window=(AIM // 4, AIM // 4))
    assert await reader.replay.read(START) == at(0)
    assert reader.broker.limits == [4]


async def test_the_first_event_of_a_page_is_told():
    reader = Reader([5, 6])
    assert await reader.replay.read(at(1)) == at(5)
    assert await reader.replay.read(at(6)) is None


async def test_memory_is_reserved_for_a_page_before_it_is_read_and_held_as_it_is():
    reader = Reader(range(6), size=50, window=(100, 100))
    reader.broker.open.clear()
    reading = asyncio.create_task(reader.replay.read(START))
    await asyncio.sleep(0)
    assert reader.totals.past_bytes == 100 * reader.broker.limits[0]
    reader.broker.open.set()
    await reading
    assert reader.totals.past_bytes == 6 * 50
    reader.replay.drop()
    reader.replay.drop()
    assert reader.totals.past_bytes == 0


async def test_a_viewer_that_goes_keeps_no_event_of_its_page():
    reader = Reader(range(6), size=CHUNK)
    await reader.write(START)
    assert len(reader.replay._page) == 5
    reader.replay.drop()
    assert len(reader.replay._page) == 0


async def test_a_further_page_takes_the_place_of_the_one_before():
    reader = Reader(range(30), size=50, origin=29)
    await reader.write(START)
    await reader.write(at(19))
    assert reader.totals.past_bytes == 10 * 50


async def test_a_viewer_that_goes_during_a_read_holds_nothing_after_it():
    reader = Reader(range(6))
    reader.broker.open.clear()
    reading = asyncio.create_task(reader.replay.read(START))
    await asyncio.sleep(0)
    reader.replay.drop()
    assert reader.totals.past_bytes == 0
    reader.broker.open.set()
    await reading
    assert (reader.totals.past_bytes, len(reader.replay._page)) == (0, 0)


async def test_a_read_that_fails_is_given_back_with_the_viewer():
    reader = Reader(range(6))
    reader.broker.is_down = True
    with pytest.raises(BrokerUnavailable):
        await reader.replay.read(START)
    reader.replay.drop()
    assert reader.totals.past_bytes == 0


async def test_without_room_nothing_is_read():
    reader = Reader(range(6))
    reader.totals.past_bytes = 1_000_000
    with pytest.raises(BrokerUnavailable):
        await reader.replay.read(START)
    assert (reader.broker.limits, reader.totals.past_bytes) == ([], 1_000_000)
