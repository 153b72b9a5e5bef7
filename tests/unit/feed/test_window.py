"""What a job's hash, a message and a retained event are to the window, one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hub.feed import window as module
from hub.feed.window import Window
from hub.job.event import FINAL, Event, EventId, JobId, UserId
from hub.job.record import Entry, Job
from hub.settings import Settings
from hub.totals import Totals

E = 5
ADA, EVE, NOBODY = UserId("ada"), UserId("eve"), UserId("")


def at(seq: int) -> EventId:
    return EventId(E, seq)


def job(**fields) -> Job:
    given = {
        "id": JobId("a"),
        "status": "code",
        "user_id": ADA,
        "epoch": E,
        "position": at(2),
        "log_owner": "ada",
    }
    return Job(**{**given, **fields})


def entry(seq: int, body: str = '{"type":"step","n":1}') -> Entry:
    return Entry(at(seq), body.encode())


def window(found: Job | None = None, entries: int = 3, **settings) -> Window:
    """A window that was opened with a hash and retained events 0, 1, 2."""
    made = Window(JobId("a"), Settings(**settings), Totals())
    found = found or job(position=at(entries - 1) if entries else None)
    for one in made.open(found, [entry(n) for n in range(entries)], whole=True):
        made.append(made.entry_frames(one, made.last))
    return made


# --- the beginning


def test_ids_are_the_logs_where_there_is_one():
    made = window()
    assert (made.numbering.shared, made.last, made.log.origin) == (True, at(2), at(0).previous)
    assert not made.may_lose
    empty = window(job(position=None), entries=0)
    assert (empty.numbering.shared, empty.last) == (True, at(0).previous)
    known = window(job(position=at(7)), entries=0)
    assert known.last == at(7)


def test_without_a_log_they_are_this_feeds_own(monkeypatch):
    monkeypatch.setattr(module, "_now_ms", lambda: 77)
    made = window(job(epoch=None, position=None, log_owner=""), entries=0)
    assert (made.numbering.shared, made.last) == (False, EventId(77, 0).previous)
    assert made.may_lose


def test_an_attempt_that_is_over_is_not_shown_of_a_job_that_runs_again():
    ended = window(job(status="ready", ended=at(2)))
    assert ended.log.end == 3
    assert window(job(ended=at(2))).log.end == 0


def test_terminal_statuses_that_differ_are_said_once(caplog):
    window(job(stated=frozenset({"done"})))
    assert "its publisher ends jobs with done, this hub with failed" in caplog.text
    caplog.clear()
    window(job(stated=Settings().terminal_statuses))
    window(job(stated=frozenset()))
    assert not caplog.records


# --- what the hash says


@pytest.mark.parametrize(
    ("found", "differs"),
    [
        (job(), False),
        (job(position=at(3)), True),
        (job(position=at(1)), True),
        (job(position=None), True),
        (job(epoch=9, position=EventId(9, 2)), True),
        (job(epoch=None), True),
        (job(status="ready"), True),
        (job(user_id=EVE), True),
        (job(exists=False), True),
        (None, True),
    ],
    ids=["same", "ahead", "behind", "none", "epoch", "no log", "over", "another's", "deleted", "gone"],
)
def test_what_the_hash_has_that_the_window_has_not(found, differs):
    assert window().differs(found) is differs


def test_a_job_without_a_log_differs_when_it_gets_one():
    made = window(job(epoch=None, position=None, log_owner=""), entries=0)
    assert not made.differs(job(epoch=None, position=None, log_owner=""))
    assert made.differs(job(position=None))
    assert made.differs(job(epoch=made.last.next.epoch, position=made.last))


def test_an_empty_log_does_not_differ_from_one_without_a_position():
    assert not window(job(position=None), entries=0).differs(job(position=None))


def test_a_log_whose_digest_is_another_differs():
    made = window(job(digest="d"))
    made.numbering.trust(job(digest="d"), made.last)
    assert not made.differs(job(digest="d"))
    assert made.differs(job(digest="other"))


@pytest.mark.parametrize(
    ("found", "lost", "is_anothers"),
    [
        (job(), False, False),
        (job(user_id=EVE), False, True),
        (job(user_id=EVE), True, True),
        (job(user_id=NOBODY), False, True),
        (job(user_id=NOBODY), True, False),
        (job(user_id=EVE, exists=False), False, False),
    ],
)
def test_whose_a_job_is(found, lost, is_anothers):
    """A publisher may go on without an owner after Redis lost the hash."""
    made = window()
    made.is_lost = lost
    assert made.is_anothers(found) is is_anothers
    made.state.job = None
    assert not made.is_anothers(found)


def test_a_hash_that_is_gone_was_deleted_if_the_hubs_own_is_there():
    made, own = window(), window(job(epoch=None, position=None, log_owner=""), entries=0)
    assert made.is_deleted(job(exists=False))
    assert not made.is_deleted(job(exists=False, log_owner=""))
    assert not made.is_deleted(job())
    assert not made.is_deleted(None)  # Redis may have lost both
    assert own.is_deleted(None)
    assert made.deletion()[0].body == '{"status":null,"reason":"deleted"}'


def test_an_end_of_which_only_the_hash_knows():
    made = window()
    assert not made.has_ended
    assert made.final_frames() == []
    made.state.job = job(status="failed")
    assert made.has_ended
    (frame,) = made.final_frames()
    assert (frame.terminal, frame.event.status, frame.id) == (True, "failed", FINAL)
    made.append([frame])
    assert not made.has_ended
    assert made.final_frames() == []
    made.state.job = None
    assert not made.has_ended


@pytest.mark.parametrize(("ended", "has_all"), [(None, False), (at(1), True), (at(2), True), (at(3), False)])
def test_whether_the_terminal_event_is_there(ended, has_all):
    made = window()
    made.state.job = job(ended=ended)
    assert made.has_all is has_all
    made.state.job = None
    assert not made.has_all


# --- frames


@pytest.mark.parametrize(
    ("status", "terminal", "ends"),
    [
        ("ready", set(), True),
        ("code", set(), False),
        ("done", set(), False),
        ("done", {"done"}, True),
        (None, {"done"}, False),
    ],
)
def test_what_ends_a_job(status, terminal, ends):
    """The hub's terminal statuses, and those of the job's publisher."""
    made = window()
    made.state.job = job(terminal=frozenset(terminal) or job().terminal)
    fields = {"type": "x"} if status is None else {"type": "x", "status": status}
    frame = made.frame(Event(at(3), "{}", fields))
    assert frame.terminal is ends
    assert frame.id == at(3)
    made.state.job = None
    assert made.frame(Event(at(4), "{}", fields)).terminal is (status == "ready")


def test_an_event_without_an_id_may_be_lost_and_a_terminal_one_is_the_last():
    made = window()
    frame = made.frame(Event(None, '{"type":"x"}', {"type": "x"}))
    assert (frame.id, made.may_lose, made.numbering.newest) == (None, True, at(2))
    last = made.frame(Event(None, '{"status":"ready"}', {"status": "ready"}))
    assert (last.id, last.terminal) == (FINAL, True)


def test_a_message_without_an_id_gets_one_where_ids_are_the_feeds_own(monkeypatch):
    monkeypatch.setattr(module, "_now_ms", lambda: 77)
    own = window(job(epoch=None, position=None, log_owner=""), entries=0)
    assert own.message_frame(b'{"type":"x"}', None, 0, own.last).id == EventId(77, 0)
    assert window().message_frame(b'{"type":"x"}', None, 0, at(2)).id is None
    assert window().message_frame(b'{"id":"5-3","type":"x"}', at(3), 12, at(2)).id == at(3)


def test_a_retained_event_after_a_hole_has_a_gap_before_it():
    made = window()
    names = [frame.name for frame in made.entry_frames(entry(5), at(2))]
    assert names == ["gap", "state", None]
    assert '"from":"5-3","to":"5-4"' in made.entry_frames(entry(5), at(2))[0].body.replace(" ", "")
    assert [frame.name for frame in made.entry_frames(entry(3), at(2))] == [None]


def test_a_retained_event_over_the_limit_is_a_gap():
    made = window(max_event_bytes=40)
    limit = '{"type":"step","x":"' + "x" * 18 + '"}'
    assert len(limit) == 40
    assert [frame.name for frame in made.entry_frames(entry(3, limit), at(2))] == [None]
    assert [frame.name for frame in made.entry_frames(entry(3, limit + " "), at(2))] == ["gap", "state"]


def test_a_gap_is_counted_and_its_checksum_not_known():
    made = window()
    made.numbering.trust(job(digest="d"), at(2))
    totals = made._totals
    made.gap("trimmed", at(3), at(4))
    assert totals.gaps == 1
    assert not made.numbering.is_rewritten(job(digest="other"), at(2))


def test_a_terminal_event_takes_the_end_along_and_the_window_is_counted():
    made = window()
    before = made._totals.window_bytes
    assert before == made.log.size > 0
    frames = made.append([made.frame(Event(at(3), '{"status":"ready"}', {"status": "ready"}))])
    assert [frame.name for frame in frames] == [None, "end"]
    assert made.log.closed
    assert made._totals.window_bytes == made.log.size > before


# --- a log that was lost, or begun again


def test_a_lost_log_is_said_once_and_ids_are_the_feeds_own_from_then(monkeypatch):
    monkeypatch.setattr(module, "_now_ms", lambda: 77)
    made = window()
    frames = made.lose_log(None)
    assert [frame.name for frame in frames] == ["resync", "state"]
    assert (made.numbering.shared, made.is_lost, made.last) == (False, True, EventId(77, 0).previous)
    assert made.numbering.is_over(at(9))
    assert made._totals.resyncs == 1
    assert made.lose_log(None) == []
    found = job(epoch=None, status="deps")
    assert made.lose_log(found) == []
    assert made.state.job is found


def test_a_log_of_ones_own_becomes_shared():
    made = window(job(epoch=None, position=None, log_owner=""), entries=0)
    made.share(E)
    assert (made.numbering.shared, made.last) == (True, at(0).previous)


def test_what_is_kept_of_a_log_that_was_begun_again_is_in_its_state():
    made = window()
    found = replace(job(), status="deps")
    frames = made.restart(found, "rolled back", at(1), [entry(0, '{"type":"kept"}')])
    assert [frame.name for frame in frames] == ["resync", "state"]
    assert '"kept"' in frames[1].body
    assert '"step"' not in frames[1].body
    assert '"rolled back"' in frames[0].body
    assert made.last == at(1)
    assert made.log.position_after(at(2)) is None  # cursors of before are unknown


@pytest.mark.parametrize(("size", "over"), [(39, False), (40, False), (41, True), (48, False)])
def test_the_limit_is_of_the_body_without_the_id(size, over):
    """publish.lua puts the id in front of what a producer may send."""
    made = window(max_event_bytes=40)
    data = (
        b'{"id":"5-3",' + b'"x":"' + b"x" * 20 + b'"}'
        if size == 48
        else b'{"x":"' + b"x" * (size - 8) + b'"}'
    )
    assert made.is_oversize(data) is over
