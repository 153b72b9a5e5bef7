"""A job as read from Redis: its hash and its retained events. Pure values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hub.job.event import TERMINAL, EventId, JobId, UserId

PUBLIC_FIELDS = frozenset({"status", "project_id", "title", "message", "created_at"})
"""Fields of a job's hash that its owner may see, unless `HUB_PUBLIC_FIELDS` says otherwise."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job as Redis has it: the named fields of the application's hash, and the hub's own hash.

    `exists` is False if only the hub's is left. Of the hub's: `epoch` is when the log began (ms since 1970),
    `position` its last id, `ended` the id of the terminal event, `log_owner` whose events it has ("" if
    nobody's), `attempt` the number of times the job was begun, `digest` a checksum over all events of the
    log, `lease` the seconds from the read for which the worker promised to renew it (by Redis's clock,
    negative when that is over). `terminal`: the statuses that end it; `stated`: those of its publisher.
    """

    id: JobId
    status: str
    user_id: UserId
    epoch: int | None = None
    position: EventId | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    lease: float | None = None
    ended: EventId | None = None
    log_owner: str = ""
    attempt: int = 1
    digest: str = ""
    exists: bool = True
    terminal: frozenset[str] = TERMINAL
    stated: frozenset[str] = frozenset()

    @property
    def over(self) -> bool:
        """Returns True if the job has ended and was not begun again."""
        return self.status in self.terminal

    def has_given(self, event_id: EventId) -> bool:
        """Returns True if an event of the retained log has had this id."""
        position = self.position
        return position is not None and position.epoch == event_id.epoch and position >= event_id


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
