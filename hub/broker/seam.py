"""The contract between the engine and the place where jobs live. A second broker is one file like redis.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from hub.job.event import EventId, JobId
from hub.job.record import Job, Snapshot


class Broker(Protocol):
    """Where jobs live. All times are bounded; all calls raise BrokerUnavailable when the place does not answer.

    `subscribe` returns once messages flow to `sink`, so that what is read afterwards leaves no hole between.
    """

    async def jobs(self, jobs: Sequence[JobId]) -> list[Job | None]: ...

    async def latest(self, job: JobId, *, limit: int) -> Snapshot: ...

    async def since(self, job: JobId, after: EventId, *, limit: int) -> Snapshot: ...

    async def subscribe(self, job: JobId, sink: Sink) -> None: ...

    def unsubscribe(self, job: JobId, sink: Sink) -> None: ...

    async def declare_lost(self, job: JobId) -> bool: ...


class Sink(Protocol):
    """Takes what one channel brings. Both are called from the subscriber's task and must not block."""

    def receive(self, data: bytes, /) -> None: ...

    def missed(self) -> None: ...
