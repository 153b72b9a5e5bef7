"""Events of a worker that emits many small ones: collected, and published together.

Invariant: events go out in the order in which they were added, and all that were added have been tried when
the block is left in order. `add` never waits; at `LIMIT` events that could not be published yet the oldest
are dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType

from hub.ending import end_tasks
from hub.job.catalogue import TypedEvent
from hub.job.event import EventId

logger = logging.getLogger("hub.publisher")

LIMIT = 10_000
"""Events that wait while Redis is slow: some megabytes, a minute of tokens."""

Item = TypedEvent | tuple[str, object]


class Batch:
    """Events of one job on their way out. `dropped` counts those that there was no room for."""

    def __init__(
        self, emit_many: Callable[[list[Item]], Awaitable[list[EventId]]], *, every: float, size: int
    ) -> None:
        if every <= 0 or size < 1:
            raise ValueError(f"expected a time and a size above 0, got {every} and {size}")
        self.dropped = 0
        self._emit_many = emit_many
        self._every = every
        self._size = size
        self._items: list[Item] = []
        self._filled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Batch:
        self._task = asyncio.create_task(self._run(), name="hub-batch")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None, "it was entered"
        failed = self._task.done() and not self._task.cancelled() and self._task.exception()
        await end_tasks(self._task)
        if failed and kind is None:
            raise failed
        await self._flush()

    def add(self, kind: str | TypedEvent, fields: object = None) -> None:
        """Add an event; `fields` as for `emit`."""
        if len(self._items) >= LIMIT:
            del self._items[0]
            self.dropped += 1
        self._items.append(kind if isinstance(kind, TypedEvent) else (kind, fields))
        if len(self._items) >= self._size:
            self._filled.set()

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._every):
                    await self._filled.wait()
            except TimeoutError:
                pass
            self._filled.clear()
            await self._flush()

    async def _flush(self) -> None:
        while self._items:
            lot, self._items = self._items[: self._size], self._items[self._size :]
            await self._emit_many(lot)
