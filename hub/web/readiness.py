"""Asks Redis whether it answers, at most once a second for all who ask."""

from __future__ import annotations

import asyncio

from hub.engine.hub import Hub
from hub.errors import HubError

INTERVAL = 1.0
"""Seconds for which an answer of Redis counts: anybody may ask, and Redis is everybody's."""


class Readiness:
    """Whether the Redis of one hub answers."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._asked: asyncio.Task[bool] | None = None
        self._at = 0.0

    async def answers(self) -> bool:
        """Ask, or return what was found within the last second."""
        now = self._hub.loop.time()
        if self._asked is None or (self._asked.done() and now - self._at >= INTERVAL):
            self._at = now
            self._asked = asyncio.create_task(self._ask())
        await asyncio.wait([self._asked])
        return self._asked.result()

    async def _ask(self) -> bool:
        if not self._hub.broker.subscriber.connected:
            return False
        try:
            await self._hub.broker.ping()
        except HubError:
            return False
        return True
