"""The drain: a process that ends moves its viewers away, evenly over a window, so that they do not all come
back at once.

Invariant: every seat is told once, also one that is taken after the window.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from typing import Any

from hub.engine.patience import Patience
from hub.fanout.audience import Audience, Seat
from hub.fanout.wire import Reason
from hub.totals import Totals

STEP = 0.1
"""Seconds between two lots of viewers that are moved away."""

LEAST = 20
"""Viewers of the smallest lot. So few reconnects harm nobody, and a developer's server reloads at once."""


class Drain:
    """Moves the seats of `audiences()` away over `window` seconds while `run` runs."""

    def __init__(
        self,
        window: float,
        audiences: Callable[[], Iterable[Audience[Any]]],
        patience: Patience,
        totals: Totals,
    ) -> None:
        self._window = window
        self._audiences = audiences
        self._patience = patience
        self._totals = totals
        self._done = asyncio.Event()

    async def run(self) -> None:
        """Tell a lot of viewers each step, also those that come in late, until cancelled."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._window
        while True:
            if seats := self._untold():
                steps = max(1, int((end - loop.time()) / STEP))
                # Jobs that have ended come first: their viewers need no other hub, and there is time to tell
                # them so.
                ended = [seat for seat in seats if seat.audience.log.closed]
                lot = min(len(seats), max(LEAST, len(seats) // steps))
                self._tell(ended[:lot] or random.sample(seats, lot))
            if not self._untold() and not self._patience:
                self._done.set()
            await asyncio.sleep(STEP)

    async def wait_done(self) -> None:
        """Return when every viewer is told, and none is on its way in. Cancel-safe."""
        await self._done.wait()

    def finish(self) -> None:
        """Move every viewer away at once."""
        self._tell(self._untold())
        self._done.set()

    def _tell(self, seats: list[Seat[Any]]) -> None:
        for seat in seats:
            self._totals.moved += seat.send_away(Reason.RESTART)

    def _untold(self) -> list[Seat[Any]]:
        return [seat for audience in self._audiences() for seat in audience.seats if not seat.told]
