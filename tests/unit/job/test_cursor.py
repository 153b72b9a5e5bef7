"""Where a viewer begins: every case that docs/protocol.md names."""

from __future__ import annotations

import pytest

from hub.job.cursor import Beginning, Wish, beginning, depth
from hub.job.event import FINAL, Event, EventId
from hub.job.frame import Frame
from hub.job.log import Log

E = 1_732_345_000_123


def at(seq: int) -> EventId:
    return EventId(E, seq)


def frame(seq: int, **more) -> Frame:
    return Frame(Event(at(seq), "{}", {}), event_id=at(seq), **more)


def running(first: int = 0, last: int = 9, **bounds) -> Log:
    """The window of a running job, holding events `first` to `last`."""
    log = Log(origin=at(first).previous, **bounds)
    log.append([frame(seq) for seq in range(first, last + 1)])
    return log


def ended(first: int = 0, last: int = 9) -> Log:
    """The window of an ended job; event `last` is terminal."""
    log = running(first, last - 1)
    log.append([frame(last, terminal=True), Frame.control("end", {"status": "ready"})])
    return log


def ended_without_log() -> Log:
    """The log of a job that ended before the hub read it and has no retained events."""
    log = Log(origin=at(0).previous)
    final = Frame(Event(FINAL, "{}", {"status": "ready"}), event_id=FINAL, terminal=True)
    log.append([final, Frame.control("end", {"status": "ready"})])
    return log


def resume(cursor: str, log: Log, *, retained: bool = True) -> Beginning:
    return beginning(Wish(cursor=cursor), log, retained=retained)


@pytest.mark.parametrize("retained", [True, False])
@pytest.mark.parametrize("seq", range(9))
def test_a_known_cursor_goes_on_after_it(seq, retained):
    """The viewer gets every event after its cursor, then live events."""
    assert resume(str(at(seq)), running(), retained=retained) == Beginning(seq + 1)


@pytest.mark.parametrize("retained", [True, False])
def test_the_last_id_goes_on_live(retained):
    """The viewer has all events, so its stream begins at the end of the window."""
    assert resume(str(at(9)), running(), retained=retained) == Beginning(10)


@pytest.mark.parametrize("log", [running(), running(5)])
def test_the_origin_goes_on_at_the_start(log):
    """The id just before the window is a valid cursor, also just before the first event."""
    assert resume(str(log.origin), log) == Beginning(log.start)


def test_a_cursor_before_the_window_reads_the_retained_log():
    """The retained log is read from the cursor up to the window."""
    assert resume(str(at(2)), running(5)) == Beginning(0, after=at(2))


def test_a_cursor_before_the_first_event_reads_the_retained_log_from_its_beginning():
    """A stream that began before the first event has such a cursor."""
    before = at(0).previous
    assert resume(str(before), running(5)) == Beginning(0, after=before)


@pytest.mark.parametrize(
    ("cursor", "reason"),
    [
        (at(10), "unknown"),
        (at(1 << 63), "unknown"),
        (EventId(E + 1, 0), "unknown"),
        (EventId(E - 1, 5), "unknown"),
        (EventId(1, 5), "unknown"),
        (EventId(0, 0), "unknown"),
        (at(0).previous.previous, "unknown"),
    ],
    ids=str,
)
@pytest.mark.parametrize("retained", [True, False])
@pytest.mark.parametrize("first", [0, 5])
def test_a_cursor_of_the_future_or_of_another_epoch_resyncs(cursor, reason, retained, first):
    """The viewer gets `resync`, then live events; an id of this epoch may be in the retained log already."""
    log = running(first)
    if retained and cursor.epoch == E and cursor > log.seen_at(log.end):
        assert resume(str(cursor), log, retained=True) == Beginning(log.end, ahead=cursor)
    else:
        assert resume(str(cursor), log, retained=retained) == Beginning(log.end, resync=reason)


def test_a_cursor_before_the_window_resyncs_when_nothing_is_retained():
    """Events of a foreign producer that have left the window are gone."""
    log = running(5)
    assert resume(str(at(2)), log, retained=False) == Beginning(log.end, resync="unknown")


@pytest.mark.parametrize(
    "cursor", ["-", "+", "$", "abc", "1", "1-1-1", "9" * 400, " ", "\0", "-1", "٣-٣", "01-1", "live"]
)
@pytest.mark.parametrize("log", [running(), ended()], ids=["running", "ended"])
def test_a_malformed_cursor_resyncs(cursor, log):
    """The answer is a stream with a `resync`, not an HTTP error and not a silent stream."""
    begin = resume(cursor, log)
    assert begin.resync == "malformed"
    assert not begin.over
    assert begin.after is None
    assert log.start <= begin.position <= log.end


@pytest.mark.parametrize("retained", [True, False])
@pytest.mark.parametrize("cursor", [at(9), FINAL], ids=["terminal", "0-0"])
def test_the_end_of_an_ended_job_is_over(cursor, retained):
    """SSE answers 204; other transports send only the `end` frame."""
    log = ended()
    begin = resume(str(cursor), log, retained=retained)
    assert begin.over
    assert [one.name for one in log.slice(begin.position, 1)] == ["end"]


def test_the_final_id_is_over_on_a_job_that_has_no_log():
    """A viewer that has the one event made by the hub has everything."""
    assert resume("0-0", ended_without_log(), retained=False).over


def test_a_cursor_inside_an_ended_job_gets_the_rest():
    """The viewer gets the events it misses, among them the terminal one, and `end`."""
    log = ended()
    begin = resume(str(at(6)), log)
    assert begin == Beginning(7)
    assert [one.id for one in log.slice(begin.position, 1 << 20)] == [at(7), at(8), at(9), None]


def test_an_unknown_cursor_of_an_ended_job_gets_the_terminal_and_the_end():
    """Without them the stream would never end, because no new event comes."""
    log = ended()
    begin = resume(str(EventId(3, 3)), log)
    assert begin.resync == "unknown"
    assert [one.id for one in log.slice(begin.position, 1 << 20)] == [at(9), None]


@pytest.mark.parametrize("retained", [True, False])
def test_a_cursor_beyond_the_end_of_an_ended_job_resyncs(retained):
    """Nothing comes any more that could reach it, so nobody waits for that."""
    assert resume(str(at(12)), ended(), retained=retained).resync == "unknown"


def test_the_final_id_on_a_job_that_runs_again_resyncs():
    """`0-0` from an earlier attempt of the job is not a position in the present one."""
    assert resume("0-0", running()).resync == "unknown"


# --- without a cursor


@pytest.mark.parametrize("retained", [True, False])
def test_from_start_is_everything(retained):
    """If the window holds all events, the stream begins at its start."""
    assert beginning(Wish(), running(), retained=retained) == Beginning(0)


def test_from_start_reads_what_left_the_window():
    """The retained log is read from its first event."""
    log = running(0, 20, count=5)
    assert beginning(Wish(), log, retained=True) == Beginning(log.start, after=at(0).previous)


def test_from_start_reads_the_one_event_that_left_the_window():
    """The window begins with the second event."""
    log = running(1)
    assert beginning(Wish(), log, retained=True) == Beginning(log.start, after=at(0).previous)


def test_from_start_is_the_window_when_nothing_is_retained():
    """Without a retained log, the window holds all there is."""
    log = running(0, 20, count=5)
    assert beginning(Wish(), log, retained=False) == Beginning(log.start)


def test_from_live_is_the_end():
    """The viewer gets no past events."""
    assert beginning(Wish(from_="live"), running(), retained=True) == Beginning(10)


def test_from_live_on_an_ended_job_is_the_terminal_and_the_end():
    """An ended job has no live events, so the viewer gets the terminal one."""
    log = ended()
    begin = beginning(Wish(from_="live"), log, retained=True)
    assert [one.id for one in log.slice(begin.position, 1 << 20)] == [at(9), None]


def test_from_start_on_a_job_without_events_is_its_end():
    """In an empty window every `from` means position 0."""
    log = Log(origin=at(0).previous)
    for origin in ("start", "live", 20):
        assert beginning(Wish(from_=origin), log, retained=True) == Beginning(0)


@pytest.mark.parametrize("number", [1, 3, 10])
def test_from_minus_n_is_the_last_n(number):
    """All n events are in the window."""
    assert beginning(Wish(from_=number), running(), retained=True) == Beginning(10 - number)


def test_from_minus_n_is_everything_when_there_are_fewer():
    """A number larger than the log means all events."""
    assert beginning(Wish(from_=50), running(), retained=True) == Beginning(0)


def test_from_minus_n_reads_what_left_the_window():
    """Of the last ten events five are in the window; the other five are read from the retained log."""
    log = running(0, 20, count=5)  # the window holds 16 to 20
    assert beginning(Wish(from_=10), log, retained=True) == Beginning(log.start, after=at(10))
    assert beginning(Wish(from_=10), log, retained=False) == Beginning(log.start)


def test_from_minus_n_beyond_the_first_event_is_from_start():
    """The read begins at the first event, not at a negative number."""
    log = running(0, 20, count=5)
    assert beginning(Wish(from_=500), log, retained=True).after == at(0).previous


@pytest.mark.parametrize("number", range(1, 12))
def test_from_minus_n_counts_events_and_not_control_frames(number):
    """`end` and `gap` in the window are not counted as events."""
    log = running(0, 17, count=6)
    log.append([Frame.control("gap", {}), frame(18), frame(19, terminal=True), Frame.control("end", {})])
    begin = beginning(Wish(from_=number), log, retained=True)
    first = begin.after.next.seq if begin.after else log.slice(begin.position, 1)[0].id
    wanted = 20 - number
    assert first == wanted or first == at(wanted)


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        (None, "start"),
        ("", "start"),
        ("start", "start"),
        ("live", "live"),
        ("-1", 1),
        ("-20", 20),
        ("-999999", 999_999),
        ("-0", "start"),
        ("-01", "start"),
        ("-1000000", "start"),
        ("20", "start"),
        ("-x", "start"),
        ("-٣", "start"),
        ("LIVE", "start"),
        ("--1", "start"),
        ("-1 ", "start"),
        ("-1\n", "start"),
    ],
)
def test_an_unknown_from_is_start(text, origin):
    """A viewer can ignore events that it did not want, but cannot guess those that it missed."""
    assert Wish.parse(from_=text).from_ == origin


@pytest.mark.parametrize(
    ("text", "types"),
    [
        (None, None),
        ("", None),
        (",,", None),
        ("a", frozenset({"a"})),
        ("a,b,,a", frozenset({"a", "b"})),
    ],
)
def test_types_are_separated_by_commas(text, types):
    """A list without names is no filter."""
    assert Wish.parse(types=text).types == types


def test_an_empty_cursor_is_none():
    """`?last_event_id=` without a value is no cursor, so `from` applies."""
    assert Wish.parse(cursor="", from_="live") == Wish(from_="live")


def test_a_cursor_is_kept_as_it_was_sent():
    """It is judged later, against the log."""
    assert Wish.parse(cursor="5-1").cursor == "5-1"
    assert Wish.parse(cursor="nonsense").cursor == "nonsense"


def test_a_cursor_wins_over_from():
    """EventSource sends the URL's `from` again when it resumes with a cursor."""
    assert beginning(Wish(cursor=str(at(3)), from_="live"), running(), retained=True) == Beginning(4)


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        (Wish(), None),
        (Wish(from_="live"), 0),
        (Wish(from_=20), 20),
        (Wish(cursor="5-9"), 0),
        (Wish(cursor="5-4"), 5),
        (Wish(cursor="5-12"), 0),  # another process was faster
        (Wish(cursor="4-4"), None),  # of an attempt that is over
        (Wish(cursor="what"), None),
        (Wish(cursor="5-4", from_="live"), 5),
    ],
)
def test_how_much_of_the_past_a_viewer_needs(wish, expected):
    """None: it gets a state, which all of the log says."""
    assert depth(wish, EventId(5, 9)) == expected


def test_of_a_job_without_a_log_nothing_is_known():
    assert depth(Wish(cursor="5-4"), None) is None
    assert depth(Wish(from_="live"), None) == 0
