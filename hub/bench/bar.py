"""Runs a benchmark on an event loop of its own, with a progress bar on stderr."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hub.bench.measure import Phase, measure
from hub.bench.result import Load, Result
from hub.bench.rig import Rig


def watched(rig: Rig, load: Load, title: str = "") -> Result:
    """Returns what was measured of `rig` under `load`. Shows a progress bar on stderr meanwhile."""
    columns = (TextColumn("{task.description:>24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # We refresh the bar ourselves, ten times a second: rich's refresh thread would compete with the viewers.
    err = Console(stderr=True)
    with Progress(
        *columns, console=err, transient=True, auto_refresh=False, disable=not err.is_terminal
    ) as bar:
        drawn = _Drawn(bar, title)
        return _loop(_measure(rig, load, drawn))


class _Drawn:
    """Draws the progress of a benchmark, ten times a second at most."""

    def __init__(self, bar: Progress, title: str) -> None:
        self._bar = bar
        self._title = title
        self._task = bar.add_task(title)
        self._next = 0.0

    def __call__(self, phase: Phase, done: int, total: int) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._next:
            return
        self._next = now + 0.1
        self._bar.update(self._task, description=f"{self._title} {phase.value}", completed=done, total=total)
        self._bar.refresh()


async def _measure(rig: Rig, load: Load, progress: _Drawn) -> Result:
    async with rig.source as source:
        return await measure(rig.target, load, source, progress)


def _loop(main: Coroutine[Any, Any, Result]) -> Result:
    try:
        import uvloop
    except ImportError:  # Windows
        return asyncio.run(main)
    return uvloop.run(main)
