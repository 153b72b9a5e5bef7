"""The memory that events may take in one process.

Invariant: at the bound no further job is watched until one that nobody watches is let go, or others shrink;
jobs that are watched go on.
"""

from __future__ import annotations

import os
from pathlib import Path

from hub.errors import BrokerUnavailable
from hub.totals import Totals

LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where a container's limit stands (cgroup v2 and v1)."""

COPIES = 3
"""A body in a window, with what was parsed of it and its encodings."""

PAST_COPIES = 2
"""A retained event that was read for one viewer, and its bytes in the buffer of a viewer that does not read.
"""

PAST_SHARE = 4
"""The share of the budget that the past may take: a quarter."""


def held(totals: Totals) -> int:
    """Bytes that events take now, about."""
    past = PAST_COPIES * totals.past_bytes
    return COPIES * totals.window_bytes + totals.state_bytes + totals.inbox_bytes + past


def budget(setting: int) -> int:
    """The bound in bytes: `setting`, or half of what the container or the machine has."""
    return setting or _available() // 2


class Past:
    """The share of the budget for retained events that were read for
    one viewer each, and are not sent yet.
    """

    def __init__(self, memory: int, totals: Totals) -> None:
        self._most = memory // PAST_SHARE // PAST_COPIES
        self._totals = totals

    def reserve(self, size: int, before: int) -> int:
        """Hold `size` bytes in place of `before`, before they are read: a thousand viewers may come before
        the first read is back. Returns `size`. Raises BrokerUnavailable if slow readers have all of it.
        """
        others = self._totals.past_bytes - before
        if others and others + size > self._most:
            raise BrokerUnavailable("expected room to read the past, got slow readers that have all of it")
        return self.hold(size, before)

    def hold(self, size: int, before: int) -> int:
        """Hold `size` bytes in place of `before`. Returns `size`."""
        self._totals.past_bytes += size - before
        return size


def _available() -> int:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in LIMITS:
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        if text.isdecimal():
            return min(machine, int(text))
    return machine
