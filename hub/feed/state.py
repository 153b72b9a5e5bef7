"""What a viewer needs who cannot have every event: the job's status, its public fields, the last event of each type.

Invariant: it is as new as the last frame made from it. Kept in the feed, so that a join makes no trip to Redis.
"""

from __future__ import annotations

import json
from typing import Any

from hub.job.event import Event, EventId, JobId
from hub.job.frame import Frame
from hub.job.record import Job

MAX_TYPES = 64
"""Types of which the last event is kept; a producer that makes up more is told nothing, the first 64 stay."""


class State:
    """The current state of one job."""

    __slots__ = ("_job_id", "_last", "_public", "_status", "job")

    def __init__(self, job_id: JobId, public: frozenset[str]) -> None:
        self.job: Job | None = None
        self._job_id = job_id
        self._public = public
        self._status: str | None = None
        self._last: dict[str, str] = {}

    @property
    def status(self) -> str:
        """What the last event with a status said, else what the hash says."""
        return self._status or (self.job.status if self.job else "")

    def take(self, event: Event) -> None:
        """Remember an event."""
        if event.status is not None:
            self._status = event.status
        kind = event.type
        if kind is not None and (kind in self._last or len(self._last) < MAX_TYPES):
            self._last[kind] = event.body

    def forget(self, job: Job | None) -> None:
        """The log was lost, and what was remembered from it with it; `job` is the hash, if there still is one."""
        self._last.clear()
        if job is not None:
            self.job = job
            self._status = None

    def text(self, position: EventId | None) -> str:
        """JSON text of the state; events stand in it as their producers wrote them."""
        kept = {**self.job.fields, "status": self.status} if self.job else {}
        public = {name: value for name, value in kept.items() if name in self._public}
        head: dict[str, Any] = {
            "job_id": self._job_id,
            "status": self.status,
            "position": str(position) if position is not None else None,
            "job": public,
        }
        last = ",".join(f"{json.dumps(kind)}:{body}" for kind, body in self._last.items())
        return f'{json.dumps(head, separators=(",", ":"))[:-1]},"last":{{{last}}}}}'

    def frame(self, position: EventId | None) -> Frame:
        """The `state` frame. With a `position` that is its id, and a viewer that got it resumes from there."""
        return Frame(
            Event(None, self.text(position), {"job_id": self._job_id}), event_id=position, name="state"
        )
