"""The blocking publisher: for Celery, RQ, Django or a script. Its methods are those of `Publisher`, without
await."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

from hub.broker.connect import (
    OUTAGE,
    SyncRedis,
    SyncScript,
    close_sync,
    for_publishing_sync,
    unavailable,
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
from hub.job.catalogue import (
    DocumentationUpdated,
    SnapshotUpdated,
    StageCompleted,
    StageStarted,
)
from hub.job.event import EventId, checked_job_id
from hub.produce.lease import SHORTEST_BLOCKING, TTL, Lease, held_sync
from hub.produce.publishing import FAILURES, Job, Kind, Publishing, last_fields, name_of, pair_of


class SyncPublisher(Publishing):
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
        ids = self._emit(job, [(kind, fields)], name_of(kind), once)
        return ids[-1] if ids else None

    def emit_many(
        self, job: Job, events: Iterable[Kind | tuple[str, object]], *, once: str | None = None
    ) -> list[EventId]:
        """As `Publisher.emit_many`."""
        return self._emit(job, map(pair_of, events), "a batch", once)

    def _emit(
        self, job: Job, events: Iterable[tuple[Kind, object]], what: str, once: str | None
    ) -> list[EventId]:
        known, made, keys, args = self._prepare(job, events, once)
        try:
            answer = interpret(known, self._script.run(keys, args))
        except FAILURES as error:
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
        return self.emit(job, StageStarted.kind(), last_fields("ready", narration) | fields)

    def failed(self, job: Job, narration: str | None = None, **fields: Any) -> EventId | None:
        """As `Publisher.failed`."""
        return self.emit(job, StageStarted.kind(), last_fields("failed", narration) | fields)

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
