"""Streams end by age: at a time of their own, by the next look, and in slices."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time

import pytest

from hub.fanout import age as module
from hub.fanout.age import StreamAge, earlier
from hub.fanout.audience import Audience
from hub.fanout.wire import Reason
from hub.job.event import EventId
from hub.job.log import Log
from hub.settings import Settings
from hub.totals import Totals

pytestmark = pytest.mark.looptime


class Wire:
    """A wire that notes when it was finished, and gives its seat back."""

    paused = False

    def __init__(self, audience: Audience, until: float) -> None:
        self.told: list[tuple[Reason, float]] = []
        self.seat = audience.seat(self, 0)
        self.seat.until = until

    def finish(self, reason: Reason) -> None:
        self.told.append((reason, asyncio.get_running_loop().time()))
        self.seat.leave()


class World:
    """Some viewers whose streams end at the times given, and what ends them; an age of 100 s is a look each second."""

    def __init__(self, *ends: float) -> None:
        self.totals = Totals()
        self.audience = Audience(Log(origin=EventId(5, 0).previous), None, None, self.totals, 0.0)
        self.wires = [Wire(self.audience, end) for end in ends]
        self.age = StreamAge(Settings(stream_age=100), lambda: [self.audience], self.totals)

    async def run(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.age.run()


async def test_a_stream_ends_after_80_to_100_percent_of_the_age():
    """Different for each viewer, and from now on."""
    await asyncio.sleep(1000)
    ends = [World().age.end() for _ in range(300)]
    assert 1080 <= min(ends) < 1083
    assert 1097 < max(ends) <= 1100


async def test_a_stream_ends_with_its_viewers_credentials():
    """If they expire before it is old; credentials that never expire change nothing."""
    expiry = World().age.expiry(time.time() + 10)
    assert expiry == pytest.approx(10, abs=1)
    assert earlier(80.0, expiry) == (expiry, Reason.EXPIRED)
    assert earlier(80.0, World().age.expiry(time.time() + 101)) == (80.0, Reason.AGED)
    assert World().age.expiry(math.inf) == math.inf


async def test_streams_end_at_the_first_look_that_finds_them_old():
    """Neither before their time nor a look later."""
    world = World(0.5, 2.0, 2.5, 50.0)
    await world.run(10.5)
    assert [wire.told for wire in world.wires] == [
        [(Reason.AGED, pytest.approx(1))],
        [(Reason.AGED, pytest.approx(2))],
        [(Reason.AGED, pytest.approx(3))],
        [],
    ]
    assert world.totals.aged == 3


async def test_a_look_goes_in_slices(monkeypatch):
    """A turn for the others after each slice, also where nobody is old."""
    monkeypatch.setattr(module, "SLICE", 2)
    world = World(0.0, 0.0, 9.0, 0.0, 0.0)
    seen = []
    look = world.age._look(world.audience)
    with contextlib.suppress(StopIteration):
        while look.send(None) is None:
            seen.append(len(world.audience.seats))
    assert seen == [3, 2]
