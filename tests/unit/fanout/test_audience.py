"""Viewers on a log, over seeded schedules: every interleaving that pauses, slices, joins and leaves can make."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from hub.fanout import audience as wire_module
from hub.fanout.audience import Audience, Seat
from hub.fanout.wire import Reason
from hub.job.event import Event, EventId
from hub.job.frame import Frame
from hub.job.log import Log
from hub.totals import Totals

EPOCH = 5
SEEDS = 400
TYPES = (None, frozenset({"a"}), frozenset({"b", "c"}))


class Violation(AssertionError):
    """A law was broken."""


def law(condition: object, words: str) -> None:
    if not condition:
        raise Violation(words)


class CountingFormat:
    """Encodes a frame as its number, and counts."""

    def __init__(self, numbers: dict[Frame, int]):
        self.numbers = numbers
        self.calls: dict[Frame, int] = {}

    transport = "sse"

    def encode(self, frame: Frame) -> bytes:
        self.calls[frame] = self.calls.get(frame, 0) + 1
        return b"%d" % self.numbers[frame]

    def join(self, parts: list[bytes]) -> list[bytes]:
        return list(parts)


class FakeWire:
    """Strict: a write while paused or after the end is a violation. Pauses itself as the schedule's dice say."""

    def __init__(self, rng: random.Random, often: float):
        self.rng = rng
        self.often = often
        self.paused = False
        self.got: list[int] = []
        self.reason: Reason | None = None
        self.seat: Seat | None = None
        self.first = 0
        self.left = False
        self.ready = False  # its task has called catch_up for the first time

    def write(self, payload: list[bytes]) -> None:
        law(payload, "nothing is written for nothing")
        law(self.reason is None, "never anything after the finish")
        law(not self.left, "never anything after the client left")
        law(not self.paused, "while paused, nobody writes")
        self.got += [int(part) for part in payload]
        self.paused = self.rng.random() < self.often

    beat = write

    def finish(self, reason: Reason) -> None:
        seat = self.seat
        log = seat.audience.log
        if reason is Reason.TOO_SLOW:
            law(seat.position < log.start, "too slow is who fell out of the window, nobody else")
        else:
            law(reason is Reason.ENDED and log.closed, "only a closed log ends")
            law(seat.position == log.end, "the end comes after the last frame")
        if self.reason is None:
            self.reason = reason
        self.paused = True
        if self.rng.random() < 0.7:  # some wires take a moment to go
            seat.leave()


class Schedule:
    """One log, some audiences, and dice."""

    def __init__(self, seed: int, audience: type[Audience] = Audience):
        self.rng = rng = random.Random(seed)
        self.log = Log(
            origin=EventId(EPOCH, 0).previous,
            count=rng.choice([3, 8, 40]),
            size=rng.choice([60, 400, 10_000]),
        )
        self.frames: list[Frame] = []
        self.numbers: dict[Frame, int] = {}
        self.formats = [CountingFormat(self.numbers) for _ in range(2)]
        self.audiences = [
            audience(self.log, fmt, types, Totals(), 0.0)
            for fmt in self.formats
            for types in rng.sample(TYPES, rng.randrange(1, 4))
        ]
        self.wires: list[FakeWire] = []
        self.often = rng.choice([0.0, 0.2, 0.6, 0.95])

    # --- what may happen

    def join(self) -> None:
        wire = FakeWire(self.rng, self.often)
        wire.first = self.rng.randrange(self.log.start, self.log.end + 1)
        wire.seat = self.rng.choice(self.audiences).seat(wire, wire.first)
        self.wires.append(wire)
        if self.rng.random() < 0.7:
            self.resume(wire)

    def resume(self, wire: FakeWire) -> None:
        if wire.reason is None and not wire.left:
            wire.paused = False
            wire.ready = True
            fell = wire.seat.position < self.log.start
            wire.seat.catch_up()
            law(fell == (wire.reason is Reason.TOO_SLOW), "who fell out is told so, exactly then")

    def pause(self, wire: FakeWire) -> None:
        wire.paused = True

    def leave(self, wire: FakeWire) -> None:
        wire.left = True
        wire.seat.leave()

    def something(self) -> None:
        """Between slices, and between batches."""
        for _ in range(self.rng.randrange(4)):
            dice = self.rng.random()
            if dice < 0.35 or not self.wires:
                self.join()
                continue
            wire = self.rng.choice(self.wires)
            if dice < 0.75:
                self.resume(wire)
            elif dice < 0.9:
                self.pause(wire)
            else:
                self.leave(wire)

    def run(self, steps) -> None:
        """Drive a coroutine by hand: each of its yields is a turn for the others."""
        try:
            while True:
                law(steps.send(None) is None, "only sleep(0) is awaited")
                self.something()
        except StopIteration:
            return

    def batch(self, *, last: bool = False) -> None:
        made = []
        for _ in range(self.rng.choice([1, 1, 2, 5])):
            if self.rng.random() < 0.1:
                made.append(Frame.control("gap", {}))
            else:
                seq = len(self.frames) + len(made)
                kind = self.rng.choice("abcd")
                body = "x" * self.rng.choice([2, 20, 90])
                made.append(
                    Frame(Event(EventId(EPOCH, seq), body, {"type": kind}), event_id=EventId(EPOCH, seq))
                )
        if last:
            seq = len(self.frames) + len(made)
            one = EventId(EPOCH, seq)
            made.append(Frame(Event(one, "x", {"type": "d"}), event_id=one, terminal=True))
            made.append(Frame.control("end", {"status": "ready"}))
        for frame in made:
            self.numbers[frame] = len(self.frames)
            self.frames.append(frame)
        start = self.log.end
        self.log.append(made)
        for audience in list(self.audiences):
            self.run(audience.deliver(start, made, 1.0))
        if last:
            for audience in self.audiences:
                self.run(audience.finish())
            for wire in self.wires:
                at_end = wire.seat.position == self.log.end
                law(wire.reason or not (wire.ready and at_end) or wire.paused, "who has all of it is ended")
        self.check()

    # --- what must hold

    def expected(self, wire: FakeWire) -> list[int]:
        types = wire.seat.audience.types
        return [n for n in range(wire.first, len(self.frames)) if self.frames[n].passes(types)]

    def check(self, *, final: bool = False) -> None:
        for wire in self.wires:
            expected = self.expected(wire)
            law(wire.got == expected[: len(wire.got)], f"once each and in order: {wire.got} of {expected}")
            if wire.left or wire.reason is Reason.TOO_SLOW:
                continue
            if wire.reason is Reason.ENDED or (wire.ready and not wire.paused):
                law(wire.got == expected, f"nobody who reads is left behind: {wire.got} of {expected}")
                law(wire.seat.position == self.log.end or wire.reason, "and it stands at the end")
            if final:
                law(not self.log.closed or wire.reason is Reason.ENDED, "a closed log ends everybody")
        for fmt in self.formats:
            law(all(calls == 1 for calls in fmt.calls.values()), "a frame is encoded once per format")
        seated = {wire.seat for wire in self.wires if not wire.left and wire.reason is None}
        held = set().union(*(audience.seats for audience in self.audiences))
        law(seated <= held, "nobody loses a seat")
        law(not {wire.seat for wire in self.wires if wire.left} & held, "who left holds nothing")

    def play(self) -> None:
        closes = self.rng.random() < 0.7
        for _ in range(self.rng.randrange(2, 25)):
            self.something()
            self.batch()
        if closes:
            self.batch(last=True)
            self.something()
        for wire in self.wires:
            wire.often = 0.0
            self.resume(wire)
        self.check(final=True)


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that three viewers are more than one slice, and a catch-up more than one chunk."""
    monkeypatch.setattr(wire_module, "SLICE", 2)
    monkeypatch.setattr(wire_module, "CHUNK", 70)


@pytest.mark.parametrize("tens", range(SEEDS // 10))
def test_every_viewer_gets_each_frame_once_in_order_or_is_told(tens):
    """Over pauses, resumes, bursts, joins, leaves, overflow, filters and slices in any order."""
    for seed in range(tens * 10, tens * 10 + 10):
        Schedule(seed).play()


def test_the_schedules_reach_what_they_are_for():
    """Overflow, ends, filters and slices with somebody between all happen, or the test above proves little."""
    reasons, seats = [], []
    for seed in range(100):
        schedule = Schedule(seed)
        schedule.play()
        reasons += [wire.reason for wire in schedule.wires]
        seats.append(len(schedule.wires))
    assert reasons.count(Reason.TOO_SLOW) > 50
    assert reasons.count(Reason.ENDED) > 200
    assert reasons.count(None) > 100
    assert max(seats) > 10


# --- the schedules fail when the audience is broken


class IgnoresPaused(Audience):
    async def deliver(self, start, frames, now):
        payload = self.payload(frames)
        for seat in list(self.seats):
            if seat.position == start:
                seat.position += len(frames)
                if payload is not None:
                    seat.wire.write(payload)


class DoesNotAdvance(Audience):
    async def deliver(self, start, frames, now):
        payload = self.payload(frames)
        for seat in list(self.seats):
            if seat.position == start and not seat.wire.paused and payload is not None:
                seat.wire.write(payload)


class IgnoresPositions(Audience):
    async def deliver(self, start, frames, now):
        payload = self.payload(frames)
        for seat in list(self.seats):
            if not seat.wire.paused:
                seat.position = start + len(frames)
                if payload is not None:
                    seat.wire.write(payload)


class LooksBeforeTheSlice(Audience):
    async def deliver(self, start, frames, now):
        payload = self.payload(frames)
        ready = [seat for seat in self.seats if seat.position == start and not seat.wire.paused]
        for count, seat in enumerate(ready):
            if count % 2 == 0:
                await asyncio.sleep(0)
            seat.position = start + len(frames)
            if payload is not None:
                seat.wire.write(payload)


class EncodesForEverybody(Audience):
    def payload(self, frames):
        parts = [self.format.encode(frame) for frame in frames if frame.passes(self.types)]
        return parts or None


class ForgetsTheFilter(Audience):
    def payload(self, frames):
        return [frame.encoded(self.format) for frame in frames]


class EndsNobody(Audience):
    async def finish(self):
        return


class EndsEverybody(Audience):
    async def finish(self):
        for seat in list(self.seats):
            seat.wire.finish(Reason.ENDED)


class SkipsWhatIsGone(Audience):
    """Its seats jump to the window's start without a word."""

    def seat(self, wire, position):
        class Jumping(Seat):
            def catch_up(self):
                if self.position >= 0:
                    self.position = max(self.position, self.audience.log.start)
                super().catch_up()

        seat = Jumping(self, wire, position)
        self.seats[seat] = None
        return seat


@pytest.mark.parametrize(
    "mutant",
    [
        IgnoresPaused,
        DoesNotAdvance,
        IgnoresPositions,
        LooksBeforeTheSlice,
        EncodesForEverybody,
        ForgetsTheFilter,
        EndsNobody,
        EndsEverybody,
        SkipsWhatIsGone,
    ],
)
def test_a_broken_audience_fails_the_schedules(mutant):
    """The checker sees each way of being wrong."""
    with pytest.raises(Violation):
        for seed in range(60):
            Schedule(seed, mutant).play()


# --- single laws


def seated(count: int = 1):
    log = Log(origin=EventId(EPOCH, 0).previous)
    numbers: dict[Frame, int] = {}
    audience = Audience(log, CountingFormat(numbers), None, Totals(), 0.0)
    wires = [FakeWire(random.Random(0), 0.0) for _ in range(count)]
    for wire in wires:
        wire.seat = audience.seat(wire, 0)
    return log, numbers, audience, wires


async def test_a_control_frame_without_a_position_goes_to_who_can_take_it():
    """A heartbeat: not to a paused wire, and no position moves."""
    _, _, audience, (ready, paused) = seated(2)
    paused.paused = True
    await audience.beat([b"7"], 3.0)
    assert (ready.got, paused.got) == ([7], [])
    assert (ready.seat.position, audience.last_write) == (0, 3.0)


def test_leaving_twice_is_leaving_once():
    """And a seat that left never catches up."""
    log, numbers, audience, (wire,) = seated()
    wire.seat.leave()
    wire.seat.leave()
    frame = Frame(Event(EventId(EPOCH, 0), "x", {}), event_id=EventId(EPOCH, 0))
    numbers[frame] = 0
    log.append([frame])
    wire.seat.catch_up()
    assert (wire.got, wire.reason, audience.totals.lagged) == ([], None, 0)
    assert not audience.seats


async def test_a_filtered_batch_is_no_write_but_moves_the_position():
    """So that the next one that passes follows at once, and silence is still silence for the heartbeat."""
    log = Log(origin=EventId(EPOCH, 0).previous)
    audience = Audience(log, CountingFormat({}), frozenset({"b"}), Totals(), 0.0)
    wire = FakeWire(random.Random(0), 0.0)
    seat = audience.seat(wire, 0)
    batch = [Frame(Event(EventId(EPOCH, 0), "x", {"type": "a"}), event_id=EventId(EPOCH, 0))]
    log.append(batch)
    await audience.deliver(0, batch, 9.0)
    assert (wire.got, seat.position, audience.last_write, audience.totals.deliveries) == ([], 1, 0.0, 0)


class Plain:
    """A wire that takes everything and notes what it was told, in one list with the others'."""

    def __init__(self, told: list, *, paused: bool = False) -> None:
        self.told = told
        self.paused = paused

    def write(self, payload: list[bytes]) -> None:
        self.told.append("write")

    def beat(self, payload: list[bytes]) -> None:
        self.told.append("beat")

    def finish(self, reason: Reason) -> None:
        self.told.append(reason)


class Words:
    transport = "sse"

    def encode(self, frame: Frame) -> bytes:
        return frame.body.encode()

    def join(self, parts: list[bytes]) -> list[bytes]:
        return parts


def event(seq: int) -> Frame:
    return Frame(Event(EventId(EPOCH, seq), "x", {}), event_id=EventId(EPOCH, seq))


def plain(count: int = 1) -> tuple[Audience, list, list[Seat]]:
    told: list = []
    audience = Audience(Log(origin=EventId(EPOCH, 0).previous), Words(), None, Totals(), 0.0)
    return audience, told, [audience.seat(Plain(told), 0) for _ in range(count)]


def turns(steps, told: list) -> list:
    """Run a coroutine by hand, and note each turn that it leaves to the others."""
    with contextlib.suppress(StopIteration):
        while steps.send(None) is None:
            told.append("turn")
    return told


def test_a_fan_out_leaves_a_turn_to_the_others_after_each_slice():
    """A batch, a heartbeat and an end alike; a slice is two seats here."""
    audience, told, _ = plain(5)
    audience.log.append([event(0)])
    assert turns(audience.deliver(0, [event(0)], 1.0), told) == ["write"] * 2 + ["turn"] + ["write"] * 2 + [
        "turn",
        "write",
    ]
    told.clear()
    beats = turns(audience.beat([b""], 2.0), told)
    assert beats == ["beat", "beat", "turn", "beat", "beat", "turn", "beat"]
    told.clear()
    ends = [Reason.ENDED] * 2
    assert turns(audience.finish(), told) == [*ends, "turn", *ends, "turn", Reason.ENDED]


async def test_a_delivered_batch_is_counted_and_is_a_sign_of_life():
    """Payloads given to viewers; the heartbeat waits from the last write on."""
    audience, _, _ = plain(3)
    audience.log.append([event(0)])
    await audience.deliver(0, [event(0)], 7.0)
    assert (audience.totals.deliveries, audience.last_write) == (3, 7.0)


def test_a_viewer_that_fell_out_of_the_window_is_counted():
    """Once, and told so."""
    audience, told, (seat,) = plain()
    audience.log = Log(origin=EventId(EPOCH, 0).previous, count=2)
    audience.log.append([event(seq) for seq in range(5)])
    seat.catch_up()
    assert (told, audience.totals.lagged) == ([Reason.TOO_SLOW], 1)


def test_a_seat_that_is_sent_away_is_told_once():
    """It resumes elsewhere, so it does not age here any more."""
    _, told, (seat,) = plain()
    seat.until = 1.0
    assert seat.send_away(Reason.RESTART) is True
    assert seat.send_away(Reason.AGED) is False
    assert told == [Reason.RESTART]


def test_a_seat_that_was_given_back_is_not_sent_away():
    """Nobody is there to be told."""
    _, told, (seat,) = plain()
    assert not seat.left
    seat.leave()
    assert seat.left
    assert seat.send_away(Reason.RESTART) is False
    assert told == []


@pytest.mark.parametrize(("position", "reason"), [(2, Reason.ENDED), (1, Reason.RESTART)])
def test_a_seat_that_has_all_of_an_ended_job_is_told_the_end(position, reason):
    """It does not resume; one that misses something does."""
    audience, told, (seat,) = plain()
    audience.log.append([event(0), Frame.control("end", {})])
    seat.position = position
    assert seat.send_away(Reason.RESTART) is (reason is Reason.RESTART)
    assert told == [reason]
