"""Reads of job hashes for viewers that come in: each join is judged by what Redis says, and a storm costs
little.

Invariant: a viewer is refused only by a read that began after it came. It is let in by one that is at most a
second old, and older than its own arrival only where more than `READS` viewers of the job came within that
second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

from hub.broker.seam import Broker
from hub.engine.admission import Admission
from hub.engine.caller import Caller
from hub.engine.patience import Patience
from hub.errors import JobNotFound
from hub.job.event import JobId
from hub.job.record import Job

READS = 20
"""Reads of one job in a second, before viewers that come in the same second share the last one."""

POLL = 0.5
"""Seconds between two looks for a job that is not there yet."""


@dataclass(slots=True)
class _Recent:
    """What was read of one job in the present second."""

    number: int = 0
    found: Job | None = None


class _Reading:
    """A read, and the viewers that wait for it: it does not end with the first of them that is cancelled."""

    __slots__ = ("_waiting", "task")

    def __init__(self, task: asyncio.Task[list[Job | None]]) -> None:
        self.task = task
        self._waiting: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        await waiter

    def wake(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)


class JobReads:
    """The reads of one hub. `notice` is called with the result of each."""

    def __init__(
        self,
        broker: Broker,
        patience: Patience,
        admission: Admission,
        notice: Callable[[JobId, Job | None], None],
    ) -> None:
        self._broker = broker
        self._patience = patience
        self._admission = admission
        self._notice = notice
        self._loop = asyncio.get_running_loop()
        self._reading: dict[JobId, _Reading] = {}
        self._second = 0
        self._recent: dict[JobId, _Recent] = {}

    @property
    def tasks(self) -> list[asyncio.Task[list[Job | None]]]:
        """The reads that are under way."""
        return [reading.task for reading in self._reading.values()]

    async def read_of(self, caller: Caller, job: JobId) -> Job:
        """The job, if `caller` may watch it. Raises BrokerUnavailable, and JobNotFound for a job that is not,
        exactly as if it did not exist.
        """
        found, may = await self._look(caller, job)
        return found if found is not None and may else self._refuse(caller, job, found)

    async def _look(self, caller: Caller, job: JobId) -> tuple[Job | None, bool]:
        """The job, and whether `caller` may watch it."""
        recent = self._recent_of(job)
        if recent.number >= READS and recent.found is not None and caller.owns(recent.found):
            return recent.found, True
        is_shared = job in self._reading
        found = await self._read(job)
        may = await caller.may_watch(job, found)
        if is_shared and not may:
            found = await self._read(job)  # the other read may have begun before the job was made
            may = await caller.may_watch(job, found)
        return found, may

    def _refuse(self, caller: Caller, job: JobId, found: Job | None) -> NoReturn:
        self._admission.count_refusal(is_known=found is not None)
        raise JobNotFound(f"expected a job that {caller.user!r} may watch, got {job!r}")

    async def wait_for(self, caller: Caller, job: JobId, seconds: float) -> Job:
        """The same, for a job that may come within `seconds`. A job of another user is waited for as long as
        one that does not exist. Raises also Overloaded.
        """
        end = self._loop.time() + seconds
        self._admission.enter_wait(caller.user)
        try:
            while True:
                found, may = await self._look(caller, job)
                if found is not None and may:
                    return found
                left = end - self._loop.time()
                if left <= 0 or self._patience.has_ended:  # one refusal, however often it was looked for
                    self._refuse(caller, job, found)
                await asyncio.sleep(min(POLL, left))
        finally:
            self._admission.leave_wait(caller.user)

    def _recent_of(self, job: JobId) -> _Recent:
        second = int(self._loop.time())
        if second != self._second:
            self._second = second
            self._recent.clear()
        return self._recent.setdefault(job, _Recent())

    async def _read(self, job: JobId) -> Job | None:
        reading = self._reading.get(job)
        if reading is None:
            self._recent_of(job).number += 1
            reading = self._reading[job] = _Reading(
                asyncio.create_task(self._broker.jobs([job]), name="hub-job-read")
            )
            reading.task.add_done_callback(partial(self._end, job, reading))
        async with self._patience.bound():
            await reading.wait()
        (found,) = reading.task.result()
        return found

    def _end(self, job: JobId, reading: _Reading, task: asyncio.Task[list[Job | None]]) -> None:
        del self._reading[job]
        reading.wake()
        if task.cancelled() or task.exception() is not None:
            return  # every viewer that waits raises it; the look at it keeps asyncio from complaining if none is left
        (found,) = task.result()
        self._recent_of(job).found = found
        self._notice(job, found)
