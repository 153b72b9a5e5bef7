"""An event loop that does nothing by itself: handles run when they are told to, and time passes when it is told to.

Invariant: the same calls give the same run. There is no selector, no thread and no clock; `turn` is what asyncio's own loop does
in one iteration (timers that are due, then everything that was ready when it began), so what can stand between two turns here can
stand between two iterations there.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from asyncio.events import _set_running_loop
from collections import deque

SPIN = 2_000
"""Turns after which a loop that never comes to rest counts as spinning; a run here has some hundreds."""


class StepLoop(asyncio.AbstractEventLoop):
    """Used as a context manager, it is the running loop of this thread. `failures`: what nobody caught."""

    def __init__(self) -> None:
        self.now = 0.0
        self.tasks: list[asyncio.Task] = []
        self.failures: list[str] = []
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._count = itertools.count()

    def __enter__(self) -> StepLoop:
        _set_running_loop(self)
        return self

    def __exit__(self, *_: object) -> None:
        _set_running_loop(None)

    # --- what a schedule does

    @property
    def busy(self) -> bool:
        """Whether something can run without time passing."""
        return bool(self._ready) or (bool(self._timers) and self._timers[0][0] <= self.now)

    def turn(self) -> None:
        """One iteration."""
        timers, ready = self._timers, self._ready
        while timers and timers[0][0] <= self.now:
            ready.append(heapq.heappop(timers)[2])
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle.cancelled():
                handle._run()

    def rest(self) -> None:
        """Turn until nothing is ready."""
        for _ in range(SPIN):
            if not self.busy:
                return
            self.turn()
        raise AssertionError("expected a loop that comes to rest, got one that spins")

    def next_timer(self, horizon: float) -> float | None:
        """When the next timer is due, if that is within `horizon` seconds."""
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        if self._timers and self._timers[0][0] <= self.now + horizon:
            return self._timers[0][0]
        return None

    def pass_time(self, seconds: float) -> None:
        """Let time pass, timer by timer."""
        end = self.now + seconds
        while (due := self.next_timer(end - self.now)) is not None:
            self.now = max(self.now, due)
            self.rest()
        self.now = end

    # --- what asyncio needs

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_soon(self, callback, *args, context=None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(self, delay, callback, *args, context=None) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(self, when, callback, *args, context=None) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._count), handle))
        return handle

    def _timer_handle_cancelled(self, handle) -> None:
        """It is left where it is, and never run."""

    def create_future(self) -> asyncio.Future:
        return asyncio.Future(loop=self)

    def create_task(self, coro, *, name=None, context=None) -> asyncio.Task:
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self.tasks.append(task)
        return task

    def call_exception_handler(self, context) -> None:
        self.failures.append(f"{context.get('message')}: {context.get('exception')!r}")
