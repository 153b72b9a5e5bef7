"""Prometheus metrics of one process, or of several that put their totals on a `Board`, whichever of them is
scraped."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator
from dataclasses import astuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from hub.totals import FIELDS, Totals, is_counter


class Board:
    """The totals of several processes in memory they share: one row for each, and one for processes that are
    gone.

    It is made before the workers are. A counter never falls: what a dead worker had counted stays in the last
    row.
    """

    _ROW = struct.Struct(f"{len(FIELDS)}d")

    def __init__(self, rows: int) -> None:
        self._gone = rows
        self._memory = mmap.mmap(-1, (rows + 1) * self._ROW.size)

    def begin(self, row: int) -> None:
        """A new process uses this row from now on."""
        self.write(self._gone, self._read(self._gone) + self._read(row).counters())
        self.write(row, Totals())

    def write(self, row: int, totals: Totals) -> None:
        """Set one process's totals."""
        self._ROW.pack_into(self._memory, row * self._ROW.size, *astuple(totals))

    def sum(self) -> Totals:
        """All processes together; a row may be a second old."""
        return sum(map(self._read, range(self._gone + 1)), Totals())

    def _read(self, row: int) -> Totals:
        return Totals(*map(int, self._ROW.unpack_from(self._memory, row * self._ROW.size)))


class _Collector:
    def __init__(self, read: Callable[[], Totals]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        totals = self._read()
        groups: dict[str, CounterMetricFamily] = {}
        for one in FIELDS:
            value, words = getattr(totals, one.name), one.metadata["words"]
            if (group := one.metadata.get("group")) is None:
                family = CounterMetricFamily if is_counter(one) else GaugeMetricFamily
                yield family(f"hub_{one.name}", words, value=value)
                continue
            if group not in groups:
                groups[group] = CounterMetricFamily(f"hub_{group}", words, labels=["reason"])
            groups[group].add_metric([one.name.removeprefix(f"{group}_")], value)
        yield from groups.values()


def registry(read: Callable[[], Totals]) -> CollectorRegistry:
    """A registry that calls `read()` at each scrape."""
    made = CollectorRegistry()
    made.register(_Collector(read))
    return made
