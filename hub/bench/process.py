"""Processes: CPU and memory of a server and its children, the core they run on, the files they may open.

The figures come from Linux's /proc; on other systems they are None.
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
    """`cpu`: seconds used since the start. `rss`, `uss`: bytes of memory; `uss` leaves out what is shared.

    `waited`: seconds of being ready to run while others had the core, which is the noise of a busy machine.
    """

    cpu: float
    waited: float
    rss: int
    uss: int


def usage(pids: Iterable[int]) -> Usage | None:
    """Returns the sum over these processes and their descendants. None without /proc or processes."""
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
    """Returns `pid` and its living descendants; an empty list if `pid` is gone."""
    threads = list((_PROC / str(pid) / "task").glob("*/children"))
    children = " ".join(path.read_text() for path in threads).split()
    return [pid, *(one for child in children for one in family(int(child)))] if threads else []


def _cpu(pid: int) -> float:
    # schedstat counts nanoseconds and leaves out threads that have ended; utime + stime in stat include
    # those, in steps of 10 ms. Neither counts too much, so the larger one is nearer to the truth.
    root = _PROC / str(pid)
    fields = (root / "stat").read_text().rpartition(")")[2].split()
    ticks = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return max(ticks, _schedule(pid)[0])


def _schedule(pid: int) -> tuple[float, float]:
    """Seconds its living threads have run, and have waited to run. Zeros if the kernel has no count."""
    try:
        lines = [path.read_text().split() for path in (_PROC / str(pid)).glob("task/*/schedstat")]
    except OSError:  # a thread ended between the glob and the read
        return 0.0, 0.0
    return sum(int(line[0]) for line in lines) / 1e9, sum(int(line[1]) for line in lines) / 1e9


def _memory(pid: int) -> tuple[int, int]:
    text = (_PROC / str(pid) / "smaps_rollup").read_text()
    kilobytes = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    return kilobytes["Rss"] * 1024, (kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]) * 1024


@dataclass(frozen=True, slots=True)
class Cores:
    """One core for the server alone, another for client, publisher and Redis. None: any core."""

    server: int | None = None
    client: int | None = None

    @classmethod
    def ours(cls) -> Cores:
        """Returns the first two cores this process may use; no cores if there are not two."""
        if not hasattr(os, "sched_getaffinity"):
            return cls()
        allowed = sorted(os.sched_getaffinity(0))
        return cls(allowed[0], allowed[1]) if len(allowed) > 1 else cls()


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Run this thread on `core`, and the processes that it starts in the block."""
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
    """Make SIGTERM raise KeyboardInterrupt, so that a terminated benchmark ends what it has started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def raise_open_files(wanted: int) -> int:
    """Raise the limit of open files, of this process and children, towards `wanted`. Returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted or soft == resource.RLIM_INFINITY:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
    except (ValueError, OSError):  # only root may raise the hard limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
