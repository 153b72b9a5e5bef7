"""For workers: publish a job's events, from async code or from blocking code (Celery, RQ, a script).

Invariant: a failure to publish does not break the job. If Redis does not answer, or the job has ended, a call
logs a warning, counts it in `failures` and returns None; with `strict=True` it raises instead. A malformed
event is the programmer's error and always raises InvalidEvent. Retries publish an event only once
(script.py).
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any
from uuid import UUID

from hub.broker.connect import (
    OUTAGE,
    AsyncRedis,
    PerLoop,
    Script,
    SyncRedis,
    SyncScript,
    close,
    close_sync,
    for_publishing,
    for_publishing_sync,
    unavailable,
    words,
)
from hub.broker.script import (
    LEASE_SCRIPT,
    RESTART_SCRIPT,
    SCRIPT,
    Publication,
    interpret,
    interpret_lease,
    interpret_restart,
)
from hub.errors import BrokerUnavailable, HubError, InvalidEvent, JobEnded
from hub.job.catalogue import (
    DocumentationUpdated,
    SnapshotUpdated,
    StageCompleted,
    StageStarted,
    TypedEvent,
    encode,
    event_parts,
)
from hub.job.event import EventId, JobId, checked_job_id
from hub.produce.batch import Batch
from hub.produce.lease import SHORTEST_BLOCKING, TTL, Lease, held, held_sync
from hub.quiet import quiet_log

logger = quiet_log("hub.publisher")

Job = str | int | UUID
"""A job's id; a number or a UUID stands for its text."""

Kind = str | TypedEvent
"""An event's type, or a typed event, which has its fields with it."""


def _last_fields(status: str, narration: str | None) -> dict[str, Any]:
    """The fields of the event that ends a job."""
    return {"stage": status, "narration": narration, "status": status}


class _Publishing:
    """What the async and the blocking publisher share: everything except I/O."""

    def __init__(self, publication: Publication | None, *, strict: bool) -> None:
        self._publication = publication or Publication()
        self._strict = strict
        self._leases: dict[JobId, weakref.ref[Lease]] = {}  # the last of each job
        self._ownerless: set[JobId] = set()  # that a warning was logged for
        self.failures = 0
        """Calls that published nothing since the start, for whatever reason but a malformed event."""

    def _prepare(
        self, job: Job, events: Iterable[tuple[Kind, object]], once: str | None
    ) -> tuple[JobId, list[tuple[str, str]], list[str], list[str | int]]:
        """The job, the events as bodies with their statuses, KEYS and ARGV of the script. Raises InvalidEvent."""
        known = checked_job_id(job)
        try:
            made = [self._encode(known, kind, fields) for kind, fields in events]
        except HubError:
            raise
        except (
            Exception
        ) as error:  # a field whose own code fails must not end the job that publishes it otherwise
            raise InvalidEvent(f"expected fields that can be JSON, got {error!r}") from error
        if not made:
            raise InvalidEvent("expected at least one event, got none")
        if any(status in self._publication.terminal for _, status in made[:-1]):
            raise InvalidEvent("expected the terminal event to be the last")
        return known, made, *self._publication.prepare(known, made, once=once)

    def _encode(self, job: JobId, kind: Kind, fields: object) -> tuple[str, str]:
        name, given = event_parts(kind, fields)
        given = {key: value for key, value in given.items() if value is not None}
        body = encode(job, name, given, limit=self._publication.limit, strict=self._strict)
        status = given.get("status")
        return body, status if isinstance(status, str) else ""

    def _prepare_restart(self, job: Job, status: str) -> tuple[JobId, list[str], list[str | int]]:
        if not status or status in self._publication.terminal:
            raise InvalidEvent(f"expected a status to begin with, got {status!r}")
        known = checked_job_id(job)
        return known, *self._publication.prepare_restart(known, status)

    def _new_lease(self, job: Job, ttl: float, *, shortest: float = 1.0) -> tuple[JobId, Lease]:
        known = checked_job_id(job)
        lease = Lease(known, ttl, shortest=shortest)
        self._leases[known] = weakref.ref(lease)
        return known, lease

    def _published(
        self, job: JobId, made: list[tuple[str, str]], answer: tuple[EventId, bool]
    ) -> list[EventId]:
        """The ids of the events. Notes the end of a job, and one that has no owner."""
        last, is_owned = answer
        if made[-1][1] in self._publication.terminal:
            lease = self._leases.pop(job, None)
            if lease is not None and (held_now := lease()) is not None:
                held_now.over = True
        if not is_owned and job not in self._ownerless and len(self._ownerless) < 1000:
            self._ownerless.add(job)
            logger.warning("job %s has no owner in its hash (user_id), so nobody can watch it", job)
        return [EventId(last.epoch, last.seq - more) for more in reversed(range(len(made)))]

    def _failed(self, job: Job, what: str, error: Exception) -> None:
        self.failures += 1
        if self._strict:
            if isinstance(error, JobEnded):
                raise error
            raise BrokerUnavailable(f"{what} of job {job} was not published: {words(error)}") from error
        logger.warning("%s of job %s was not published: %s", what, job, words(error))


def _name(kind: Kind) -> str:
    return kind.type if isinstance(kind, TypedEvent) else str(kind)


_FAILURES = (*OUTAGE, JobEnded, RuntimeError)
"""What keeps an event from being published. RuntimeError is the driver's word for a closed loop or pool."""


class Publisher(_Publishing):
    """Publish from async code. `Publisher.from_url(url)` owns its connection; `Publisher(client)` uses yours.

    Every method returns the event's id (`epoch-seq`), or None when it was not published. Waits at most about 20 s
    for a Redis that stalls (5 s a try, three retries); cancelling is safe, the event is then published or not.
    May be shared by several event loops, one after the other or at once: each gets connections of its own.
    """

    def __init__(
        self, client: AsyncRedis, *, publication: Publication | None = None, strict: bool = False
    ) -> None:
        super().__init__(publication, strict=strict)
        self._clients = PerLoop(client)
        self._script = Script(self._clients, SCRIPT)
        self._lease_script = Script(self._clients, LEASE_SCRIPT)
        self._restart_script = Script(self._clients, RESTART_SCRIPT)
        self._owns_client = False

    @classmethod
    def from_url(cls, url: str, *, publication: Publication | None = None, strict: bool = False) -> Publisher:
        """A publisher with a connection of its own; end it with `aclose` or use it as a context manager."""
        publisher = cls(for_publishing(url), publication=publication, strict=strict)
        publisher._owns_client = True
        return publisher

    async def __aenter__(self) -> Publisher:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the running loop's connections, if `from_url` opened them."""
        client = self._clients.get()
        if self._owns_client or client is not self._clients.given:
            await close(client)

    async def emit(
        self, job: Job, kind: Kind, fields: object = None, *, once: str | None = None
    ) -> EventId | None:
        """Publish an event of type `kind` with `fields` (a mapping, model or dataclass; a `status` sets the job's).

        `kind` may be a typed event, which has its fields with it. `once` is an idempotency key: a second call with it
        returns the first id and publishes nothing (for a day). Without strict, values that JSON does not have are
        converted (docs/protocol.md). Raises InvalidEvent; with strict also BrokerUnavailable, and JobEnded after a
        terminal event.
        """
        ids = await self._emit(job, [(kind, fields)], _name(kind), once)
        return ids[-1] if ids else None

    async def emit_many(
        self, job: Job, events: Iterable[Kind | tuple[str, object]], *, once: str | None = None
    ) -> list[EventId]:
        """Publish several events in one step: all or none, with contiguous ids, which are returned ([] for none).

        Each is a typed event or a pair of type and fields. A terminal one must be the last. Raises like `emit`.
        """
        return await self._emit(job, map(_pair, events), "a batch", once)

    def batch(self, job: Job, *, every: float = 0.05, size: int = 100) -> Batch:
        """Collect events and publish them `every` so many seconds, or `size` at a time:

        `async with publish.batch(job) as batch: batch.add("token", {"text": "..."})`. What is left goes out at the end
        of the block. `add` never waits; publishing never raises into the block but InvalidEvent.
        """
        return Batch(functools.partial(self.emit_many, job), every=every, size=size)

    async def _emit(
        self, job: Job, events: Iterable[tuple[Kind, object]], what: str, once: str | None
    ) -> list[EventId]:
        known, made, keys, args = self._prepare(job, events, once)
        try:
            answer = interpret(known, await self._script.run(keys, args))
        except _FAILURES as error:
            self._failed(job, what, error)
            return []
        return self._published(known, made, answer)

    async def stage_started(
        self, job: Job, stage: str, narration: str | None = None, *, status: str | None = None, **fields: Any
    ) -> EventId | None:
        """Say that a stage began. The job's status becomes `status`, by default the stage's name.

        `fields` are added to the event, here and in the methods below.
        """
        typed = {"stage": stage, "narration": narration, "status": status or stage}
        return await self.emit(job, StageStarted.kind(), typed | fields)

    async def stage_completed(
        self, job: Job, stage: str, duration: float | None = None, **fields: Any
    ) -> EventId | None:
        """Say that a stage is done; `duration` is in seconds."""
        return await self.emit(job, StageCompleted.kind(), {"stage": stage, "duration": duration} | fields)

    async def snapshot_updated(self, job: Job, url: str, **fields: Any) -> EventId | None:
        """There is a new picture at `url`."""
        return await self.emit(job, SnapshotUpdated.kind(), {"url": url} | fields)

    async def documentation_updated(
        self, job: Job, section: str, content: str, **fields: Any
    ) -> EventId | None:
        """Say that the section headed `section` was written; `content` is its text."""
        return await self.emit(
            job, DocumentationUpdated.kind(), {"section": section, "content": content} | fields
        )

    async def ready(self, job: Job, narration: str | None = None, **fields: Any) -> EventId | None:
        """The job ends well; nothing follows."""
        return await self.emit(job, StageStarted.kind(), _last_fields("ready", narration) | fields)

    async def failed(self, job: Job, narration: str | None = None, **fields: Any) -> EventId | None:
        """The job ends badly; nothing follows."""
        return await self.emit(job, StageStarted.kind(), _last_fields("failed", narration) | fields)

    async def restart(self, job: Job, *, status: str = "queued") -> int | None:
        """Begin the job's next attempt: its events begin anew, and whoever comes back gets `resync` and then these.

        Returns the number of the attempt (2 for the first restart), None when Redis is away. Raises InvalidEvent for a
        terminal `status`, JobNotFound; with strict BrokerUnavailable.
        """
        known, keys, args = self._prepare_restart(job, status)
        try:
            return interpret_restart(known, await self._restart_script.run(keys, args))
        except (*OUTAGE, RuntimeError) as error:
            self._failed(job, "the restart", error)
            return None

    async def watched(self, job: Job) -> int | None:
        """How many hub processes watch the job now, so that a worker can leave out a costly snapshot. None without Redis."""
        channel = self._publication.keys.events(checked_job_id(job))
        try:
            ((_, number),) = await self._clients.get().pubsub_numsub(channel)
        except (*OUTAGE, RuntimeError) as error:
            self._failed(job, "the question who watches", error)
            return None
        return int(number)

    def lease(self, job: Job, *, ttl: float = TTL) -> AbstractAsyncContextManager[Lease]:
        """Hold the job's lease for the block, renewed every `ttl / 3` seconds: `async with publish.lease(job):`.

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
        self._restart_script = SyncScript(client, RESTART_SCRIPT)
        self._close: Callable[[], Any] | None = None

    @classmethod
    def from_url(
        cls, url: str, *, publication: Publication | None = None, strict: bool = False
    ) -> SyncPublisher:
        """A publisher with its own connections. Close it with `close`, or use it as a context manager."""
        client = for_publishing_sync(url)
        publisher = cls(client, publication=publication, strict=strict)
        publisher._close = functools.partial(close_sync, client)
        return publisher

    def __enter__(self) -> SyncPublisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that `from_url` opened."""
        if self._close is not None:
            self._close()

    def emit(self, job: Job, kind: Kind, fields: object = None, *, once: str | None = None) -> EventId | None:
        """As `Publisher.emit`."""
        ids = self._emit(job, [(kind, fields)], _name(kind), once)
        return ids[-1] if ids else None

    def emit_many(
        self, job: Job, events: Iterable[Kind | tuple[str, object]], *, once: str | None = None
    ) -> list[EventId]:
        """As `Publisher.emit_many`."""
        return self._emit(job, map(_pair, events), "a batch", once)

    def _emit(
        self, job: Job, events: Iterable[tuple[Kind, object]], what: str, once: str | None
    ) -> list[EventId]:
        known, made, keys, args = self._prepare(job, events, once)
        try:
            answer = interpret(known, self._script.run(keys, args))
        except _FAILURES as error:
            self._failed(job, what, error)
            return []
        return self._published(known, made, answer)

    def stage_started(
        self, job: Job, stage: str, narration: str | None = None, *, status: str | None = None, **fields: Any
    ) -> EventId | None:
        """As `Publisher.stage_started`."""
        typed = {"stage": stage, "narration": narration, "status": status or stage}
        return self.emit(job, StageStarted.kind(), typed | fields)

    def stage_completed(
        self, job: Job, stage: str, duration: float | None = None, **fields: Any
    ) -> EventId | None:
        """As `Publisher.stage_completed`."""
        return self.emit(job, StageCompleted.kind(), {"stage": stage, "duration": duration} | fields)

    def snapshot_updated(self, job: Job, url: str, **fields: Any) -> EventId | None:
        """As `Publisher.snapshot_updated`."""
        return self.emit(job, SnapshotUpdated.kind(), {"url": url} | fields)

    def documentation_updated(self, job: Job, section: str, content: str, **fields: Any) -> EventId | None:
        """As `Publisher.documentation_updated`."""
        return self.emit(job, DocumentationUpdated.kind(), {"section": section, "content": content} | fields)

    def ready(self, job: Job, narration: str | None = None, **fields: Any) -> EventId | None:
        """As `Publisher.ready`."""
        return self.emit(job, StageStarted.kind(), _last_fields("ready", narration) | fields)

    def failed(self, job: Job, narration: str | None = None, **fields: Any) -> EventId | None:
        """As `Publisher.failed`."""
        return self.emit(job, StageStarted.kind(), _last_fields("failed", narration) | fields)

    def restart(self, job: Job, *, status: str = "queued") -> int | None:
        """As `Publisher.restart`."""
        known, keys, args = self._prepare_restart(job, status)
        try:
            return interpret_restart(known, self._restart_script.run(keys, args))
        except (*OUTAGE, RuntimeError) as error:
            self._failed(job, "the restart", error)
            return None

    def watched(self, job: Job) -> int | None:
        """As `Publisher.watched`."""
        channel = self._publication.keys.events(checked_job_id(job))
        try:
            ((_, number),) = self._client.pubsub_numsub(channel)
        except (*OUTAGE, RuntimeError) as error:
            self._failed(job, "the question who watches", error)
            return None
        return int(number)

    def lease(self, job: Job, *, ttl: float = TTL) -> AbstractContextManager[Lease]:
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


def _pair(event: Kind | tuple[str, object]) -> tuple[Kind, object]:
    return event if isinstance(event, tuple) else (event, None)
