"""A sink of a subscription, which keeps what it hears."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Ear:
    """Counts what a job's feed would do, and wakes a test that waits."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.doubts = 0
        self.misses = 0
        self._rung = asyncio.Event()

    def receive(self, data: bytes) -> None:
        self.got.append(data)
        self._rung.set()

    def missed(self) -> None:
        self.misses += 1
        self._rung.set()

    def doubt(self) -> None:
        self.doubts += 1
        self._rung.set()

    async def until(self, condition: Callable[[Ear], object]) -> None:
        async with asyncio.timeout(10):
            while not condition(self):
                self._rung.clear()
                await self._rung.wait()
