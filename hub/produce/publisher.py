"""For workers: publish a job's events, from async code or from plain code (Celery, RQ, a script).

Invariant: publishing never breaks the job that publishes. While Redis is away a call logs, counts and returns None;
with `strict=True` it raises instead. A malformed event is the programmer's error and always raises `InvalidEvent`.
Retries are safe: an event is numbered once, whatever the network did.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any
from weakref import WeakValueDictionary

from hub.broker.connect import (
    OUTAGE,
    AsyncRedis,
    Script,
    SyncRedis,
    SyncScript,
    close,
    for_publishing,
    for_publishing_sync,
    unavailable,
    words,
)
from hub.broker.script import LEASE_SCRIPT, SCRIPT, Publication, interpret, interpret_lease
from hub.errors import BrokerUnavailable, JobEnded
from hub.job.catalogue import DocumentationUpdated, SnapshotUpdated, StageCompleted, StageStarted, encode
from hub.job.event import EventId, JobId, checked_job_id
from hub.produce.lease import SHORTEST_BLOCKING, TTL, Lease, held, held_sync
from hub.quiet import quiet_log

log = quiet_log("hub.publisher")


def ended(status: str, narration: str | None) -> dict[str, Any]:
    """The fields of a job's last event."""
    return {"stage": status, "narration": narration, "status": status}


class _Publishing:
    """What the two publishers share: everything but the waiting."""

    def __init__(self, publication: Publication | None, *, strict: bool) -> None:
        self._publication = publication or Publication()
        self._strict = strict
        self._leases: WeakValueDictionary[JobId, Lease] = WeakValueDictionary()  # that are held
        self.failures = 0
        """Events that were not published since the start, for whatever reason but a malformed event."""

    def _prepare(
        self, job: str, kind: str, fields: dict[str, Any], once: str | None
    ) -> tuple[JobId, list[str], list[str | int]]:
        known = checked_job_id(job)
        fields = {name: value for name, value in fields.items() if value is not None}
        body = encode(known, kind, fields, limit=self._publication.limit)
        status = fields.get("status")
        keys, args = self._publication.prepare(
            known, body, status=status if isinstance(status, str) else None, once=once
        )
        return known, keys, args

    def _new_lease(self, job: str, ttl: float, *, shortest: float = 1.0) -> tuple[JobId, Lease]:
        known = checked_job_id(job)
        lease = self._leases[known] = Lease(known, ttl, shortest=shortest)
        return known, lease

    def _published(self, job: JobId, fields: dict[str, Any] | None) -> None:
        if fields is not None and fields.get("status") in self._publication.terminal and job in self._leases:
            self._leases[job].over = True

    def _failed(self, job: str, kind: str, error: Exception) -> None:
        self.failures += 1
        if self._strict:
            if isinstance(error, JobEnded):
                raise error
            raise BrokerUnavailable(f"{kind} of job {job} was not published: {words(error)}") from error
        log.warning("%s of job %s was not published: %s", kind, job, words(error))


class Publisher(_Publishing):
    """Publish from async code. `Publisher.from_url(url)` owns its connection; `Publisher(client)` borrows yours.

    Every method returns the event's id (`epoch-seq`), or None when it was not published. Waits at most about 20 s
    for a Redis that stalls (5 s a try, three retries); cancelling is safe, the event is then published or not.
    """

    def __init__(
        self, client: AsyncRedis, *, publication: Publication | None = None, strict: bool = False
    ) -> None:
        super().__init__(publication, strict=strict)
        self._client = client
        self._script = Script(client, SCRIPT)
        self._lease_script = Script(client, LEASE_SCRIPT)
        self._close: Callable[[], Any] | None = None

    @classmethod
    def from_url(cls, url: str, *, publication: Publication | None = None, strict: bool = False) -> Publisher:
        """A publisher with a connection of its own; end it with `aclose` or use it as a context manager."""
        client = for_publishing(url)
        publisher = cls(client, publication=publication, strict=strict)
        publisher._close = functools.partial(close, client)
        return publisher

    async def __aenter__(self) -> Publisher:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection that `from_url` opened."""
        if self._close is not None:
            await self._close()

    async def emit(
        self, job: str, kind: str, fields: dict[str, Any] | None = None, *, once: str | None = None
    ) -> EventId | None:
        """Publish an event of type `kind` with `fields` (JSON; a `status` sets the job's status).

        `once` is an idempotency key: a second call with it returns the first id and publishes nothing (for a day).
        Raises InvalidEvent; with strict also BrokerUnavailable, and JobEnded after a terminal event.
        """
        known, keys, args = self._prepare(job, kind, fields or {}, once)
        try:
            event_id = interpret(known, await self._script.run(keys, args))
        except (*OUTAGE, JobEnded) as error:
            self._failed(job, kind, error)
            return None
        self._published(known, fields)
        return event_id

    async def stage_started(
        self, job: str, stage: str, narration: str | None = None, *, status: str | None = None, **fields: Any
    ) -> EventId | None:
        """A stage began; the job's status becomes `status`, or the stage's name. `fields` of your own travel along."""
        typed = {"stage": stage, "narration": narration, "status": status or stage}
        return await self.emit(job, StageStarted.kind(), typed | fields)

    async def stage_completed(
        self, job: str, stage: str, duration: float | None = None, **fields: Any
    ) -> EventId | None:
        """A stage is done; `duration` in seconds."""
        return await self.emit(job, StageCompleted.kind(), {"stage": stage, "duration": duration} | fields)

    async def snapshot_updated(self, job: str, url: str, **fields: Any) -> EventId | None:
        """There is a new picture at `url`."""
        return await self.emit(job, SnapshotUpdated.kind(), {"url": url} | fields)

    async def documentation_updated(
        self, job: str, section: str, content: str, **fields: Any
    ) -> EventId | None:
        """A section of the documentation was written."""
        return await self.emit(
            job, DocumentationUpdated.kind(), {"section": section, "content": content} | fields
        )

    async def ready(self, job: str, narration: str | None = None, **fields: Any) -> EventId | None:
        """The job ends well; nothing follows."""
        return await self.emit(job, StageStarted.kind(), ended("ready", narration) | fields)

    async def failed(self, job: str, narration: str | None = None, **fields: Any) -> EventId | None:
        """The job ends badly; nothing follows."""
        return await self.emit(job, StageStarted.kind(), ended("failed", narration) | fields)

    def lease(self, job: str, *, ttl: float = TTL) -> AbstractAsyncContextManager[Lease]:
        """Hold the job's lease for the block, renewed every `ttl / 3` seconds: `async with publish.lease(job):`.

        When the worker dies, viewers get one `failed` with `reason` `producer_lost` about `ttl` seconds later. Leaving the
        block gives the lease back; leaving it by an exception lets it lapse, unless a retry takes it over. With strict it
        raises JobEnded, JobNotFound and BrokerUnavailable at the beginning; `Lease.lost` says when the job is over.
        """

        known, lease = self._new_lease(job, ttl)
        until = ""

        async def renew(seconds: float) -> None:
            nonlocal until
            keys, args = self._publication.prepare_lease(known, seconds, until)
            try:
                until = interpret_lease(known, await self._lease_script.run(keys, args))
            except OUTAGE as error:
                raise unavailable(error) from error

        return held(lease, renew, strict=self._strict)


class SyncPublisher(_Publishing):
    """Publish from blocking code: the same methods as `Publisher`, without await. Safe to share between threads."""

    def __init__(
        self, client: SyncRedis, *, publication: Publication | None = None, strict: bool = False
    ) -> None:
        super().__init__(publication, strict=strict)
        self._client = client
        self._script = SyncScript(client, SCRIPT)
        self._lease_script = SyncScript(client, LEASE_SCRIPT)
        self._close: Callable[[], Any] | None = None

    @classmethod
    def from_url(
        cls, url: str, *, publication: Publication | None = None, strict: bool = False
    ) -> SyncPublisher:
        """A publisher with connections of its own; end it with `close` or use it as a context manager."""
        client = for_publishing_sync(url)
        publisher = cls(client, publication=publication, strict=strict)
        publisher._close = client.close
        return publisher

    def __enter__(self) -> SyncPublisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that `from_url` opened."""
        if self._close is not None:
            self._close()

    def emit(
        self, job: str, kind: str, fields: dict[str, Any] | None = None, *, once: str | None = None
    ) -> EventId | None:
        """As `Publisher.emit`."""
        known, keys, args = self._prepare(job, kind, fields or {}, once)
        try:
            event_id = interpret(known, self._script.run(keys, args))
        except (*OUTAGE, JobEnded) as error:
            self._failed(job, kind, error)
            return None
        self._published(known, fields)
        return event_id

    def stage_started(
        self, job: str, stage: str, narration: str | None = None, *, status: str | None = None, **fields: Any
    ) -> EventId | None:
        """As `Publisher.stage_started`."""
        typed = {"stage": stage, "narration": narration, "status": status or stage}
        return self.emit(job, StageStarted.kind(), typed | fields)

    def stage_completed(
        self, job: str, stage: str, duration: float | None = None, **fields: Any
    ) -> EventId | None:
        """As `Publisher.stage_completed`."""
        return self.emit(job, StageCompleted.kind(), {"stage": stage, "duration": duration} | fields)

    def snapshot_updated(self, job: str, url: str, **fields: Any) -> EventId | None:
        """As `Publisher.snapshot_updated`."""
        return self.emit(job, SnapshotUpdated.kind(), {"url": url} | fields)

    def documentation_updated(self, job: str, section: str, content: str, **fields: Any) -> EventId | None:
        """As `Publisher.documentation_updated`."""
        return self.emit(job, DocumentationUpdated.kind(), {"section": section, "content": content} | fields)

    def ready(self, job: str, narration: str | None = None, **fields: Any) -> EventId | None:
        """As `Publisher.ready`."""
        return self.emit(job, StageStarted.kind(), ended("ready", narration) | fields)

    def failed(self, job: str, narration: str | None = None, **fields: Any) -> EventId | None:
        """As `Publisher.failed`."""
        return self.emit(job, StageStarted.kind(), ended("failed", narration) | fields)

    def lease(self, job: str, *, ttl: float = TTL) -> AbstractContextManager[Lease]:
        """As `Publisher.lease`, of at least 8 s; a thread renews it, also while the worker computes."""
        known, lease = self._new_lease(job, ttl, shortest=SHORTEST_BLOCKING)
        until = ""

        def renew(seconds: float) -> None:
            nonlocal until
            keys, args = self._publication.prepare_lease(known, seconds, until)
            try:
                until = interpret_lease(known, self._lease_script.run(keys, args))
            except OUTAGE as error:
                raise unavailable(error) from error

        return held_sync(lease, renew, strict=self._strict)
