"""How it is noticed that a job's numbers began again, and where the log is read from to notice it."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from hub.feed.numbering import Numbering
from hub.job.event import FINAL, Event, EventId, JobId, UserId
from hub.job.record import Entry, Job

E = 5


def at(seq: int) -> EventId:
    return EventId(E, seq)


LAST = at(6)


def numbering(newest: int | None = 6) -> Numbering:
    """Of a job with a shared log; `newest` is the number of the last event that was delivered."""
    one = Numbering()
    one.shared = True
    if newest is not None:
        one.remember(Event(at(newest), '{"a":1}', {}))
    return one


def job(position: EventId | None = LAST, epoch: int = E) -> Job:
    return Job(JobId("a"), "code", UserId("ada"), epoch, position)


def entry(seq: int, body: bytes = b'{"a":1}') -> Entry:
    return Entry(at(seq), body)


def test_the_newest_number_is_that_of_the_last_event():
    """Before the first event there is none."""
    assert numbering(None).newest is None
    assert numbering(6).newest == at(6)


@pytest.mark.parametrize(
    ("newest", "last", "after"), [(6, 6, 5), (6, 8, 8), (None, 6, 6)], ids=["event", "gap", "nothing"]
)
def test_a_read_begins_with_the_newest_event_again(newest, last, after):
    """To see that it still is what went out. After a gap, or before any event, there is nothing to see again."""
    assert numbering(newest).read_after(at(last)) == at(after)


def test_a_job_without_a_shared_log_is_read_from_its_beginning():
    """It may have got a log in the meantime."""
    one = numbering()
    one.shared = False
    assert one.read_after(at(6)) == FINAL


@pytest.mark.parametrize(
    ("found", "entries"),
    [
        (job(), [entry(6)]),
        (job(at(8)), [entry(6), entry(7), entry(8)]),
        (job(at(8)), [entry(7, b"other"), entry(8)]),
        (job(at(6)), []),
        (job(None), []),
        (job(at(9)), []),
    ],
    ids=["the same", "more", "trimmed up to the newest", "all trimmed", "no position", "ahead"],
)
def test_a_log_that_goes_on_is_no_restart(found, entries):
    """The newest event is the same, or was trimmed."""
    assert numbering().restarted(found, entries, at(6)) is None


def test_a_newest_event_that_is_another_one_is_a_rollback():
    """Redis lost its last write, and the next event took the number: it is delivered again from there."""
    assert numbering().restarted(job(), [entry(6, b"other")], at(6)) == ("rolled back", at(5))


def test_a_position_before_the_last_event_is_a_rollback():
    """Redis lost its last writes, and nothing followed yet."""
    assert numbering().restarted(job(at(4)), [], at(6)) == ("rolled back", at(4))


def test_another_epoch_is_a_restart():
    """It goes on with the first event of the new log."""
    assert numbering().restarted(job(EventId(9, 0), epoch=9), [], at(6)) == (
        "restarted",
        EventId(9, 0).previous,
    )


@pytest.mark.parametrize(("reason", "is_over"), [("restarted", True), ("lost", True), ("rolled back", False)])
def test_late_messages_of_a_numbering_that_is_over_are_known(reason, is_over):
    """A rollback stays in its epoch, and its numbers are given again."""
    one = numbering()
    assert not one.is_over(at(7))
    one.restart(reason, at(6))
    assert one.newest is None
    assert one.is_over(at(7)) is is_over
    assert one.is_over(EventId(E + 1, 0)) is False
    assert one.is_over(None) is False


def digest(*bodies: str, begin: str = "d") -> str:
    """What publish.lua makes of events from number 7 on."""
    for seq, body in enumerate(bodies, 7):
        begin = hashlib.sha1(f"{begin}{at(seq)}{body}".encode()).hexdigest()
    return begin


def with_digest(*bodies: str) -> Numbering:
    one = numbering(6)
    one.trust(replace(job(), digest="d"), at(6))
    for seq, body in enumerate(bodies, 7):
        one.remember(Event(at(seq), body, {}))
    return one


def test_the_checksum_goes_on_with_each_event():
    one = with_digest("{}", '{"b":2}')
    right = replace(job(at(8)), digest=digest("{}", '{"b":2}'))
    assert not one.is_rewritten(right, at(8))
    assert one.is_rewritten(replace(right, digest=digest("{}", '{"b":3}')), at(8))
    assert one.restarted(replace(right, digest="other"), [entry(8, b'{"b":2}')], at(8)) == (
        "rolled back",
        at(8),
    )


def test_a_checksum_is_begun_only_where_the_window_ends_and_only_once():
    one = numbering(6)
    one.trust(replace(job(at(7)), digest="later"), at(6))
    assert not one.is_rewritten(replace(job(), digest="other"), at(6))
    one.trust(replace(job(), digest="d"), at(6))
    one.trust(replace(job(), digest="second"), at(6))
    assert one.is_rewritten(replace(job(), digest="second"), at(6))
    assert not one.is_rewritten(replace(job(), digest="d"), at(6))


@pytest.mark.parametrize(
    ("found", "last"),
    [
        (replace(job(at(8)), digest="other"), at(8)),
        (replace(job(at(7)), digest=""), at(7)),
        (replace(job(at(6)), digest="other"), at(7)),
        (replace(job(at(6)), digest="other"), at(6)),
    ],
    ids=["the newest is not the last", "no digest", "another position", "the last is not the newest"],
)
def test_without_all_of_it_a_checksum_says_nothing(found, last):
    assert not with_digest("{}").is_rewritten(found, last)


def test_after_a_hole_or_a_restart_the_checksum_is_not_known():
    one = with_digest("{}")
    other = replace(job(at(7)), digest="other")
    assert one.is_rewritten(other, at(7))
    one.skip()
    assert not one.is_rewritten(other, at(7))
    again = with_digest("{}")
    again.restart("rolled back", at(7))
    again.remember(Event(at(7), "{}", {}))
    assert not again.is_rewritten(other, at(7))


def test_a_log_without_the_newest_event_is_not_compared_with_it():
    """It was trimmed, or the window ends with a gap."""
    assert numbering().restarted(job(at(8)), [entry(7, b"other")], at(8)) is None
    assert numbering(None).restarted(job(), [entry(6, b"other")], at(6)) is None


def test_a_body_that_is_no_utf8_is_compared_as_it_was_delivered():
    one = numbering(5)
    one.remember(Event(at(6), b"\xff".decode("utf-8", "replace"), {}))
    assert one.restarted(job(), [entry(6, b"\xff")], at(6)) is None


def test_only_the_last_eight_numberings_are_remembered():
    one = numbering()
    for epoch in range(9):
        one.restart("restarted", EventId(epoch, 3))
    assert [one.is_over(EventId(epoch, 0)) for epoch in range(9)] == [False] + [True] * 8
