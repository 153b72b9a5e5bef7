"""For workers: publish a job's events, from async code or from blocking code (Celery, RQ, a script).

Invariant: a failure to publish does not break the job. If Redis does not answer, or the job has ended, a call
logs a warning, counts it in `failures` and returns None; with `strict=True` it raises instead. A malformed
event is the programmer's error and always raises InvalidEvent. Retries publish an event only once
(script.py).
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

logger = quiet_log("hub.publisher")


def _last_fields(status: str, narration: str | None) -> dict[str, Any]:
    """The fields of the event that ends a job."""
    return {"stage": status, "narration": narration, "status": status}


class _Publishing:
    """What the async and the blocking publisher share: everything except I/O."""

    def __init__(self, publication: Publication | None, *, strict: bool) -> None:
        self._publication = publication or Publication()
        self._strict = strict
        self._leases: WeakValueDictionary[JobId, Lease] = WeakValueDictionary()  # the leases held now
        self.failures = 0
        """Number of events that could not be published; malformed events are not counted."""

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
        logger.warning("%s of job %s was not published: %s", kind, job, words(error))


class Publisher(_Publishing):
    """Publish from async code. `Publisher.from_url(url)` owns its connection; `Publisher(client)` uses yours.

    Every method returns the event's id (`epoch-seq`), or None if the event was not published. A call waits at
    most about 20 s for a stalled Redis (5 s per attempt, three retries). Cancel-safe: a cancelled event is
    published completely or not at all.
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
        """A publisher with its own connection. Close it with `aclose`, or use it as a context manager."""
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
        """Publish an event of type `kind` with `fields`, which must be JSON; a `status` sets the job's
        status.

        `once` is an idempotency key: for a day, a second call with the same key returns the first event's id
        and publishes nothing. Raises InvalidEvent; with strict also BrokerUnavailable, and JobEnded after a
        terminal event.
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
        """Say that a stage began. The job's status becomes `status`, by default the stage's name.

        `fields` are added to the event, here and in the methods below.
        """
        typed = {"stage": stage, "narration": narration, "status": status or stage}
        return await self.emit(job, StageStarted.kind(), typed | fields)

    async def stage_completed(
        self, job: str, stage: str, duration: float | None = None, **fields: Any
    ) -> EventId | None:
        """Say that a stage is done; `duration` is in seconds."""
        return await self.emit(job, StageCompleted.kind(), {"stage": stage, "duration": duration} | fields)

    async def snapshot_updated(self, job: str, url: str, **fields: Any) -> EventId | None:
        """Say that a new picture of the result is at `url`."""
        return await self.emit(job, SnapshotUpdated.kind(), {"url": url} | fields)

    async def documentation_updated(
        self, job: str, section: str, content: str, **fields: Any
    ) -> EventId | None:
        """Say that the section headed `section` was written; `content` is its text."""
        return await self.emit(
            job, DocumentationUpdated.kind(), {"section": section, "content": content} | fields
        )

    async def ready(self, job: str, narration: str | None = None, **fields: Any) -> EventId | None:
        """End the job as `ready`. Later events are refused."""
        return await self.emit(job, StageStarted.kind(), _last_fields("ready", narration) | fields)

    async def failed(self, job: str, narration: str | None = None, **fields: Any) -> EventId | None:
        """End the job as `failed`. Later events are refused."""
        return await self.emit(job, StageStarted.kind(), _last_fields("failed", narration) | fields)

    def lease(self, job: str, *, ttl: float = TTL) -> AbstractAsyncContextManager[Lease]:
        """Hold a lease of `ttl` seconds on the job for the block: `async with publisher.lease(job):`.

        A task renews the lease every `ttl / 3` seconds. If the worker dies, viewers get one `failed` with
        `reason` `producer_lost` about `ttl` seconds later. Leaving the block releases the lease; leaving it
        with an exception lets the lease lapse, so that a retry can take it over. With strict, entering the
        block raises JobEnded, JobNotFound or BrokerUnavailable. `Lease.lost` becomes True if the job ends
        elsewhere.
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
    """Publish from blocking code, with the methods of `Publisher`. Threads may share one publisher."""

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
        """A publisher with its own connections. Close it with `close`, or use it as a context manager."""
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
        return self.emit(job, StageStarted.kind(), _last_fields("ready", narration) | fields)

    def failed(self, job: str, narration: str | None = None, **fields: Any) -> EventId | None:
        """As `Publisher.failed`."""
        return self.emit(job, StageStarted.kind(), _last_fields("failed", narration) | fields)

    def lease(self, job: str, *, ttl: float = TTL) -> AbstractContextManager[Lease]:
        """As `Publisher.lease`, with a `ttl` of at least 8 s; a thread renews the lease."""
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
