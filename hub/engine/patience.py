"""How long a viewer on its way in waits for Redis.

Invariant: every wait ends, by an answer, after `LIMIT` seconds, or when the hub drains. A viewer that still
waited when the server stops would get a 500, after which an EventSource does not reconnect.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from hub.errors import BrokerUnavailable

LIMIT = 10.0
"""Seconds that a first viewer waits for Redis: a confirmation (5 s) and two reads (2 s each)."""


class Patience:
    """The waits of one hub. `len` is the number of viewers that wait now."""

    def __init__(self) -> None:
        self._limits: set[asyncio.Timeout] = set()
        self.has_ended = False

    def __len__(self) -> int:
        return len(self._limits)

    @asynccontextmanager
    async def bound(self) -> AsyncIterator[None]:
        """Bounds the waits in its block. Raises BrokerUnavailable."""
        limit = asyncio.timeout(0 if self.has_ended else LIMIT)
        self._limits.add(limit)
        try:
            async with limit:
                yield
        except TimeoutError as error:
            raise BrokerUnavailable("expected an answer from Redis in time") from error
        finally:
            self._limits.discard(limit)

    def end(self) -> None:
        """End every wait, and those that begin later at once."""
        self.has_ended = True
        for limit in list(self._limits):
            with suppress(RuntimeError):  # it is over already
                limit.reschedule(asyncio.get_running_loop().time())
