"""What the async and the blocking publisher share: everything except I/O."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from hub import tracing
from hub.broker.connect import (
    OUTAGE,
    words,
)
from hub.broker.script import (
    Publication,
    Published,
)
from hub.errors import BrokerUnavailable, HubError, InvalidEvent, JobEnded
from hub.job.catalogue import (
    TypedEvent,
    encode,
    event_parts,
)
from hub.job.command import CANCEL, JobCommand
from hub.job.event import EventId, JobId, checked_job_id
from hub.produce.lease import Lease
from hub.quiet import quiet_log

logger = quiet_log("hub.publisher")

LARGE = 32 * 1024
"""Bytes that every client takes with its default settings. Some WebSocket libraries refuse more, and Go's
`bufio.Scanner` stops at 64 KiB; such a client meets the same event again after each reconnect."""

MAX_WARNED = 100
"""Types that a process warns of once: a producer may make up more."""

_warned_types: set[str] = set()

Job = str | int | UUID
"""A job's id; a number or a UUID stands for its text."""

Kind = str | TypedEvent
"""An event's type, or a typed event, which has its fields with it."""


def last_fields(status: str, narration: str | None) -> dict[str, Any]:
    """The fields of the event that ends a job."""
    return {"stage": status, "narration": narration, "status": status}


class Publishing:
    """What the async and the blocking publisher share: everything except I/O."""

    def __init__(self, publication: Publication | None, *, strict: bool, cluster: bool) -> None:
        self._publication = (publication or Publication()).on(cluster=cluster)
        self._strict = strict
        self._hearing: Counter[JobId] = Counter()  # loops over the commands of a job
        self._leases: dict[JobId, weakref.ref[Lease]] = {}  # the last of each job
        self._ownerless: set[JobId] = set()  # that a warning was logged for
        self._others: set[str] = set()  # terminal statuses of hubs, the same
        self.failures = 0
        """Calls that published nothing since the start, for whatever reason but a malformed event."""

    def _prepare(
        self, job: Job, events: Iterable[tuple[Kind, object]], once: str | None
    ) -> tuple[JobId, list[tuple[str, str]], list[str], list[str | int]]:
        """The job, the events as bodies with their statuses, KEYS and ARGV of the script. Raises
        InvalidEvent."""
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
        limit, strict, trace = self._publication.limit, self._strict, tracing.traceparent()
        body = encode(job, name, given, limit=limit, strict=strict, trace=trace)
        if len(body) > LARGE or (len(body) > LARGE // 4 and len(body.encode()) > LARGE):
            _warn_of_size(name, len(body.encode()))
        status = given.get("status")
        return body, status if isinstance(status, str) else ""

    def _prepare_restart(self, job: Job, status: str) -> tuple[JobId, list[str], list[str | int]]:
        if not status or status in self._publication.terminal:
            raise InvalidEvent(f"expected a status to begin with, got {status!r}")
        known = checked_job_id(job)
        return known, *self._publication.prepare_restart(known, status)

    def _add_lease(self, lease: Lease) -> None:
        self._leases[lease.job] = weakref.ref(lease)

    def _note(self, job: JobId, command: JobCommand) -> None:
        """A command was heard: the lease on the job learns of a cancel, whoever listens."""
        lease = self._leases.get(job)
        if command.name == CANCEL and lease is not None and (held_now := lease()) is not None:
            held_now.cancel()

    def _published(self, job: JobId, made: list[tuple[str, str]], answer: Published) -> list[EventId]:
        """The ids of the events. Notes the end of a job, one without an
        owner, and a hub of other settings.
        """
        last = answer.last
        if made[-1][1] in self._publication.terminal:
            lease = self._leases.pop(job, None)
            if lease is not None and (held_now := lease()) is not None:
                held_now.over = True
        if not answer.is_owned and job not in self._ownerless and len(self._ownerless) < 1000:
            self._ownerless.add(job)
            logger.warning("job %s has no owner in its hash (user_id), so nobody can watch it", job)
        if answer.others and answer.others not in self._others and len(self._others) < MAX_WARNED:
            self._others.add(answer.others)
            own = ",".join(sorted(self._publication.ends))
            logger.warning("job %s: a hub ends jobs with %s, this publisher with %s", job, answer.others, own)
        return [EventId(last.epoch, last.seq - more) for more in reversed(range(len(made)))]

    def _failed(self, job: Job, what: str, error: Exception) -> None:
        self.failures += 1
        if self._strict:
            if isinstance(error, JobEnded):
                raise error
            raise BrokerUnavailable(f"{what} of job {job} was not published: {words(error)}") from error
        logger.warning("%s of job %s was not published: %s", what, job, words(error))


def _warn_of_size(kind: str, size: int) -> None:
    if kind not in _warned_types and len(_warned_types) < MAX_WARNED:
        _warned_types.add(kind)
        logger.warning(
            "an event of type %s has %d bytes; some clients take at most %d",
            kind,
            size,
            LARGE,
        )


def name_of(kind: Kind) -> str:
    """The type, for a log line."""
    return kind.type if isinstance(kind, TypedEvent) else str(kind)


FAILURES = (*OUTAGE, JobEnded, RuntimeError)
"""What keeps an event from being published. RuntimeError is the driver's word for a closed loop or pool."""


def pair_of(event: Kind | tuple[str, object]) -> tuple[Kind, object]:
    """An event of `emit_many` as type and fields."""
    return event if isinstance(event, tuple) else (event, None)
