"""Prometheus metrics, read from `Hub.totals` at each scrape, so that they add no work to delivering events.

Several processes write their totals to a `Board` in shared memory; any of them answers a scrape with the sum.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, fields
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from hub.engine.totals import Totals

_GAUGES = {
    "viewers": "Viewers connected now",
    "jobs": "Jobs watched now",
    "window_bytes": "Bytes of event bodies in memory",
    "inbox": "Messages that wait for a feed",
    "connected": "Processes whose subscription connection to Redis is up",
    "draining": "Processes that are draining their viewers",
}

_COUNTERS = {
    "opened": "Viewers that joined",
    "refused": "Viewers refused at a cap",
    "unavailable": "Viewers refused because Redis did not answer",
    "deliveries": "Payloads written to viewers",
    "heals": "Holes for which the retained log was read",
    "gaps": "Gap frames sent to a job's viewers",
    "resyncs": "Resync frames sent to a job's viewers",
    "messages": "Pub/Sub messages received",
    "redis_reconnects": "Subscription connections lost, and failed attempts to connect",
    "lagged": "Viewers closed because they fell out of the window",
    "blocked": "Viewers cut off because they took no bytes for the send timeout",
    "moved": "Viewers told to reconnect elsewhere because this process ends",
    "aged": "Streams ended by age, to be resumed",
    "checks_found": "Position checks that found something to look into",
    "workers_lost": "Jobs whose worker's lease lapsed",
    "stalls": "Times the event loop was blocked for half a second or more",
}


class Board:
    """The totals of several processes in shared memory: a row for each, and a last row for ended ones.

    It must be made before the workers are forked. The last row keeps what ended workers counted, so that a
    counter never falls.
    """

    _ROW = struct.Struct(f"{len(fields(Totals))}d")

    def __init__(self, rows: int) -> None:
        self._gone = rows
        self._memory = mmap.mmap(-1, (rows + 1) * self._ROW.size)

    def begin(self, row: int) -> None:
        """Give `row` to a new process: add its predecessor's counters to the last row, and zero it."""
        counted = zip(fields(Totals), self._read(self._gone), self._read(row), strict=True)
        self._put(self._gone, [gone + old if field.name in _COUNTERS else 0 for field, gone, old in counted])
        self._put(row, [0] * len(fields(Totals)))

    def write(self, row: int, totals: Totals) -> None:
        """Write one process's totals to its row."""
        self._put(row, astuple(totals))

    def sum(self) -> Totals:
        """Returns the sum over all processes. A row may be a second old."""
        rows = map(self._read, range(self._gone + 1))
        return Totals(*(int(sum(column)) for column in zip(*rows, strict=True)))

    def _read(self, row: int) -> tuple[float, ...]:
        return self._ROW.unpack_from(self._memory, row * self._ROW.size)

    def _put(self, row: int, values: Iterable[float]) -> None:
        self._ROW.pack_into(self._memory, row * self._ROW.size, *values)


class _Collector:
    def __init__(self, read: Callable[[], Totals]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        totals: Any = self._read()
        for name, words in _GAUGES.items():
            yield GaugeMetricFamily(f"hub_{name}", words, value=getattr(totals, name))
        for name, words in _COUNTERS.items():
            yield CounterMetricFamily(f"hub_{name}", words, value=getattr(totals, name))


def registry(read: Callable[[], Totals]) -> CollectorRegistry:
    """Returns a registry that calls `read` at each scrape."""
    made = CollectorRegistry()
    made.register(_Collector(read))
    return made
