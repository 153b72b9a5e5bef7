"""Reads of job hashes, one for all viewers that ask at the same time: a storm of joins costs Redis one command."""

from __future__ import annotations

import asyncio

from hub.broker.seam import Broker
from hub.engine.patience import Patience
from hub.errors import JobNotFound
from hub.job.event import JobId, UserId
from hub.job.record import Job


class JobReads:
    """The reads of one hub that are under way."""

    def __init__(self, broker: Broker, patience: Patience) -> None:
        self._broker = broker
        self._patience = patience
        self._reading: dict[JobId, asyncio.Task[list[Job | None]]] = {}

    @property
    def tasks(self) -> list[asyncio.Task[list[Job | None]]]:
        """The tasks that read."""
        return list(self._reading.values())

    async def read_of(self, user: UserId, job: JobId) -> Job:
        """The job, if it is `user`'s. Raises BrokerUnavailable, and JobNotFound for a job that is not, exactly as if it
        did not exist.
        """
        is_shared = job in self._reading
        found = await self._read(job)
        if is_shared and (found is None or found.user_id != user):
            found = await self._read(job)  # the other read may have begun before the job was made
        if found is None or not found.user_id or found.user_id != user:
            raise JobNotFound(f"expected a job of {user!r}, got {job!r}, which is not")
        return found

    async def _read(self, job: JobId) -> Job | None:
        reading = self._reading.get(job)
        if reading is None:
            reading = self._reading[job] = asyncio.create_task(self._broker.jobs([job]), name="hub-job-read")
            reading.add_done_callback(lambda done: self._end(job, done))
        async with self._patience.bound():
            # Awaiting the task itself would cancel it with the first viewer that is cancelled.
            await asyncio.wait([reading])
        (found,) = reading.result()
        return found

    def _end(self, job: JobId, reading: asyncio.Task[list[Job | None]]) -> None:
        del self._reading[job]
        if not reading.cancelled():
            reading.exception()  # every viewer that waits raises it; with none left, asyncio would complain
