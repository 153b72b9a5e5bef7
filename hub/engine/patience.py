"""How long a viewer on its way in waits for Redis.

Invariant: every wait ends, by an answer, after `LIMIT` seconds, or when the hub drains. A viewer that still
waited when the server stops would get a 500, after which an EventSource does not reconnect.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType

from hub.errors import BrokerUnavailable

LIMIT = 10.0
"""Seconds that a first viewer waits for Redis: a confirmation (5 s) and two reads (2 s each)."""


class Patience:
    """The waits of one hub. `len` is the number of viewers that wait now."""

    def __init__(self) -> None:
        # The loop time at which each has to end, in that order. There is one clock for all: a timer for each
        # costs as much as its wait.
        self._waits: dict[Bound, float] = {}
        self._clock: asyncio.TimerHandle | None = None
        self.has_ended = False

    def __len__(self) -> int:
        return len(self._waits)

    def bound(self) -> Bound:
        """Bounds the waits in its block: `async with`. Raises BrokerUnavailable."""
        return Bound(self)

    def begin(self, wait: Bound) -> None:
        """A viewer begins to wait."""
        loop = asyncio.get_running_loop()
        self._waits[wait] = loop.time() + LIMIT
        if self.has_ended:
            wait.expire()
        elif self._clock is None:
            self._clock = loop.call_later(LIMIT, self._look)

    def leave(self, wait: Bound) -> None:
        """The pair of `begin`."""
        del self._waits[wait]

    def _look(self) -> None:
        self._clock = None
        loop = asyncio.get_running_loop()
        for wait, end in list(self._waits.items()):
            if end > loop.time():
                self._clock = loop.call_at(end, self._look)
                return
            wait.expire()

    def end(self) -> None:
        """End every wait, and those that begin later at once."""
        self.has_ended = True
        if self._clock is not None:
            self._clock.cancel()
        for wait in self._waits:
            wait.expire()


class Bound:
    """One wait."""

    __slots__ = ("_patience", "_timeout")

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._timeout = asyncio.Timeout(None)

    def expire(self) -> None:
        """End the wait."""
        with suppress(RuntimeError):  # it is over already
            self._timeout.reschedule(0)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._patience.begin(self)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._patience.leave(self)
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError as late:
            raise BrokerUnavailable("expected an answer from Redis in time") from late
