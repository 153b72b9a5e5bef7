"""An event loop that a test drives: `turn` runs handles, and `pass_time` lets time pass.

Invariant: the same calls give the same run. There is no selector, no thread and no clock. `turn` does what
asyncio's own loop does in one iteration: it runs the timers that are due and everything that was ready at the
beginning. So whatever happens between two turns here could happen between two iterations of a real loop.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from asyncio.events import _set_running_loop
from collections import deque

SPIN = 2_000
"""Turns after which a loop that still has work counts as spinning; a run has some hundreds."""


class StepLoop(asyncio.AbstractEventLoop):
    """A context manager that makes this the running loop of the thread. `failures`: uncaught exceptions."""

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

    # --- what a schedule calls

    @property
    def busy(self) -> bool:
        """Returns True if a handle can run without time passing."""
        return bool(self._ready) or (bool(self._timers) and self._timers[0][0] <= self.now)

    def turn(self) -> None:
        """Run one iteration."""
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
        raise AssertionError("expected the loop to come to rest, but it spins")

    def next_timer(self, horizon: float) -> float | None:
        """Returns when the next timer is due, or None if that is more than `horizon` seconds away."""
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        if self._timers and self._timers[0][0] <= self.now + horizon:
            return self._timers[0][0]
        return None

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and run each timer when it is due."""
        end = self.now + seconds
        while (due := self.next_timer(end - self.now)) is not None:
            self.now = max(self.now, due)
            self.rest()
        self.now = end

    # --- what asyncio calls

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
        """Does nothing: a cancelled timer stays in the heap and is skipped."""

    def create_future(self) -> asyncio.Future:
        return asyncio.Future(loop=self)

    def create_task(self, coro, *, name=None, context=None) -> asyncio.Task:
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self.tasks.append(task)
        return task

    def call_exception_handler(self, context) -> None:
        self.failures.append(f"{context.get('message')}: {context.get('exception')!r}")
