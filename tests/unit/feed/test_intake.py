"""Messages and the retained log, merged step by step: each batch is compared with what a reader of the log would see."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from hub.errors import BrokerUnavailable, JobNotFound
from hub.fanout.audience import CHUNK
from hub.feed import retained as module
from hub.feed.depth import Depth
from hub.feed.inbox import Inbox
from hub.feed.intake import Intake
from hub.feed.retained import Retained
from hub.feed.window import Window
from hub.job.event import EventId, JobId, UserId
from hub.job.record import Entry, Job, Snapshot
from hub.settings import Settings
from hub.totals import Totals

E = 5


def at(seq: int) -> EventId:
    return EventId(E, seq)


def entry(seq: int, status: str | None = None, size: int = 0) -> Entry:
    fields = {"type": "step", "n": seq, "x": "x" * size} | ({} if status is None else {"status": status})
    return Entry(at(seq), json.dumps(fields).encode())


def message(seq: int | None, **fields) -> bytes:
    head = {} if seq is None else {"id": f"{E}-{seq}"}
    return json.dumps({**head, "type": "step", **fields}, separators=(",", ":")).encode()


class Rig:
    """An intake whose log has so many events; `reads` counts what it asks for."""

    def __init__(self, monkeypatch, events: int = 3, *, shared: bool = True, **settings) -> None:
        monkeypatch.setattr(module, "RETRY", 0)
        monkeypatch.setattr(module, "SETTLE", 0)
        self.job = Job(
            JobId("a"),
            "code",
            UserId("ada"),
            E if shared else None,
            at(events - 1) if shared and events else None,
            log_owner="ada" if shared else "",
        )
        self.log = [entry(n) for n in range(events)] if shared else []
        self.totals = Totals()
        self.settings = Settings(**settings)
        self.window = Window(JobId("a"), self.settings, self.totals)
        self.inbox = Inbox(self.totals, longest=self.settings.max_event_bytes)
        depth = Depth(self.window, self, self.settings, None)
        self.retained = Retained(self.window, self.inbox, depth, self, self.settings)
        self.intake = Intake(self.window, self.inbox, self.retained, self.totals)
        self.reads: list[EventId] = []
        self.errors = 0
        self.retained.fill(Snapshot(self.job, tuple(self.log)), whole=True)

    async def since(self, _job, after, *, limit):
        self.reads.append(after)
        if self.errors:
            self.errors -= 1
            raise BrokerUnavailable("away")
        return Snapshot(self.job, tuple([one for one in self.log if one.id > after][:limit]))

    async def latest(self, _job, *, limit, size):
        return Snapshot(self.job, tuple(self.log))

    def publish(self, *seqs: int, told: bool = True, **fields) -> None:
        """Events that the log has, and the channel too if `told`."""
        for seq in seqs:
            self.log.append(replace(entry(seq), body=message(None, n=seq, **fields)))
            self.job = replace(self.job, position=at(seq))
            if told:
                self.inbox.receive(message(seq, n=seq, **fields))

    async def batch(self) -> list[str]:
        """The next batch: numbers of events, and names of control frames. `...` if there is none."""
        try:
            async with asyncio.timeout(0.05):
                frames = await anext(self.intake)
        except TimeoutError:
            return ["..."]
        except StopAsyncIteration:
            return ["over"]
        return [frame.name or str(frame.event.fields.get("n", frame.event.status)) for frame in frames]


@pytest.fixture
def rig(monkeypatch):
    return lambda *args, **options: Rig(monkeypatch, *args, **options)


def test_a_job_that_is_gone_fills_nothing(rig):
    one = rig()
    for job in (None, replace(one.job, exists=False)):
        with pytest.raises(JobNotFound):
            one.retained.fill(Snapshot(job, ()), whole=True)


async def test_messages_that_follow_are_one_batch_and_need_no_read(rig):
    one = rig()
    one.publish(3, 4, 5)
    assert await one.batch() == ["3", "4", "5"]
    assert (one.reads, one.window.last, one.totals.heals) == ([], at(5), 0)


async def test_what_comes_twice_or_late_is_dropped(rig):
    one = rig()
    one.inbox.receive(message(1, n=1))
    one.publish(3)
    one.inbox.receive(message(3, n=3))
    assert await one.batch() == ["3"]
    assert await one.batch() == ["..."]
    assert (len(one.inbox), one.reads) == (0, [])


async def test_a_hole_is_read_from_the_log_once(rig):
    one = rig()
    one.publish(3, 4, told=False)
    one.publish(5)
    assert await one.batch() == ["3", "4"]
    assert await one.batch() == ["5"]
    assert (len(one.reads), one.totals.heals) == (1, 1)


async def test_a_hole_that_the_log_does_not_fill_is_a_gap(rig):
    one = rig()
    one.inbox.receive(message(5, n=5))
    assert await one.batch() == ["gap", "state"]
    assert await one.batch() == ["5"]
    assert (len(one.reads), one.totals.gaps) == (1, 1)


async def test_a_batch_ends_with_a_full_write(rig):
    one = rig()
    for seq in (3, 4, 5):
        one.publish(seq, x="x" * (CHUNK // 2 + 1))
    assert await one.batch() == ["3", "4"]
    assert await one.batch() == ["5"]


async def test_pages_of_the_log_end_with_a_full_write_too(rig):
    one = rig()
    one.publish(3, 4, 5, told=False, x="x" * (CHUNK // 2 + 1))
    one.inbox.doubt()
    assert await one.batch() == ["3", "4"]
    assert await one.batch() == ["5"]


async def test_a_log_longer_than_a_read_is_read_to_its_end(rig):
    one = rig(0)
    one.publish(*range(60), told=False)
    one.inbox.doubt()
    seen = []
    while (batch := await one.batch()) != ["..."]:
        seen += batch
    assert seen == [str(n) for n in range(60)]
    assert len(one.reads) == 2


async def test_the_terminal_event_is_the_last_of_its_batch(rig):
    one = rig()
    one.publish(3)
    one.publish(4, status="ready")
    one.inbox.receive(message(5, n=5))
    assert await one.batch() == ["3", "4", "end"]
    assert await one.batch() == ["over"]


async def test_what_follows_a_terminal_event_in_the_log_is_not_shown(rig):
    one = rig()
    one.publish(3, told=False, status="failed")
    one.publish(4, told=False)
    one.inbox.doubt()
    assert await one.batch() == ["3", "end"]


async def test_an_id_of_another_log_is_looked_up_and_then_refused(rig):
    one = rig()
    one.inbox.receive(b'{"id":"9-0","type":"step","n":9}')
    one.publish(3)
    assert await one.batch() == ["3"]
    assert (len(one.reads), one.totals.strangers) == (1, 1)
    one.inbox.receive(b'{"id":"9-1","type":"step","n":9}')
    one.publish(4)
    assert await one.batch() == ["4"]
    assert len(one.reads) == 2


async def test_strangers_that_came_before_the_look_cost_no_other_one(rig):
    one = rig()
    for seq in range(3):
        one.inbox.receive(b'{"id":"9-%d","type":"step"}' % seq)
    one.publish(3)
    assert await one.batch() == ["3"]
    assert (len(one.reads), one.totals.strangers) == (1, 3)


async def test_a_message_over_the_limit_is_a_gap_in_its_place(rig):
    one = rig(max_event_bytes=100)
    one.publish(3)
    one.log.append(entry(4, size=200))
    one.job = replace(one.job, position=at(4))
    one.inbox.receive(message(4, x="x" * 200))
    one.publish(5)
    assert await one.batch() == ["3"]
    assert await one.batch() == ["gap", "state"]
    assert await one.batch() == ["5"]
    assert one.window.last == at(5)


async def test_one_without_an_id_is_a_gap_too_and_one_that_does_not_follow_is_read(rig):
    one = rig(max_event_bytes=100)
    one.inbox.receive(message(None, x="x" * 200))
    assert await one.batch() == ["gap", "state"]
    one.publish(3, told=False)
    one.log.append(entry(4, size=200))
    one.job = replace(one.job, position=at(4))
    one.inbox.receive(message(4, x="x" * 200))
    assert await one.batch() == ["3"]
    assert await one.batch() == ["gap", "state"]
    assert await one.batch() == ["..."]


async def test_where_ids_are_the_feeds_own_the_gap_uses_one_up(rig):
    own = rig(shared=False, max_event_bytes=100)
    before = own.window.last
    own.inbox.receive(message(None, x="x" * 200))
    assert await own.batch() == ["gap", "state"]
    assert own.window.last == before.next


# --- what may be lost


async def test_a_lost_connection_is_a_look_and_no_gap_where_all_is_in_the_log(rig):
    one = rig()
    one.publish(3, told=False)
    one.inbox.missed()
    assert await one.batch() == ["3"]
    assert await one.batch() == ["..."]
    assert one.totals.gaps == 0


async def test_it_is_a_gap_where_events_without_an_id_went_out(rig):
    one = rig()
    one.inbox.receive(message(None, n="bare"))
    assert await one.batch() == ["bare"]
    one.publish(3, told=False)
    one.inbox.missed()
    assert await one.batch() == ["3"]
    assert await one.batch() == ["gap", "state"]
    own = rig(shared=False)
    before = own.window.last
    own.inbox.missed()
    assert await own.batch() == ["gap", "state"]
    assert own.window.last == before.next


async def test_a_redis_that_is_away_is_asked_until_it_answers(rig):
    one = rig()
    one.errors = 3
    one.publish(3, told=False)
    one.inbox.doubt()
    assert await one.batch() == ["3"]
    assert len(one.reads) == 4


async def test_a_trimmed_log_is_a_gap_up_to_its_position(rig):
    one = rig()
    one.log, one.job = [], replace(one.job, position=at(9))
    one.inbox.doubt()
    assert await one.batch() == ["gap", "state"]
    assert one.window.last == at(9)
    one.publish(10)
    assert await one.batch() == ["10"]


async def test_a_job_of_another_owner_ends_the_intake_and_a_deleted_one_its_log(rig):
    one = rig()
    one.job = replace(one.job, user_id=UserId("eve"))
    one.inbox.doubt()
    with pytest.raises(JobNotFound):
        await anext(one.intake)
    other = rig()
    other.job = replace(other.job, exists=False)
    other.inbox.doubt()
    assert await other.batch() == ["end"]
    assert other.window.log.deleted


async def test_a_log_that_is_lost_drops_what_waits_with_its_numbers(rig):
    one = rig()
    one.job = replace(one.job, epoch=None, position=None, exists=True, log_owner="")
    one.inbox.doubt()
    one.inbox.receive(message(3, n=3))
    one.inbox.receive(message(None, n="bare"))
    assert await one.batch() == ["resync", "state"]
    assert await one.batch() == ["bare"]
    assert await one.batch() == ["..."]


async def test_a_log_that_begins_is_shared_from_then(rig):
    own = rig(shared=False)
    own.job = replace(own.job, epoch=E, log_owner="ada")
    own.publish(0, 1, told=False)
    own.inbox.doubt()
    assert await own.batch() == ["0", "1"]
    assert own.window.numbering.shared


async def test_a_log_that_was_rolled_back_goes_on_after_what_is_left_of_it(rig):
    one = rig()
    one.log, one.job = one.log[:2], replace(one.job, position=at(1))
    one.inbox.doubt()
    one.inbox.receive(message(3, n=3))
    assert await one.batch() == ["resync", "state"]
    one.publish(2, told=False)
    one.inbox.doubt()
    assert await one.batch() == ["2"]
    assert await one.batch() == ["..."]


# --- the end of which only the hash knows


async def test_the_hash_ends_a_job_if_no_event_does(rig):
    one = rig()
    one.window.state.job = replace(one.job, status="failed")
    one.retained.end_soon()
    one.retained.end_soon()
    assert await one.batch() == ["failed", "end"]
    assert await one.batch() == ["over"]


async def test_an_event_that_comes_in_time_is_the_end(rig):
    one = rig()
    one.window.state.job = replace(one.job, status="ready")
    one.retained.end_soon()
    one.publish(3, status="ready", note="the event")
    assert await one.batch() == ["3", "end"]
    await asyncio.sleep(0.01)
    assert await one.batch() == ["over"]


async def test_a_job_that_goes_on_is_not_ended(rig):
    one = rig()
    one.retained.end_soon()
    assert await one.batch() == ["..."]
    one.window.state.job = replace(one.job, status="ready")
    one.retained.end_soon()
    one.window.state.job = one.job
    await asyncio.sleep(0.01)
    assert await one.batch() == ["..."]


async def test_a_look_ends_a_job_whose_terminal_event_the_log_had(rig):
    """It was shown before its status was known to be terminal, or trimmed: the hash says it."""
    one = rig()
    one.job = replace(one.job, status="done", terminal=frozenset({"done"}), ended=at(2))
    one.inbox.doubt()
    assert await one.batch() == ["done", "end"]
    early = rig()
    early.job = replace(early.job, status="ready", ended=at(4), position=at(2))
    early.inbox.doubt()
    assert await early.batch() == ["ready", "end"]  # a moment later


# --- the position check


async def test_a_check_reads_only_what_differs_and_nothing_waits_for(rig):
    one = rig()
    assert not one.intake.compare(one.job)
    newer = replace(one.job, fields={"title": "x"})
    assert not one.intake.compare(newer)
    assert one.window.state.job is newer
    ahead = replace(one.job, position=at(3))
    one.inbox.receive(message(3, n=3))
    assert not one.intake.compare(ahead)
    assert await one.batch() == ["3"]
    assert one.intake.compare(one.job)
    assert one.intake.compare(None) is False  # the look is waiting
    one.publish(4, status="ready")
    one.inbox.clear()
    one.inbox.doubt()
    while await one.batch() != ["over"]:
        pass
    assert not one.intake.compare(ahead)
