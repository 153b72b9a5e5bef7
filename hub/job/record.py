"""A job as it was read: its hash and its retained events. Pure values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hub.job.event import EventId, JobId, UserId


@dataclass(frozen=True, slots=True)
class Job:
    """A job's hash. `epoch`, `position` and `lease` are the hub's: when the log began (ms), its last id, and for how many seconds
    from the read its worker had promised to be heard of (by Redis's clock; negative when that is over)."""

    id: JobId
    status: str
    user_id: UserId
    epoch: int | None = None
    position: EventId | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    lease: float | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One retained event: its id and its body (UTF-8 JSON text without the id)."""

    id: EventId
    body: bytes


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A job and retained events, oldest first, read in one transaction."""

    job: Job | None
    entries: list[Entry]
