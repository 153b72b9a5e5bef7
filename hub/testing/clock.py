"""Time by hand: the event loop's clock, moved forward."""

from __future__ import annotations

import asyncio

STEP = 0.25
"""Seconds of one step. What runs once a second runs once a second."""

TURNS = 6
"""Turns of the loop after each step: a write, its delivery, and what that causes."""


class Clock:
    """The clock of a loop. Timers of everything in the loop run by it; the operating system's clock stays.

    Raises TypeError for a loop that does not let its clock be moved (uvloop).
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, pause: float) -> None:
        if not isinstance(loop, asyncio.BaseEventLoop):
            raise TypeError(f"expected asyncio's own event loop, whose clock can be moved, got {type(loop)}")
        self._real = loop.time
        self._loop = loop
        self._moved = 0.0
        self._pause = pause  # real seconds after each step, in which another process can answer
        loop.time = self._time  # type: ignore[method-assign]

    def _time(self) -> float:
        return self._real() + self._moved

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass. Returns when what they cause has happened."""
        while seconds > 0:
            self._moved += min(STEP, seconds)
            seconds -= STEP
            for _ in range(TURNS):
                await asyncio.sleep(self._pause / TURNS)
