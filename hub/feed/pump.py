"""Delivers the messages of all jobs of a process, once per turn of the loop. A wakeup and a task switch for
each job would cost as much as the message itself, where a job has one or two viewers.

Invariant: a turn writes about as much as a fan-out does before it gives the loop a turn.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from hub.fanout.audience import SLICE
from hub.timings import Timings


class Pumped(Protocol):
    """A job that has news."""

    def pump(self) -> int:
        """Deliver what can be delivered without waiting. Returns the number of seats that were looked at."""


class Pump:
    """Of one process."""

    __slots__ = ("_is_due", "_ready", "_since", "timings")

    def __init__(self, timings: Timings) -> None:
        self.timings = timings
        self._ready: deque[Pumped] = deque()
        self._is_due = False
        self._since = 0.0  # loop time at which the first of `_ready` came

    def push(self, job: Pumped) -> None:
        """`job` has news. Its `pump` is called once, soon."""
        self._ready.append(job)
        self._schedule()

    def _schedule(self) -> None:
        if not self._is_due:
            self._is_due = True
            loop = asyncio.get_running_loop()
            self._since = loop.time()
            loop.call_soon(self._run)

    def _run(self) -> None:
        self._is_due = False
        self.timings.delivery["queue"].observe(asyncio.get_running_loop().time() - self._since)
        work = 0
        while self._ready and work < SLICE:
            work += 1 + self._ready.popleft().pump()  # a job that nobody watches any more is work, too
        if self._ready:
            self._schedule()
