"""For workers: publish a job's events, from async code or from blocking code (Celery, RQ, a script).

Invariant: a failure to publish does not break the job. If Redis does not answer, or the job has ended, a call
logs a warning, counts it in `failures` and returns None; with `strict=True` it raises instead. A malformed
event is the programmer's error and always raises InvalidEvent. Retries publish an event only once
(script.py).
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Awaitable, Iterable
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from typing import Any

from hub.broker.connect import (
    OUTAGE,
    PATIENCE,
    AsyncClient,
    PerLoop,
    at,
    close,
    for_publishing,
    is_cluster,
    nodes_of,
    unavailable,
)
from hub.broker.entries import wait_for_entry
from hub.broker.evalsha import Script
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
from hub.produce.batch import Batch
from hub.produce.hearing import LISTENS, RETRY, Heard
from hub.produce.lease import TTL, AsyncLease, held
from hub.produce.publishing import FAILURES, Job, Kind, Publishing, last_fields, name_of, pair_of
from hub.tracing import span


class Publisher(Publishing):
    """Publish from async code. `Publisher.from_url(url)` owns its connection; `Publisher(client)` uses yours.

    Every method returns the event's id (`epoch-seq`), or None when it was not published. Waits at most about
    20 s for a Redis that stalls (5 s a try, three retries); cancelling is safe, the event is then published
    or not. May be shared by several event loops, one after the other or at once: each gets connections of its
    own.
    """

    def __init__(
        self, client: AsyncClient, *, publication: Publication | None = None, strict: bool = False
    ) -> None:
        nodes = nodes_of(client, patience=PATIENCE)
        super().__init__(publication, strict=strict, cluster=is_cluster(nodes))
        self._clients = PerLoop(nodes)
        self._script = Script(self._clients, SCRIPT)
        self._lease_script = Script(self._clients, LEASE_SCRIPT)
        self._restart_script = Script(self._clients, RESTART_SCRIPT)
        self._listen_script = Script(self._clients, LISTEN_SCRIPT)
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
        """Publish an event of type `kind` with `fields` (a mapping, model or dataclass; a `status` sets the
        job's).

        `kind` may be a typed event, which has its fields with it. `once` is an idempotency key: a second call
        with it returns the first id and publishes nothing (for a day). Without strict, values that JSON does
        not have are converted (docs/protocol.md). Raises InvalidEvent; with strict also BrokerUnavailable,
        and JobEnded after a terminal event.
        """
        ids = await self._emit(job, [(kind, fields)], name_of(kind), once)
        return ids[-1] if ids else None

    async def emit_many(
        self, job: Job, events: Iterable[Kind | tuple[str, object]], *, once: str | None = None
    ) -> list[EventId]:
        """Publish several events in one step: all or none, with contiguous ids, which are returned ([] for
        none).

        Each is a typed event or a pair of type and fields. A terminal one must be the last. Raises like
        `emit`.
        """
        return await self._emit(job, map(pair_of, events), "a batch", once)

    def batch(self, job: Job, *, every: float = 0.05, size: int = 100) -> Batch:
        """Collect events and publish them `every` so many seconds, or `size` at a time:

        `async with publish.batch(job) as batch: batch.add("token", {"text": "..."})`. What is left goes out
        at the end of the block. `add` never waits; publishing never raises into the block but InvalidEvent.
        """
        return Batch(functools.partial(self.emit_many, job), every=every, size=size)

    async def _emit(
        self, job: Job, events: Iterable[tuple[Kind, object]], what: str, once: str | None
    ) -> list[EventId]:
        with span("push_hub.publish", {"push_hub.job": str(job), "push_hub.event": what}):
            known, made, keys, args = self._prepare(job, events, once)
            try:
                answer = interpret(known, await self._script.run(keys, args))
            except FAILURES as error:
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
        return await self.emit(job, StageStarted.kind(), last_fields("ready", narration) | fields)

    async def failed(self, job: Job, narration: str | None = None, **fields: Any) -> EventId | None:
        """The job ends badly; nothing follows."""
        return await self.emit(job, StageStarted.kind(), last_fields("failed", narration) | fields)

    async def restart(self, job: Job, *, status: str = "queued") -> int | None:
        """Begin the job's next attempt.

        Its events are numbered from the start. A returning viewer gets `resync`, then these events.

        Returns the number of the attempt (2 for the first restart), None when Redis is away. Raises
        InvalidEvent for a terminal `status`, JobNotFound; with strict BrokerUnavailable.
        """
        known, keys, args = self._prepare_restart(job, status)
        try:
            return interpret_restart(known, await self._restart_script.run(keys, args))
        except (*OUTAGE, RuntimeError) as error:
            self._failed(job, "the restart", error)
            return None

    async def watched(self, job: Job) -> int | None:
        """How many viewers watch the job now, over all hubs: a worker can leave out a costly snapshot.

        Or how many hub processes watch it, if those are more: a count comes 5 s late, and hubs with
        `HUB_PRESENCE=no` say none. None without Redis.
        """
        known = checked_job_id(job)
        channel, verb = self._publication.watchers(known)
        key = self._publication.keys.viewers(known)
        nodes = self._clients.get()
        try:
            _, processes = await at(
                nodes, key, lambda client: client.execute_command("PUBSUB", verb, channel)
            )
            counts = counts_of(await at(nodes, key, lambda client: client.hgetall(key)))
            there = [count for hub, count in counts.items() if await at(nodes, hub_key(hub), is_there(hub))]
        except (*OUTAGE, RuntimeError) as error:
            self._failed(job, "the question who watches", error)
            return None
        return max(int(processes), sum(there))

    async def commands(self, job: Job) -> AsyncGenerator[Heard[Awaitable[EventId | None]]]:
        """Iterate over the commands that viewers give: `async for command in publish.commands(job):`.

        In order, each at least once: a command that was not handled when the worker died comes again to the
        next one. It counts as handled when the next one is asked for, or `done` or `refused` was called. The
        iteration ends with the job, and goes on through an outage of Redis; with strict that raises
        BrokerUnavailable. A job has one worker: two that iterate may both get a command.
        """
        known = checked_job_id(job)
        key = self._publication.keys.commands(known)
        emit = functools.partial(self._answer_command, known)
        handled, heard = "", None
        self._hearing[known] += 1
        try:
            while True:
                try:
                    command = await self._listen(known, LISTENS, handled)
                    handled = ""
                    if command is None:
                        await at(self._clients.get(), key, functools.partial(wait_for_entry, key=key))
                except JobEnded:
                    return
                except (*OUTAGE, RuntimeError) as error:
                    self._failed(job, "the question for commands", error)
                    await asyncio.sleep(RETRY)
                    continue
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    raise asyncio.CancelledError  # redis-py loses one that comes while it connects
                if command is not None:
                    self._note(known, command)
                    heard = Heard(command, emit)
                    yield heard
                    handled = command.id
        finally:
            self._hearing[known] -= 1
            answered = heard.id if heard is not None and heard.is_answered else handled
            with suppress(*OUTAGE, RuntimeError, JobEnded):
                await self._listen(known, 0, answered)

    async def _listen(self, job: JobId, seconds: float, handled: str) -> JobCommand | None:
        keys, args = self._publication.prepare_listen(job, seconds, handled)
        return interpret_listen(job, await self._listen_script.run(keys, args))

    async def _answer_command(
        self, job: JobId, kind: str, fields: dict[str, Any], once: str
    ) -> EventId | None:
        return await self.emit(job, kind, fields, once=once)

    async def _unheard(self, job: JobId) -> AsyncGenerator[Heard[Awaitable[EventId | None]]]:
        """The commands that nobody iterates over."""
        async with aclosing(self.commands(job)) as commands:
            async for command in commands:
                if self._hearing[job] > 1:  # the worker does, since it began
                    return
                yield command

    def lease(self, job: Job, *, ttl: float = TTL) -> AbstractAsyncContextManager[AsyncLease]:
        """Hold the job's lease for the block, renewed every `ttl / 3` seconds: `async with
        publish.lease(job):`.

        A task renews the lease every `ttl / 3` seconds. If the worker dies, viewers get one `failed` with
        `reason` `producer_lost` about `ttl` seconds later. Leaving the block releases the lease; leaving it
        with an exception lets the lease lapse, so that a retry can take it over. With strict, entering the
        block raises JobEnded, JobNotFound or BrokerUnavailable. `lease.lost` becomes True if the job ends
        elsewhere; `lease.cancelled` is set when a viewer gives the command `cancel`.
        """
        known = checked_job_id(job)
        lease = AsyncLease(known, ttl, functools.partial(self._unheard, known))
        self._add_lease(lease)
        until = ""

        async def renew(seconds: float) -> None:
            nonlocal until
            keys, args = self._publication.prepare_lease(known, seconds, until)
            try:
                until = interpret_lease(known, await self._lease_script.run(keys, args))
            except OUTAGE as error:
                raise unavailable(error) from error

        return held(lease, renew, strict=self._strict)
