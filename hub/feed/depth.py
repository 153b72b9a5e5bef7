"""How far back a window reaches: it begins with what its first viewer needs; the rest is read on request.

Invariant: what is read is put in front of the window, and meets it: nothing is missing between.
"""

from __future__ import annotations

import asyncio

from hub.broker.seam import Broker
from hub.feed.window import Window
from hub.settings import Settings

LEAST = 2
"""Events of the smallest beginning: the last one tells whether the log was written again."""


class Depth:
    """Of one window. `first`: the events that its first viewer needs; None: as many as the bounds allow."""

    __slots__ = ("_broker", "_most", "_reading", "_size", "_window", "first")

    def __init__(self, window: Window, broker: Broker, settings: Settings, first: int | None) -> None:
        self.first = (
            settings.window_events if first is None else min(max(first, LEAST), settings.window_events)
        )
        self._window = window
        self._broker = broker
        self._most = settings.window_events
        self._size = settings.window_bytes
        self._reading: asyncio.Lock | None = None  # made by the first who needs it; most jobs have none

    async def reach(self, number: int | None = None) -> None:
        """Return when the window has its last `number` events, or what bounds and the retained log allow of
        them; None: all, and the state says what they say. Raises BrokerUnavailable. Cancel-safe.
        """
        wanted = self._most if number is None else min(number, self._most)
        if self._reaches(wanted):
            return
        if self._reading is None:
            self._reading = asyncio.Lock()
        async with self._reading:
            if self._reaches(wanted):
                return
            window, log, job = self._window, self._window.log, self._window.state.job
            assert job is not None, "the window is open"
            limit = wanted - (log.end - log.start)
            entries = await self._broker.before(job, log.origin.next, limit=limit, size=self._size - log.size)
            if not window.is_whole:  # a numbering that was restarted meanwhile has no past
                window.recall(entries, whole=wanted == self._most or len(entries) < limit)

    def _reaches(self, wanted: int) -> bool:
        log = self._window.log
        return self._window.is_whole or log.end - log.start >= wanted
