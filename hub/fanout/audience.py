"""Viewers: a `Seat` is a position in one log on one `Wire`; an `Audience` is all seats that get the same
bytes.

Invariant: `seat.position` decides everything. Equal to a batch's start: it gets the batch. Ahead: it already
has it. Behind: it is catching up from the log, in chunks, while its wire takes them. So there is no queue per
viewer, and a viewer that does not read costs one int. Only the feed's task and the wire's own resume move a
position, always without an await between look and change.
"""

from __future__ import annotations

import asyncio
import math
import sys
from typing import Generic, TypeVar

from hub.fanout.wire import Reason, Wire
from hub.job.frame import Format, Frame
from hub.job.log import Log
from hub.totals import Totals

P = TypeVar("P")

CHUNK = 64 * 1024
"""Bytes of bodies per catch-up write, and per live batch: a full write buffer (64 KiB), so memory stays
bounded."""

SLICE = 150
"""Seats written before the loop gets a turn: about 1.5 ms of writes. A timer fires after two or three turns,
so this bounds the delay of everything else to about 5 ms with 15,000 viewers on a job (tests/bench/stall.py;
16 ms with 500)."""

_LEFT = -sys.maxsize
"""No position of a log, where those of the past may be negative."""


class Seat(Generic[P]):
    """A position in one log on one wire. `until`: the loop time at which the stream ends (age.py), for the
    reason `last`. `told`: it was sent away, and only the wire's goodbye is missing.
    """

    __slots__ = ("audience", "last", "position", "told", "until", "wire")

    def __init__(self, audience: Audience[P], wire: Wire[P], position: int) -> None:
        self.audience = audience
        self.wire = wire
        self.position = position
        self.until = math.inf
        self.last = Reason.AGED
        self.told = False

    def catch_up(self) -> None:
        """Write what the log holds beyond this position, until the wire pauses or the end is reached."""
        log = self.audience.log
        wire = self.wire
        while not wire.paused and not self.left:
            if self.position < log.start:
                self.audience.totals.lagged += 1
                wire.finish(Reason.TOO_SLOW)
                return
            frames = log.slice(self.position, CHUNK)
            if not frames:
                if log.closed:
                    wire.finish(_last_reason(log))
                return
            self.position += len(frames)
            payload = self.audience.payload(frames)
            if payload is not None:
                wire.write(payload)

    @property
    def left(self) -> bool:
        """Returns True if the seat is given back."""
        return self.position == _LEFT

    def send_away(self, reason: Reason) -> bool:
        """End the stream, once. Returns True if the viewer is to resume elsewhere; one that has everything of
        a job that has ended is told the end instead.
        """
        if self.told or self.left:
            return False
        self.told = True
        log = self.audience.log
        over = log.closed and self.position == log.end
        self.wire.finish(_last_reason(log) if over else reason)
        return not over

    def leave(self) -> None:
        """Write nothing more to this seat, also from a fan-out that is under way. May be called twice."""
        self.position = _LEFT
        self.audience.seats.pop(self, None)


class Audience(Generic[P]):
    """All seats of one job that get the same bytes: one format, one filter."""

    __slots__ = ("__weakref__", "format", "is_paced", "last_write", "log", "seats", "totals", "types")

    def __init__(
        self, log: Log, fmt: Format[P], types: frozenset[str] | None, totals: Totals, now: float
    ) -> None:
        self.log = log
        self.format = fmt
        self.types = types
        # A dictionary keeps the order in which seats came, which is the order in which they lie in memory; a
        # set does not.
        self.seats: dict[Seat[P], None] = {}
        self.last_write = now  # loop time; the transport's heartbeat reads it
        self.is_paced = False  # pace.py knows it
        self.totals = totals

    def seat(self, wire: Wire[P], position: int) -> Seat[P]:
        """A new seat at `position`; the wire calls its `catch_up` when it is ready for bytes."""
        seat = Seat(self, wire, position)
        self.seats[seat] = None
        return seat

    def payload(self, frames: list[Frame]) -> P | None:
        """The payload of `frames` for one viewer, or None if the filter lets none through."""
        fmt, types = self.format, self.types
        parts = [frame.encoded(fmt) for frame in frames if types is None or frame.passes(types)]
        return fmt.join(parts) if parts else None

    async def deliver(self, start: int, frames: list[Frame], now: float) -> None:
        """Give the batch that begins at `start`, and is in the log
        already, to every seat that stands there.
        """
        payload = self.payload(frames)
        seats = list(self.seats)  # a copy: seats come and go between slices, and a write may end one
        for first in range(0, len(seats), SLICE):
            if first:
                await asyncio.sleep(0)
            self._write(seats[first : first + SLICE], start, len(frames), payload)
        if payload is not None:
            self.last_write = now

    def deliver_now(self, start: int, frames: list[Frame], now: float) -> None:
        """The same in one go, for not more than `SLICE` seats."""
        payload = self.payload(frames)
        self._write(list(self.seats), start, len(frames), payload)
        if payload is not None:
            self.last_write = now

    def _write(self, seats: list[Seat[P]], start: int, length: int, payload: P | None) -> None:
        delivered = 0
        for seat in seats:
            if seat.position == start and not seat.wire.paused:
                seat.position = start + length
                delivered += 1
                if payload is not None:
                    seat.wire.write(payload)
        if payload is not None:
            self.totals.deliveries += delivered

    async def finish(self) -> None:
        """The log is closed: end every seat that has all of it. The others end when they have caught up."""
        for count, seat in enumerate(list(self.seats), 1):
            if seat.position == self.log.end:
                seat.wire.finish(_last_reason(self.log))
            if count % SLICE == 0:
                await asyncio.sleep(0)

    async def beat(self, payload: P, now: float) -> None:
        """A heartbeat, which belongs to no position, to every seat that can take it."""
        self.last_write = now
        for count, seat in enumerate(list(self.seats), 1):
            if not seat.wire.paused:
                seat.wire.beat(payload)
            if count % SLICE == 0:
                await asyncio.sleep(0)


def _last_reason(log: Log) -> Reason:
    """Why a seat ends that has all of a closed log."""
    return Reason.NOT_FOUND if log.deleted else Reason.ENDED
