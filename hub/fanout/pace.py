"""Which audiences are silent and need a heartbeat: a heap by the time at which each of them may be due.

Invariant: an audience with a seat is in the heap. So a look costs nothing for those that are not due, which
are nearly all, and a write costs nothing here.
"""

from __future__ import annotations

import heapq
import itertools
import weakref
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from hub.fanout.audience import Audience


class Pace:
    """Of one process. `interval`: seconds of silence after which a heartbeat is due."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        # By format. Weak, for an audience holds a window, and its place here outlives it by an interval.
        self._due: defaultdict[object, list[tuple[float, int, weakref.ref[Audience[Any]]]]] = defaultdict(
            list
        )
        self._number = itertools.count()  # two of the same time are not compared

    def add(self, audience: Audience[Any]) -> None:
        """`audience` gets a seat. Does nothing if it is known."""
        if not audience.is_paced:
            audience.is_paced = True
            self._push(audience.last_write, audience)

    def silent(self, now: float, *formats: object) -> Iterator[Audience[Any]]:
        """The audiences with one of these formats that nothing was written to for an interval. Each gets a
        heartbeat now.
        """
        for fmt in formats:
            due = self._due[fmt]
            while due and due[0][0] + self._interval <= now:
                audience = heapq.heappop(due)[2]()
                if audience is None:
                    continue
                if not audience.seats:
                    audience.is_paced = False
                    continue
                is_silent = audience.last_write + self._interval <= now
                self._push(now if is_silent else audience.last_write, audience)
                if is_silent:
                    yield audience

    def _push(self, since: float, audience: Audience[Any]) -> None:
        heapq.heappush(self._due[audience.format], (since, next(self._number), weakref.ref(audience)))
