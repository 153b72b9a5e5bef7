"""The heartbeat's clock: one task per transport, not a timer per viewer, which would be 50,000 timers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from hub.ending import end_tasks
from hub.quiet import quiet_log

logger = quiet_log("hub.heartbeat")


class Heartbeat:
    """Calls `beat(now)` about once a second from `start` until `aclose`; `now` is loop time in seconds.

    `heartbeat` is the transport's heartbeat interval in seconds; a tick is at most a fifth of it.
    """

    def __init__(self, name: str, beat: Callable[[float], Awaitable[None]], *, heartbeat: float) -> None:
        self._name = name
        self._beat = beat
        self._period = min(1.0, heartbeat / 5)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the task on the running loop."""
        self._task = asyncio.create_task(self._tick(), name=f"hub-heartbeat-{self._name}")

    async def aclose(self) -> None:
        """End the task."""
        if self._task is not None:
            await end_tasks(self._task)

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._period)
            try:
                await self._beat(loop.time())
            except Exception:
                logger.exception("a %s heartbeat failed", self._name)
