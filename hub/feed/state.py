"""A job's current state, for a viewer that cannot have every event: status, public fields, last event of each
type.

Invariant: the state is as new as the last frame made from it. The feed keeps it, so that a join makes no trip
to Redis.
"""

from __future__ import annotations

import json
from typing import Any

from hub.job.event import Event, EventId, JobId
from hub.job.frame import Frame
from hub.job.record import Job

MAX_TYPES = 64
"""Types of which the last event is kept. The first 64 of a producer that makes up more stay."""


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
        """The status of the last event that had one, else the hash's."""
        return self._status or (self.job.status if self.job else "")

    def remember(self, event: Event) -> None:
        """An event is delivered."""
        if event.status is not None:
            self._status = event.status
        kind = event.type
        if kind is not None and (kind in self._last or len(self._last) < MAX_TYPES):
            self._last[kind] = event.body

    def forget(self, job: Job | None) -> None:
        """The log was lost, and with it what was remembered from it. `job` is the hash, if there still is
        one."""
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
            "attempt": self.job.attempt if self.job else 1,
            "job": public,
        }
        last = ",".join(f"{json.dumps(kind)}:{body}" for kind, body in self._last.items())
        return f'{json.dumps(head, separators=(",", ":"))[:-1]},"last":{{{last}}}}}'

    def frame(self, position: EventId | None) -> Frame:
        """The `state` frame. A `position` is its id, and a viewer that has the frame resumes from there."""
        return Frame(
            Event(None, self.text(position), {"job_id": self._job_id}), event_id=position, name="state"
        )
