"""Prometheus metrics, read from `statistics()` when they are asked for, so that counting costs the hot path nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric


@dataclass(frozen=True, slots=True)
class Totals:
    """The process in numbers; `Hub.totals` makes it."""

    viewers: int
    jobs: int
    opened: int
    refused: int
    deliveries: int
    window_bytes: int
    inbox: int
    heals: int
    gaps: int
    resyncs: int
    messages: int
    reconnects: int
    connected: bool
    draining: bool


_GAUGES = {
    "viewers": "Viewers connected now",
    "jobs": "Jobs watched now",
    "window_bytes": "Bytes of event bodies in memory",
    "inbox": "Messages that wait for a feed",
    "connected": "1 while the subscription connection to Redis is up",
    "draining": "1 while viewers are moved away",
}

_COUNTERS = {
    "opened": "Viewers that came in",
    "refused": "Viewers refused at a cap",
    "deliveries": "Payloads written to viewers",
    "heals": "Holes looked up in the retained log",
    "gaps": "Gap frames sent to a job's viewers",
    "resyncs": "Resync frames sent to a job's viewers",
    "messages": "Pub/Sub messages received",
    "reconnects": "Subscription connections lost",
}


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
    """A registry that reads `read()` at each scrape."""
    made = CollectorRegistry()
    made.register(_Collector(read))
    return made
