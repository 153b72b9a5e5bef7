"""The load of a benchmark, its result, and the table that shows the result."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from hub.bench.source import SMALLEST
from hub.bench.target import Transport
from hub.bench.viewers import Viewer
from hub.errors import InvalidSettings


@dataclass(frozen=True, slots=True)
class Load:
    """`viewers` spread over `jobs`; `rate` events per second over all jobs, of `size` bytes.

    Events are published for `duration` seconds, after `warm_up` seconds of others. With rate 0 the viewers
    stay idle. `behind`: events of each job that are published before the viewers come, who are sent them.
    Raises InvalidSettings for values that make no benchmark.
    """

    viewers: int
    jobs: int = 1
    rate: float = 20.0
    size: int = 200
    duration: float = 10.0
    warm_up: float = 1.0
    behind: int = 0

    def __post_init__(self) -> None:
        if self.viewers < self.jobs or self.jobs < 1:
            raise InvalidSettings(
                f"expected at least one viewer per job, got {self.viewers} for {self.jobs} jobs"
            )
        if self.size < SMALLEST:
            raise InvalidSettings(f"expected events of at least {SMALLEST} bytes, got {self.size}")
        if self.rate < 0 or self.duration <= 0:
            raise InvalidSettings(
                f"expected a rate >= 0 and a duration > 0, got {self.rate} and {self.duration}"
            )

    def expected(self, viewer: Viewer, events: int) -> int:
        """How many of `events` are for `viewer`: event `i` and viewer `i` belong to job `i % jobs`."""
        full, more = divmod(events, self.jobs)
        return full + (viewer.index % self.jobs < more)


@dataclass(frozen=True, slots=True)
class Result:
    """The figures. Times are in seconds, latencies in ms, memory in bytes. None: not measured."""

    viewers: int
    refused: int
    closed: int
    first_refusal: str
    joins_per_second: float
    cpu_per_join: float | None
    rss_per_viewer: float | None
    uss_per_viewer: float | None
    events: int
    events_per_second: float
    expected: int
    delivered: int
    lost: int
    repeated: int
    deliveries_per_second: float
    cpu_per_delivery: float | None
    cpu_share: float | None
    waited_share: float | None
    client_share: float
    p50: float | None
    p99: float | None
    p999: float | None

    @property
    def flawless(self) -> bool:
        """Returns True if every viewer was let in, stayed connected, and got every event exactly once."""
        return not self.complaints

    @property
    def complaints(self) -> list[str]:
        """One sentence for each kind of failure that was seen."""
        found = {
            f"{self.refused:,} viewers were not let in, the first: {self.first_refusal}": self.refused,
            f"{self.closed:,} viewers were closed by the server": self.closed,
            f"{self.lost:,} of {self.expected:,} deliveries were lost": self.lost,
            f"{self.repeated:,} deliveries came twice": self.repeated,
        }
        return [sentence for sentence, count in found.items() if count]

    def to_json(self) -> dict[str, Any]:
        """Returns the result as JSON types, with `flawless`."""
        return {**asdict(self), "flawless": self.flawless}


def table(result: Result, load: Load, transport: Transport) -> Table:
    """Returns a table of the result for the terminal."""
    shown = Table(box=None, pad_edge=False, show_header=False)
    shown.add_column(style="dim")
    shown.add_column(justify="right")
    for name, value in _rows(result, load, transport):
        shown.add_row(name, value)
    return shown


def _rows(result: Result, load: Load, transport: Transport) -> list[tuple[str, str]]:
    return [*_joins(result, load, transport), *(_deliveries(result, load) if load.rate else [])]


def _joins(result: Result, load: Load, transport: Transport) -> list[tuple[str, str]]:
    return [
        (
            "viewers",
            f"{result.viewers:,} over {transport.value}, {load.jobs:,} job{'s' if load.jobs > 1 else ''}",
        ),
        ("joins/s", f"{result.joins_per_second:,.0f}"),
        ("server CPU per join", _shown(result.cpu_per_join, 1e6, " µs", 0)),
        ("memory per idle viewer (RSS)", _shown(result.rss_per_viewer, 1 / 1024, " KB", 1)),
        ("memory per idle viewer (USS)", _shown(result.uss_per_viewer, 1 / 1024, " KB", 1)),
    ]


def _deliveries(result: Result, load: Load) -> list[tuple[str, str]]:
    return [
        ("events/s published", f"{result.events_per_second:,.1f} of {load.size} bytes"),
        ("deliveries", f"{result.delivered:,} of {result.expected:,}"),
        ("deliveries/s", f"{result.deliveries_per_second:,.0f}"),
        (
            "latency p50 / p99 / p99.9",
            " / ".join(_shown(one, 1, "", 2) for one in (result.p50, result.p99, result.p999)) + " ms",
        ),
        ("server CPU per delivery", _shown(result.cpu_per_delivery, 1e6, " µs", 2)),
        ("server CPU", _shown(result.cpu_share, 100, " % of a core", 0)),
        ("server waited for its core", _shown(result.waited_share, 100, " % of the time", 0)),
        ("this client's own CPU", _shown(result.client_share, 100, " % of a core", 0)),
    ]


def _shown(value: float | None, factor: float, unit: str, digits: int) -> str:
    return "n/a" if value is None else f"{value * factor:,.{digits}f}{unit}"
