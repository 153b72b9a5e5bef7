"""Processes: what a server and its children cost in CPU and memory, on which core they run, how many files they may open.

Reads Linux's /proc; elsewhere there is nothing to read, and the figures are None.
"""

from __future__ import annotations

import os
import re
import resource
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Usage:
    """`cpu` in seconds since the start, `rss` and `uss` (the memory nobody shares) in bytes.

    `waited` is the seconds it was ready to run and something else had its core: the noise of a busy machine.
    """

    cpu: float
    waited: float
    rss: int
    uss: int


def usage(pids: Iterable[int]) -> Usage | None:
    """What these processes and their children use, together. None without /proc, or without processes."""
    everybody = [pid for root in pids for pid in family(root)]
    if not everybody:
        return None
    memory = [_memory(pid) for pid in everybody]
    return Usage(
        cpu=sum(map(_cpu, everybody)),
        waited=sum(_schedule(pid)[1] for pid in everybody),
        rss=sum(rss for rss, _ in memory),
        uss=sum(uss for _, uss in memory),
    )


def family(pid: int) -> list[int]:
    """`pid` and all its descendants that live."""
    threads = list((_PROC / str(pid) / "task").glob("*/children"))
    children = " ".join(path.read_text() for path in threads).split()
    return [pid, *(one for child in children for one in family(int(child)))] if threads else []


def _cpu(pid: int) -> float:
    # utime + stime of stat are exact too, but in steps of 10 ms; schedstat counts nanoseconds. It forgets threads that
    # have ended, so the larger of the two is the truth.
    root = _PROC / str(pid)
    fields = (root / "stat").read_text().rpartition(")")[2].split()
    ticks = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return max(ticks, _schedule(pid)[0])


def _schedule(pid: int) -> tuple[float, float]:
    """Seconds its living threads have run, and have waited to run; zeros where the kernel does not keep it."""
    try:
        lines = [path.read_text().split() for path in (_PROC / str(pid)).glob("task/*/schedstat")]
    except OSError:  # a thread ended while we looked
        return 0.0, 0.0
    return sum(int(line[0]) for line in lines) / 1e9, sum(int(line[1]) for line in lines) / 1e9


def _memory(pid: int) -> tuple[int, int]:
    text = (_PROC / str(pid) / "smaps_rollup").read_text()
    kilobytes = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    return kilobytes["Rss"] * 1024, (kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]) * 1024


@dataclass(frozen=True, slots=True)
class Cores:
    """Where to run: the server alone on one core, client, publisher and Redis on the other. None: wherever."""

    server: int | None = None
    client: int | None = None

    @classmethod
    def ours(cls) -> Cores:
        """The first two cores we may use."""
        if not hasattr(os, "sched_getaffinity"):
            return cls()
        allowed = sorted(os.sched_getaffinity(0))
        return cls(allowed[0], allowed[1]) if len(allowed) > 1 else cls()


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Run this thread, and the processes it starts meanwhile, on `core`."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def end_as_by_ctrl_c() -> None:
    """Make SIGTERM raise KeyboardInterrupt, so that a benchmark that is stopped stops what it has started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def raise_open_files(wanted: int) -> int:
    """Allow this process, and those it starts, `wanted` open files, or as many as we may; returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted or soft == resource.RLIM_INFINITY:
        return soft
    try:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted, max(wanted, hard))
        )  # only root may raise the second
    except (ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
