"""The contract between the engine and the store of jobs. A second broker is one more file like redis.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from hub.job.event import EventId, JobId
from hub.job.record import Entry, Job, Snapshot
from hub.job.revocation import Revocation


class Broker(Protocol):
    """A store of jobs. Every call is bounded in time and raises BrokerUnavailable if the store does not
    answer.

    `subscribe` returns when messages flow to `sink`, so a read after it leaves no hole before the first
    message.
    """

    @property
    def counts(self) -> Counts: ...

    @property
    def index(self) -> Index: ...

    def groups(self, jobs: Sequence[JobId]) -> list[list[JobId]]: ...

    async def jobs(self, jobs: Sequence[JobId]) -> list[Job | None]: ...

    async def latest(self, job: JobId, *, limit: int, size: int = 1 << 20) -> Snapshot: ...

    async def before(self, job: Job, first: EventId, *, limit: int, size: int) -> list[Entry]: ...

    async def since(self, job: JobId, after: EventId, *, limit: int) -> Snapshot: ...

    async def subscribe(self, job: JobId, sink: Sink) -> None: ...

    def unsubscribe(self, job: JobId, sink: Sink) -> None: ...

    async def declare_lost(self, job: JobId) -> bool: ...

    async def command(self, job: Job, text: str, *, once: str | None) -> str: ...

    def listen(self, control: Listener) -> None: ...

    async def announce(self, message: bytes) -> int | None: ...

    async def revocations(self) -> list[Revocation]: ...


class Counts(Protocol):
    """How many viewers a job has at each hub. Every call raises BrokerUnavailable.

    `say` returns the jobs that were written, `of` has those that were read: a part of the store may be away.
    """

    async def renew(self, hub: str) -> bool: ...

    async def leave(self, hub: str) -> None: ...

    async def say(self, hub: str, counts: Mapping[JobId, int]) -> list[JobId]: ...

    async def of(self, jobs: Sequence[JobId]) -> dict[JobId, dict[str, int]]: ...


class Index(Protocol):
    """Which jobs a user has, with the times at which they began. Every call raises BrokerUnavailable."""

    async def add(self, user: str, jobs: Mapping[JobId, float]) -> None: ...

    async def of(self, user: str) -> list[tuple[JobId, float]]: ...

    async def remove(self, user: str, jobs: Sequence[JobId]) -> None: ...


class Listener(Protocol):
    """Hears the control channel. The subscriber's task calls its methods; they must not block.

    `receive` gets one message. `missed` says that messages may have been lost.
    """

    def receive(self, data: bytes, /) -> None: ...

    def missed(self) -> None: ...


class Sink(Listener, Protocol):
    """Receives the messages of a job. After `missed` it must look at the log, and what is in no log is gone.
    `doubt` says the same of messages that are all in the log.
    """

    def doubt(self) -> None: ...
