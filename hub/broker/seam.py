"""The contract between the engine and the store of jobs. A second broker is one more file like redis.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from hub.job.event import EventId, JobId
from hub.job.record import Job, Snapshot
from hub.job.revocation import Revocation


class Broker(Protocol):
    """A store of jobs. Every call is bounded in time and raises BrokerUnavailable if the store does not
    answer.

    `subscribe` returns when messages flow to `sink`, so a read after it leaves no hole before the first
    message.
    """

    async def jobs(self, jobs: Sequence[JobId]) -> list[Job | None]: ...

    async def latest(self, job: JobId, *, limit: int, size: int = 1 << 20) -> Snapshot: ...

    async def since(self, job: JobId, after: EventId, *, limit: int) -> Snapshot: ...

    async def subscribe(self, job: JobId, sink: Sink) -> None: ...

    def unsubscribe(self, job: JobId, sink: Sink) -> None: ...

    async def declare_lost(self, job: JobId) -> bool: ...

    def listen(self, control: Sink) -> None: ...

    async def revocations(self) -> list[Revocation]: ...


class Sink(Protocol):
    """Receives the messages of one channel. The subscriber's task calls both methods; they must not block.

    `receive` gets one message. `missed` says that messages may have been lost, so the sink must look at the
    log.
    """

    def receive(self, data: bytes, /) -> None: ...

    def missed(self) -> None: ...
