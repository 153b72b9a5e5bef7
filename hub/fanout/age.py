"""Streams end by age and resume, so that after a deploy behind a load balancer old processes empty by
themselves. A stream ends when the credentials of its viewer expire, too.

80 to 100 % of `HUB_STREAM_AGE`, different for each viewer, so that those who came at once do not go at once.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Iterable
from typing import Any

from hub.fanout.audience import Audience
from hub.fanout.wire import Reason
from hub.settings import Settings
from hub.totals import Totals

TICK = 5.0
"""Seconds between looks at every seat, or a hundredth of the age; 50,000 seats are about 5 ms, in slices."""

SLICE = 5_000
"""Seats looked at before the loop gets a turn, of one job or of many."""


def earlier(age: float, expiry: float) -> tuple[float, Reason]:
    """When a stream ends, and why, by its age or with its viewer's credentials."""
    return (age, Reason.AGED) if age < expiry else (expiry, Reason.EXPIRED)


class StreamAge:
    """Ends the seats of `audiences()` whose time is over while `run` runs."""

    def __init__(
        self, settings: Settings, audiences: Callable[[], Iterable[Audience[Any]]], totals: Totals
    ) -> None:
        self._totals = totals
        self._age = settings.stream_age
        self._audiences = audiences
        self._loop = asyncio.get_running_loop()

    def end(self) -> float:
        """When a stream that begins now is to end by age, in loop time."""
        return self._loop.time() + self._age * random.uniform(0.8, 1)

    def expiry(self, expires: float) -> float:
        """The loop time of `expires`, which is in seconds since 1970."""
        return self._loop.time() + expires - time.time() if expires < math.inf else math.inf

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(min(TICK, self._age / 100))
            looked = 0
            for audience in list(self._audiences()):
                await self._look(audience)
                looked += len(audience.seats)
                if looked >= SLICE:
                    looked = 0
                    await asyncio.sleep(0)

    async def _look(self, audience: Audience[Any]) -> None:
        now = self._loop.time()
        for count, seat in enumerate(list(audience.seats), 1):
            if seat.until <= now:
                self._totals.aged += seat.send_away(seat.last)
            if count % SLICE == 0:
                await asyncio.sleep(0)
