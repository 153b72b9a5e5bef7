"""The log's window: positions, bounds and cursors."""

from __future__ import annotations

import random

import pytest

from hub.job.event import Event, EventId
from hub.job.frame import Frame
from hub.job.log import Log

E = 5


def event(seq: int, body: str = "{}", **more) -> Frame:
    return Frame(Event(EventId(E, seq), body, {}), event_id=EventId(E, seq), **more)


def window(events: int, **bounds) -> Log:
    log = Log(origin=EventId(E, 0).previous, **bounds)
    log.append([event(seq) for seq in range(events)])
    return log


class Letters:
    """A format that counts its calls."""

    def __init__(self):
        self.calls = 0

    transport = "sse"

    def encode(self, frame: Frame) -> bytes:
        self.calls += 1
        return frame.body.encode()

    def join(self, parts):
        return b"".join(parts)


def test_a_frame_is_encoded_once_per_format():
    """However often a frame's encoding is asked for, each format encodes the frame once."""
    one, other, frame = Letters(), Letters(), event(0)
    for _ in range(3):
        assert frame.encoded(one) == frame.encoded(other) == b"{}"
    assert (one.calls, other.calls) == (1, 1)


def test_positions_count_frames_from_the_start():
    """Every position from `start` to `end` is readable; `end` gives no frames."""
    log = window(5)
    assert (log.start, log.end) == (0, 5)
    assert [frame.id.seq for frame in log.slice(2, 1 << 20)] == [2, 3, 4]
    assert log.slice(5, 10) == []


def test_the_window_keeps_the_newest_by_count():
    """At the bound the oldest frames are evicted, and `origin` is the id of the last evicted one."""
    log = window(10, count=3)
    assert (log.start, log.end) == (7, 10)
    assert log.origin == EventId(E, 6)
    assert log.end - log.start == 3
    assert log.start == 7


def test_the_window_keeps_the_newest_by_size():
    """The sizes of bodies are summed; at least one frame stays, however large it is."""
    log = Log(origin=EventId(E, 0).previous, size=100)
    log.append([event(seq, "x" * 40) for seq in range(5)])
    assert (log.start, log.end) == (3, 5)
    log.append([event(5, "x" * 1000)])
    assert (log.start, log.end) == (5, 6)
    log.append([event(6, "x")])
    assert (log.start, log.end) == (6, 7)
    assert log.size == 1


def test_size_is_bytes_and_not_letters():
    """A window of 1 MiB holds 1 MiB of UTF-8 in every language: `日` is three bytes."""
    log = Log(origin=EventId(E, 0).previous, size=100)
    log.append([event(seq, "日" * 20) for seq in range(4)])
    held = sum(len(frame.body.encode()) for frame in log.slice(log.start, 1 << 20))
    assert held <= 100
    assert log.size == held


def test_a_slice_is_bytes_and_not_letters():
    """A catch-up write is as large as a write buffer in every language."""
    log = Log(origin=EventId(E, 0).previous)
    log.append([event(seq, "日" * 20) for seq in range(9)])
    assert sum(len(frame.body.encode()) for frame in log.slice(0, 90)) < 90 + 60


def test_a_slice_gives_at_least_one_frame_and_about_its_size():
    """A frame larger than the slice is still returned."""
    log = Log(origin=EventId(E, 0).previous)
    log.append([event(seq, "x" * 30) for seq in range(5)])
    assert len(log.slice(0, 1)) == 1
    assert len(log.slice(0, 60)) == 2
    assert len(log.slice(0, 61)) == 3


def test_a_known_cursor_gives_the_position_after_it():
    """So does `origin`, which is the cursor of a viewer at `start`."""
    log = window(10, count=4)
    assert log.position_after(log.origin) == log.start
    for seq in range(6, 10):
        assert log.position_after(EventId(E, seq)) == seq + 1
    assert log.position_after(EventId(E, 4)) is None
    assert log.position_after(EventId(E, 10)) is None
    assert log.position_after(EventId(E + 1, 0)) is None


def test_control_frames_have_the_cursor_of_the_event_before():
    """A viewer whose last frame is a `gap` resumes after the event before that frame."""
    log = window(2)
    log.append([Frame.control("gap", {}), event(2)])
    assert [log.seen_at(position).seq for position in range(1, 5)] == [0, 1, 1, 2]


def test_the_end_closes_the_log():
    """No frame can be appended after `end`."""
    log = window(1)
    log.append([event(1, terminal=True), Frame.control("end", {"status": "ready"})])
    assert log.closed
    with pytest.raises(AssertionError):
        log.append([event(2)])


def test_last_events_are_counted_without_control_frames():
    """`from=-2` means two events, however many control frames are between them."""
    log = window(3)
    log.append([Frame.control("gap", {}), Frame.control("state", {}), event(3)])
    assert log.position_of_last(1) == (5, 0)
    assert log.position_of_last(2) == (2, 0)
    assert log.position_of_last(99) == (log.start, 95)
    assert log.position_of_last(0) == (log.end, 0)


def test_renumbering_keeps_frames_and_their_cursors():
    """After a resync the old positions stay readable, and the new cursor is the position `end`."""
    log = window(3)
    log.renumber(EventId(9, 0).previous)
    assert log.seen_at(3) == EventId(9, 0).previous
    assert log.position_after(EventId(9, 0).previous) == 3
    assert log.position_after(EventId(E, 1)) == 2
    log.forget()
    assert log.position_after(EventId(E, 1)) is None
    assert len(log.slice(0, 100)) == 3


@pytest.mark.parametrize("seed", range(30))
def test_the_window_is_contiguous_whatever_is_appended(seed):
    """Compared with a plain list: all positions are readable and right, bounds hold, cursors agree."""
    rng = random.Random(seed)
    count, size = rng.randrange(1, 40), rng.randrange(1, 400)
    log = Log(origin=EventId(E, 0).previous, count=count, size=size)
    everything: list[Frame] = []
    for _ in range(rng.randrange(1, 80)):
        batch = [
            Frame.control("gap", {})
            if rng.random() < 0.1
            else event(len(everything) + i, "x" * rng.randrange(60))
            for i in range(rng.randrange(1, 8))
        ]
        everything += batch
        log.append(batch)
        assert log.end == len(everything)
        held = everything[log.start :]
        assert log.slice(log.start, 1 << 30) == held
        assert 1 <= len(held) <= count
        assert len(held) == 1 or sum(len(frame.body) for frame in held) <= size
        if log.start:  # no frame was evicted too early
            more = everything[log.start - 1 :]
            assert len(more) > count or sum(len(frame.body) for frame in more) > size
        for position in range(log.start, log.end):
            frame = everything[position]
            if frame.id is not None:
                assert log.position_after(frame.id) == position + 1
                assert log.seen_at(position + 1) == frame.id
        assert len(log._positions) <= len(held)
        assert len(log._frames) <= 2 * len(held) + 65


def test_a_cursor_given_by_renumbering_leaves_the_window_with_its_position():
    """It belongs to no frame, so no frame takes it along."""
    log = window(3, count=3)
    log.renumber(EventId(9, 0).previous)
    assert log.position_after(EventId(9, 0).previous) == 3
    log.append([Frame(Event(EventId(9, seq), "{}", {}), event_id=EventId(9, seq)) for seq in range(4)])
    assert log.start == 4
    assert log.position_after(EventId(9, 0).previous) is None


def test_renumbering_an_empty_window_moves_its_origin():
    """The first event follows the origin, whatever the log began with."""
    log = window(0)
    log.renumber(EventId(9, 4))
    assert log.origin == log.seen_at(log.end) == EventId(9, 4)


def test_frames_leave_a_window_whose_cursors_were_forgotten():
    """Their cursors are gone already."""
    log = window(3, count=3)
    log.forget()
    log.append([event(3)])
    assert (log.start, log.origin) == (1, EventId(E, 0))


@pytest.mark.parametrize("name", ["gap", "resync"])
def test_a_notice_leaves_the_window_together_with_its_state(name):
    """A window never begins between the two."""
    log = Log(origin=EventId(E, 0).previous, count=3)
    log.append([Frame.control(name, {}), Frame.control("state", {}), event(0)])
    log.append([event(1)])
    assert [frame.id for frame in log.slice(log.start, 1 << 20)] == [EventId(E, 0), EventId(E, 1)]


def test_a_state_without_a_notice_before_it_does_not_leave_early():
    """An event takes nothing along, nor does a notice that an event follows."""
    log = Log(origin=EventId(E, 0).previous, count=3)
    log.append([event(0), Frame.control("state", {}), Frame.control("gap", {})])
    for left, seq in enumerate((1, 2, 3), 1):
        log.append([event(seq)])
        assert log.start == left


def test_last_events_are_counted_in_a_window_that_has_moved():
    """Also when the frames that left were dropped from the list."""
    log = window(0, count=5)
    log.append([event(seq) for seq in range(200)])
    log.append([Frame.control("gap", {})])
    assert log.position_of_last(2) == (198, 0)
    assert log.position_of_last(4) == (196, 0)


def test_a_frame_is_moved_once_on_average():
    """Dead frames are dropped in lumps, or each append would move the whole window."""

    class Counting(list):
        moved = 0

        def __delitem__(self, which):
            super().__delitem__(which)
            Counting.moved += len(self)

    log = window(0, count=500)
    log._frames = Counting()
    for seq in range(5000):
        log.append([event(seq)])
    assert log.start == 4500
    assert Counting.moved <= 4500


# --- the past in front of it


def numbers(log: Log) -> list[int]:
    return [frame.id.seq for frame in log.slice(log.start, 1 << 30)]


def late_window(first: int, events: int, **bounds) -> Log:
    """A window whose first event is not the job's."""
    log = Log(origin=EventId(E, first - 1), **bounds)
    log.append([event(seq) for seq in range(first, first + events)])
    return log


def test_the_past_is_put_in_front_and_every_position_stays():
    log = late_window(5, 2)
    before = {seq: log.position_after(EventId(E, seq)) for seq in (4, 5, 6)}
    log.prepend([event(seq) for seq in (2, 3, 4)])
    assert numbers(log) == [2, 3, 4, 5, 6]
    assert (log.start, log.end, log.origin) == (-3, 2, EventId(E, 1))
    assert {seq: log.position_after(EventId(E, seq)) for seq in before} == before
    assert [log.position_after(EventId(E, seq)) for seq in (1, 2, 3)] == [-3, -2, -1]
    assert [log.seen_at(position).seq for position in range(-3, 3)] == [1, 2, 3, 4, 5, 6]
    assert log.size == 10


def test_of_the_past_there_is_what_the_bounds_allow():
    log = late_window(5, 2, count=4)
    log.prepend([event(seq) for seq in range(5)])
    assert numbers(log) == [3, 4, 5, 6]
    log.prepend([event(2)])
    assert numbers(log) == [3, 4, 5, 6]
    log = late_window(5, 2, size=8)
    log.prepend([event(seq) for seq in range(5)])
    assert numbers(log) == [3, 4, 5, 6]
    log = late_window(5, 2, size=9)
    log.prepend([event(3, "x" * 9), event(4)])
    assert numbers(log) == [4, 5, 6]


def test_the_past_leaves_the_window_first():
    log = late_window(5, 2, count=4)
    log.prepend([event(3), event(4)])
    log.append([event(7), event(8), event(9)])
    assert numbers(log) == [6, 7, 8, 9]
    assert log.origin == EventId(E, 5)
    assert log.position_after(EventId(E, 4)) is None
    assert log.size == 8
    assert not {seq for _, seq in log._positions} & {2, 3, 4}


@pytest.mark.parametrize("seed", range(50))
def test_a_window_with_a_past_is_a_window(seed):
    """Whatever was evicted from it before, and dropped in lumps."""
    rng = random.Random(seed)
    first = last = 1000
    log = Log(origin=EventId(E, 999), count=rng.choice([5, 200]), size=rng.choice([60, 10_000]))
    for _ in range(60):
        if rng.random() < 0.5:
            more = rng.randrange(1, 90)
            log.append([event(last + n, "x" * rng.randrange(2, 9)) for n in range(more)])
            last += more
        else:
            past = rng.randrange(1, 50)
            log.prepend([event(log.origin.seq - past + 1 + n) for n in range(past)])
        kept = numbers(log) if log.end > log.start else []
        first = log.origin.seq + 1
        assert kept == list(range(first, last))
        assert log.size == sum(frame.size for frame in log.slice(log.start, 1 << 30))
        for position in range(log.start, log.end + 1):
            assert log.position_after(log.seen_at(position)) == position
        assert len(log._positions) <= log.end - log.start + 1
