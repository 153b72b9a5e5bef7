"""A job as read from Redis: its hash and its retained events. Pure values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hub.job.event import EventId, JobId, UserId


@dataclass(frozen=True, slots=True)
class Job:
    """A job's hash at the time of the read.

    The application writes `status`, `user_id` and `fields`; the hub's scripts write the others. `epoch` is
    when the log began (ms since 1970) and `position` is its last id. `lease` is how many seconds the worker's
    lease was still valid, by Redis's clock; it is negative if the lease has lapsed, and None without a lease.
    """

    id: JobId
    status: str
    user_id: UserId
    epoch: int | None = None
    position: EventId | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    lease: float | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One retained event: its id, and its body as UTF-8 JSON text without the id."""

    id: EventId
    body: bytes


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A job (None if unknown) and some of its retained events, oldest first, read in one transaction."""

    job: Job | None
    entries: list[Entry]
