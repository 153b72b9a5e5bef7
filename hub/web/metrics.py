"""Prometheus metrics of one process, or of several that put their totals on a `Board`, whichever of them is
scraped."""

from __future__ import annotations

import mmap
import os
import platform
import struct
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric

from hub.timings import CELLS, Timings
from hub.totals import FIELDS, Totals, is_counter


class Board:
    """The totals of several processes in memory they share: one row for each, and one for processes that are
    gone.

    It is made before the workers are. A counter never falls: what a dead worker had counted stays in the last
    row.
    """

    _ROW = struct.Struct(f"{len(FIELDS) + CELLS}d")
    _PID = struct.Struct("q")

    def __init__(self, rows: int) -> None:
        self._gone = rows
        self._memory = mmap.mmap(-1, (rows + 1) * self._ROW.size)
        self._pids = mmap.mmap(-1, rows * self._PID.size)

    def begin(self, row: int) -> None:
        """This process, which is new, uses this row from now on."""
        self._PID.pack_into(self._pids, row * self._PID.size, os.getpid())
        self.write(self._gone, self._read(self._gone) + self._read(row).counters())
        self.write(row, Totals())

    def write(self, row: int, totals: Totals) -> None:
        """Set one process's totals."""
        self._ROW.pack_into(self._memory, row * self._ROW.size, *_numbers(totals), *totals.timings.cells())

    def sum(self) -> Totals:
        """All processes together; a row may be a second old."""
        return sum(map(self._read, range(self._gone + 1)), Totals())

    def pids(self) -> list[int]:
        """The process of each row, the last one that began; 0 where none has."""
        return [self._PID.unpack_from(self._pids, row * self._PID.size)[0] for row in range(self._gone)]

    def _read(self, row: int) -> Totals:
        cells = self._ROW.unpack_from(self._memory, row * self._ROW.size)
        return Totals(*map(int, cells[: len(FIELDS)]), timings=Timings.of(cells[len(FIELDS) :]))


def _numbers(totals: Totals) -> list[int]:
    return [getattr(totals, one.name) for one in FIELDS]


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
        yield from _histograms(totals.timings)
        yield InfoMetricFamily(
            "hub_build",
            "What runs",
            value={"version": version("push-hub"), "python": platform.python_version()},
        )


def _histograms(timings: Timings) -> Iterator[Metric]:
    words = "Seconds of a delivery, by hop: redis (a PING is answered), queue (a message waits), write (to one viewer)"
    delivery = HistogramMetricFamily("hub_delivery_latency_seconds", words, labels=["hop"])
    for hop, one in timings.delivery.items():
        delivery.add_metric([hop], list(one.buckets()), one.total)
    words = "Seconds from a viewer's request to its place in the stream, by transport"
    joins = HistogramMetricFamily("hub_join_seconds", words, labels=["transport"])
    for transport, one in timings.joins.items():
        joins.add_metric([transport], list(one.buckets()), one.total)
    words = "Seconds in which a batch is written to all viewers of its job"
    fanout = HistogramMetricFamily("hub_fanout_seconds", words)
    fanout.add_metric([], list(timings.fanout.buckets()), timings.fanout.total)
    yield from (delivery, joins, fanout)


class _Processes:
    """`process_*` of each worker, by its row. Summed, the seconds of CPU would fall with each worker that is
    replaced, and a counter that falls is taken for one that began anew.
    """

    def __init__(self, board: Board) -> None:
        self._board = board

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for row, pid in enumerate(self._board.pids()):
            for metric in ProcessCollector(pid=partial(str, pid), registry=None).collect():
                family = families.setdefault(
                    metric.name, Metric(metric.name, metric.documentation, metric.type)
                )
                for sample in metric.samples:
                    family.add_sample(sample.name, {"worker": str(row)}, sample.value)
        yield from families.values()


def registry(read: Callable[[], Totals], board: Board | None = None) -> CollectorRegistry:
    """A registry that calls `read()` at each scrape. `board`: of several processes, which are the hub
    together; else this one's `process_*` metrics are the hub's.
    """
    made = CollectorRegistry()
    made.register(_Collector(read))
    if board is None:
        ProcessCollector(registry=made)
    else:
        made.register(_Processes(board))
    return made
