"""Notices when the event loop stood still: a blocking call, a machine without CPU, a process that was frozen.

Everything in a process waits while it does, so this is the first thing to know when heartbeats come late. By the monotonic clock:
a wall clock that jumps is no stall.
"""

from __future__ import annotations

import asyncio
import logging

log = logging.getLogger("hub.stall")

PERIOD = 0.25
"""Seconds between looks."""

LIMIT = 0.5
"""Seconds late that are worth a line: a viewer does not notice less, and a slice of a fan-out is a hundredth of it."""


class StallWatch:
    """Counts and logs stalls while `run` runs."""

    def __init__(self) -> None:
        self.stalls = 0

    async def run(self) -> None:
        """Look until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(PERIOD)
            late = loop.time() - before - PERIOD
            if late > LIMIT:
                self.stalls += 1
                log.warning(
                    "the event loop stood still for %.1f s; heartbeats and events waited for it", late
                )
