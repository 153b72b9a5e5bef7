"""Notices when the event loop stood still: a blocking call, a machine without CPU, a process that was frozen.

Everything in the process waits meanwhile, so a stall is the first thing to look for when heartbeats come
late. It is measured by the monotonic clock: a wall clock that jumps is no stall.
"""

from __future__ import annotations

import asyncio
import logging

from hub.totals import Totals

logger = logging.getLogger("hub.stall")

PERIOD = 0.25
"""Seconds between looks."""

LIMIT = 0.5
"""Seconds of lateness that are worth a line: viewers do not notice less, and a slice of a fan-out is a
hundredth."""


class StallWatch:
    """Counts and logs stalls while `run` runs."""

    def __init__(self, totals: Totals) -> None:
        self._totals = totals

    async def run(self) -> None:
        """Look until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(PERIOD)
            late = loop.time() - before - PERIOD
            if late > LIMIT:
                self._totals.stalls += 1
                logger.warning(
                    "the event loop stood still for %.1f s; heartbeats and events waited for it", late
                )
