"""How much of the retained log is read at once: reads follow the size of what they read. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from hub.fanout.audience import CHUNK
from hub.job.record import Entry

AIM = 2 * CHUNK
"""Bytes of a read: each viewer of the past has its own copy, and an event may be a megabyte."""

FIRST = 20
"""Entries of the first read, when nothing is known of their size."""

MOST = 500
"""Entries per read: about 100 KB of small events."""


def first_limit(size: int, number: int) -> int:
    """Entries of a first read, near `number` events that have `size` bytes."""
    return _limit(size, number) if number and size else FIRST


def expected(limit: int, size: int, number: int) -> int:
    """Bytes that a read of `limit` entries will bring, about, near `number` events that have `size` bytes."""
    return limit * size // number if number else AIM


def next_limit(limit: int, entries: Sequence[Entry]) -> int:
    """Entries of the next read, after one of `limit` that brought `entries`. It grows by steps."""
    size = sum(len(entry.body) for entry in entries)
    return min(_limit(size, len(entries)), limit * 10) if entries else limit


def _limit(size: int, number: int) -> int:
    return max(1, min(MOST, AIM * number // max(1, size)))
