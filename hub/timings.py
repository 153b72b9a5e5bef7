"""How long things take, as histograms. An observation costs a bisection and two additions."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator

BOUNDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
)  # fmt: skip
"""Upper bounds in seconds of all buckets but the last one, which has none."""

HOPS = ("redis", "queue", "write")
"""Of a delivery: the answer of Redis to a PING on the subscription connection; a message's wait for its turn;
the write to one viewer."""

SAMPLED = 8
"""One of so many positions of a log is timed, where batches are small."""

TRANSPORTS = ("sse", "websocket", "dashboard", "poll")
"""The ways to watch: the label of a join, and of a viewer."""


class Histogram:
    """Counts of seconds by bucket, and their sum."""

    __slots__ = ("counts", "total")

    def __init__(self, counts: Iterable[float] = (), total: float = 0.0) -> None:
        self.counts = list(map(int, counts)) or [0] * (len(BOUNDS) + 1)
        self.total = total

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

    @property
    def count(self) -> int:
        """The number of observations."""
        return sum(self.counts)

    def buckets(self) -> Iterator[tuple[str, int]]:
        """For each bound, the observations up to it; the last bound is "+Inf"."""
        reached = 0
        for bound, count in zip([*map(str, BOUNDS), "+Inf"], self.counts, strict=True):
            reached += count
            yield bound, reached

    def __add__(self, other: Histogram) -> Histogram:
        counts = map(sum, zip(self.counts, other.counts, strict=True))
        return Histogram(counts, self.total + other.total)


class Timings:
    """Those of one process: `delivery` by hop, `joins` by transport, and `fanout`: a batch to all viewers of
    its job. They add up over processes.
    """

    __slots__ = ("delivery", "fanout", "joins")

    def __init__(self) -> None:
        self.delivery = {hop: Histogram() for hop in HOPS}
        self.joins = {transport: Histogram() for transport in TRANSPORTS}
        self.fanout = Histogram()

    def wrote(self, seconds: float, viewers: int) -> None:
        """A batch was written to all viewers of its job."""
        if viewers:
            self.fanout.observe(seconds)
            self.delivery["write"].observe(seconds / viewers)

    @property
    def all(self) -> list[Histogram]:
        """Every histogram, always in the same order."""
        return [*self.delivery.values(), *self.joins.values(), self.fanout]

    def cells(self) -> list[float]:
        """All numbers in a row, `CELLS` of them."""
        return [cell for one in self.all for cell in (*one.counts, one.total)]

    @classmethod
    def of(cls, cells: Iterable[float]) -> Timings:
        """The pair of `cells`."""
        found, rest = cls(), iter(cells)
        for one in found.all:
            one.counts = [int(next(rest)) for _ in one.counts]
            one.total = next(rest)
        return found

    def __add__(self, other: Timings) -> Timings:
        return Timings.of(map(sum, zip(self.cells(), other.cells(), strict=True)))


CELLS = len(Timings().cells())
