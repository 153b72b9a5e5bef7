"""One benchmark: viewers join, stay idle, then receive. Measures deliveries, latency, and the server's cost.

Invariant: CPU and deliveries are measured over the same span, from before the first event until the last one
has arrived (or none arrives any more), so a server that lags is charged for its backlog too.
"""

from __future__ import annotations

import asyncio
import enum
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass

from hub.bench.process import Usage, usage
from hub.bench.result import Load, Result
from hub.bench.source import Published, Source
from hub.bench.target import Target
from hub.bench.viewers import Crowd

REHEARSAL = 20
"""Viewers that join and leave first, so that the server has loaded its code before its memory is measured."""

PREPARED = 20_000.0
"""Events per second that are published before viewers come back: about what a Redis takes."""

SETTLE = 1.0
"""Seconds between a storm of joins and measuring memory: a server has freed what a join needed by then."""

PATIENCE = 3.0
"""Seconds without any delivery after which missing events count as lost."""

LATEST = 20.0
"""Seconds after the last published event at which missing events count as lost, even if some still arrive."""


class Phase(enum.StrEnum):
    """The phase a benchmark is in; the value is shown on the bar."""

    JOINING = "joining"
    WARMING = "warming up"
    DELIVERING = "delivering"


Progress = Callable[[Phase, int, int], None]
"""Called with the phase, how much of it is done, and its total."""


async def measure(target: Target, load: Load, source: Source, progress: Progress) -> Result:
    """Returns the figures of `target`. If cancelled while viewers join, their sockets stay open."""
    if load.behind:
        events = load.jobs * (load.behind + 1)  # the first one every viewer has
        await source.publish(rate=PREPARED, duration=events / PREPARED)
    rehearsal = Crowd(target)
    await rehearsal.join(min(REHEARSAL, load.viewers))
    await rehearsal.leave()
    await asyncio.sleep(SETTLE / 2)

    crowd = Crowd(target)
    before = usage(target.pids)
    coming = _come_back(crowd, load) if load.behind else crowd.join(load.viewers)
    took = await _timed(coming, lambda: progress(Phase.JOINING, crowd.joined, load.viewers))
    joined = usage(target.pids)
    await asyncio.sleep(SETTLE)
    idle = usage(target.pids)
    count = crowd.joined
    joining = _Joining(
        took, _between(before, joined, "cpu"), _between(before, idle, "rss"), _between(before, idle, "uss")
    )
    try:
        delivering = _Delivering.of_come_backs(crowd, load)
        if load.rate and count:
            delivering = await _deliver(crowd, load, source, progress)
        return _result(crowd, joining, delivering)
    finally:
        await crowd.leave()


@dataclass(frozen=True, slots=True)
class _Joining:
    took: float
    cpu: float | None
    rss: float | None
    uss: float | None


_NOTHING = Published(0, 0.0)


@dataclass(frozen=True, slots=True)
class _Delivering:
    published: Published = _NOTHING
    took: float = 0.0
    cpu: float | None = None
    waited: float | None = None
    own_cpu: float = 0.0
    expected: int = 0
    delivered: int = 0
    lost: int = 0
    repeated: int = 0
    latencies: Sequence[int] = ()

    @classmethod
    def of_come_backs(cls, crowd: Crowd, load: Load) -> _Delivering:
        """What viewers that came back have of what they had missed; of others nothing."""
        if not load.behind:
            return cls()
        differences = [load.behind - viewer.seen for viewer in crowd.viewers]
        return cls(
            expected=load.behind * crowd.joined,
            delivered=crowd.seen,
            lost=sum(max(0, difference) for difference in differences),
            repeated=sum(max(0, -difference) for difference in differences),
        )


async def _come_back(crowd: Crowd, load: Load) -> None:
    """Join, and wait until what was missed has come, or no more comes."""
    await crowd.join(load.viewers)
    seen, last = -1, crowd.loop.time()
    while crowd.seen < load.behind * crowd.joined and crowd.loop.time() < last + PATIENCE:
        if crowd.seen != seen:
            seen, last = crowd.seen, crowd.loop.time()
        await asyncio.sleep(0.01)


async def _deliver(crowd: Crowd, load: Load, source: Source, progress: Progress) -> _Delivering:
    if load.warm_up:  # which fills caches and starts just-in-time compilers
        await _publish(crowd, load, source, Phase.WARMING, load.warm_up, progress)
    crowd.reset()
    before = usage(crowd.target.pids)
    own, start = time.process_time(), crowd.loop.time()
    published, last = await _publish(crowd, load, source, Phase.DELIVERING, load.duration, progress)
    after = usage(crowd.target.pids)
    differences = [load.expected(viewer, published.events) - viewer.seen for viewer in crowd.viewers]
    delivered = crowd.seen
    return _Delivering(
        published=published,
        took=last - start,
        cpu=_between(before, after, "cpu"),
        waited=_between(before, after, "waited"),
        own_cpu=time.process_time() - own,
        expected=delivered + sum(differences),
        delivered=delivered,
        lost=sum(max(0, difference) for difference in differences),
        repeated=sum(max(0, -difference) for difference in differences),
        latencies=sorted(crowd.latencies),
    )


async def _publish(
    crowd: Crowd, load: Load, source: Source, phase: Phase, duration: float, progress: Progress
) -> tuple[Published, float]:
    """Publish, and wait until all or no more events arrive. Also returns the time of the last arrival."""
    loop = crowd.loop
    expected = round(load.rate * duration * crowd.joined / load.jobs)  # an estimate for the bar
    publishing = asyncio.create_task(source.publish(rate=load.rate, duration=duration))
    seen, last, deadline = 0, loop.time(), math.inf
    try:
        while True:
            await asyncio.sleep(0.02)
            if crowd.seen != seen:
                seen, last = crowd.seen, loop.time()
            progress(phase, seen, expected)
            if not publishing.done():
                continue
            if deadline == math.inf:
                expected = sum(load.expected(viewer, publishing.result().events) for viewer in crowd.viewers)
                deadline = loop.time() + LATEST
            # waits 0.1 s more after the last expected event, so that repeated events are seen too
            if (seen >= expected and loop.time() > last + 0.1) or loop.time() > min(
                last + PATIENCE, deadline
            ):
                return publishing.result(), last
    finally:
        publishing.cancel()


async def _timed(joining: Coroutine[None, None, None], tick: Callable[[], None]) -> float:
    loop = asyncio.get_running_loop()
    start = loop.time()
    task = asyncio.create_task(joining)
    while not task.done():
        tick()
        await asyncio.wait([task], timeout=0.1)
    task.result()
    return loop.time() - start


def _between(before: Usage | None, after: Usage | None, what: str) -> float | None:
    return None if before is None or after is None else float(getattr(after, what) - getattr(before, what))


def _result(crowd: Crowd, joining: _Joining, delivering: _Delivering) -> Result:
    count, took, delivered = crowd.joined, delivering.took, delivering.delivered
    published, latencies = delivering.published, delivering.latencies
    return Result(
        viewers=count,
        refused=len(crowd.refused),
        closed=crowd.closed,
        first_refusal=crowd.refused[0] if crowd.refused else "",
        joins_per_second=count / joining.took,
        cpu_per_join=_each(joining.cpu, count),
        rss_per_viewer=_each(joining.rss, count),
        uss_per_viewer=_each(joining.uss, count),
        events=published.events,
        events_per_second=published.events / published.elapsed if published.elapsed else 0.0,
        expected=delivering.expected,
        delivered=delivered,
        lost=delivering.lost,
        repeated=delivering.repeated,
        deliveries_per_second=delivered / took if took else 0.0,
        cpu_per_delivery=_each(delivering.cpu, delivered),
        cpu_share=None if delivering.cpu is None or not took else delivering.cpu / took,
        waited_share=None if delivering.waited is None or not took else delivering.waited / took,
        client_share=delivering.own_cpu / took if took else 0.0,
        p50=_percentile(latencies, 0.5),
        p99=_percentile(latencies, 0.99),
        p999=_percentile(latencies, 0.999),
    )


def _each(total: float | None, count: int) -> float | None:
    return None if total is None or not count else total / count


def _percentile(latencies: Sequence[int], share: float) -> float | None:
    """In milliseconds, by nearest rank: the value is a latency that was measured."""
    return latencies[math.ceil(share * len(latencies)) - 1] / 1000 if latencies else None
