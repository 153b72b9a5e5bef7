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
    assert log.statistics().frames == 3
    assert log.statistics().evicted == 7


def test_the_window_keeps_the_newest_by_size():
    """The sizes of bodies are summed; at least one frame stays, however large it is."""
    log = Log(origin=EventId(E, 0).previous, size=100)
    log.append([event(seq, "x" * 40) for seq in range(5)])
    assert (log.start, log.end) == (3, 5)
    log.append([event(5, "x" * 1000)])
    assert (log.start, log.end) == (5, 6)
    log.append([event(6, "x")])
    assert (log.start, log.end) == (6, 7)
    assert log.statistics().size == 1


def test_size_is_bytes_and_not_letters():
    """A window of 1 MiB holds 1 MiB of UTF-8 in every language: `日` is three bytes."""
    log = Log(origin=EventId(E, 0).previous, size=100)
    log.append([event(seq, "日" * 20) for seq in range(4)])
    held = sum(len(frame.body.encode()) for frame in log.slice(log.start, 1 << 20))
    assert held <= 100
    assert log.statistics().size == held


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
