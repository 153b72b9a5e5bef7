"""The blocking publisher: for Celery, RQ, Django or a script. Its methods are those of `Publisher`, without
await."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

from hub.broker.connect import (
    OUTAGE,
    SyncClient,
    at_sync,
    close_sync,
    for_publishing_sync,
    is_cluster,
    nodes_of_sync,
    unavailable,
)
from hub.broker.entries import wait_for_entry_sync
from hub.broker.evalsha import SyncScript
from hub.broker.presence import counts_of, hub_key, is_there
from hub.broker.script import (
    LEASE_SCRIPT,
    LISTEN_SCRIPT,
    RESTART_SCRIPT,
    SCRIPT,
    Publication,
    interpret,
    interpret_lease,
    interpret_listen,
    interpret_restart,
)
from hub.errors import JobEnded
from hub.job.catalogue import (
    DocumentationUpdated,
    SnapshotUpdated,
    StageCompleted,
    StageStarted,
)
from hub.job.command import JobCommand
from hub.job.event import EventId, JobId, checked_job_id
from hub.produce.hearing import LISTENS, RETRY, Heard
from hub.produce.lease import TTL, BlockingLease, held_sync
from hub.produce.publishing import FAILURES, Job, Kind, Publishing, last_fields, name_of, pair_of
from hub.tracing import span


class SyncPublisher(Publishing):
    """Publish from blocking code, with the methods of `Publisher`. Threads may share one publisher."""

    def __init__(
        self, client: SyncClient, *, publication: Publication | None = None, strict: bool = False
    ) -> None:
        nodes = nodes_of_sync(client)
        super().__init__(publication, strict=strict, cluster=is_cluster(nodes))
        self._nodes = nodes
        self._script = SyncScript(nodes, SCRIPT)
        self._lease_script = SyncScript(nodes, LEASE_SCRIPT)
        self._restart_script = SyncScript(nodes, RESTART_SCRIPT)
        self._listen_script = SyncScript(nodes, LISTEN_SCRIPT)
        self._heard: dict[JobId, str] = {}  # the command that a worker has, and has not handled yet
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
        with span("push_hub.publish", {"push_hub.job": str(job), "push_hub.event": what}):
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
        known = checked_job_id(job)
        channel, verb = self._publication.watchers(known)
        key = self._publication.keys.viewers(known)
        nodes = self._nodes
        try:
            _, processes = at_sync(nodes, key, lambda client: client.execute_command("PUBSUB", verb, channel))
            counts = counts_of(at_sync(nodes, key, lambda client: client.hgetall(key)))
            there = [count for hub, count in counts.items() if at_sync(nodes, hub_key(hub), is_there(hub))]
        except (*OUTAGE, RuntimeError) as error:
            self._failed(job, "the question who watches", error)
            return None
        return max(int(processes), sum(there))

    def next_command(self, job: Job, *, timeout: float = 0) -> Heard[EventId | None] | None:
        """The next command that a viewer gave. None if there is none within `timeout` seconds, or the job is
        over.

        In order, each at least once: a command that was not handled when the worker died comes again to the
        next one. It counts as handled when the next one is asked for. An outage of Redis is waited through;
        with strict it raises BrokerUnavailable.
        """
        known = checked_job_id(job)
        key = self._publication.keys.commands(known)
        deadline = time.monotonic() + timeout
        while True:
            try:
                command = self._listen(known, self._heard.get(known, ""))
                self._heard.pop(known, None)
                left = deadline - time.monotonic()
                if command is None and left > 0:
                    wait = functools.partial(wait_for_entry_sync, key=key, seconds=left)
                    at_sync(self._nodes, key, wait)
            except JobEnded:
                self._heard.pop(known, None)
                return None
            except (*OUTAGE, RuntimeError) as error:
                self._failed(job, "the question for commands", error)
                command, left = None, deadline - time.monotonic()
                time.sleep(max(0.0, min(RETRY, left)))
            if command is not None:
                self._heard[known] = command.id
                self._note(known, command)
                return Heard(command, functools.partial(self._answer_command, known))
            if left <= 0:
                return None

    def _listen(self, job: JobId, handled: str) -> JobCommand | None:
        keys, args = self._publication.prepare_listen(job, LISTENS, handled)
        return interpret_listen(job, self._listen_script.run(keys, args))

    def _answer_command(self, job: JobId, kind: str, fields: dict[str, Any], once: str) -> EventId | None:
        return self.emit(job, kind, fields, once=once)

    def lease(self, job: Job, *, ttl: float = TTL) -> AbstractContextManager[BlockingLease]:
        """As `Publisher.lease`, of at least 8 s; a thread renews it, also while the worker computes.

        `lease.cancelled` is True when a viewer has given the command `cancel`.
        """
        known = checked_job_id(job)
        lease = BlockingLease(known, ttl, functools.partial(self.next_command, known))
        self._add_lease(lease)
        until = ""

        def renew(seconds: float) -> None:
            nonlocal until
            keys, args = self._publication.prepare_lease(known, seconds, until)
            try:
                until = interpret_lease(known, self._lease_script.run(keys, args))
            except OUTAGE as error:
                raise unavailable(error) from error

        return held_sync(lease, renew, strict=self._strict)
