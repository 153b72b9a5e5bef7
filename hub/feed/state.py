"""A job's current state, for a viewer that cannot have every event: status, public fields, last event of each
type.

Invariant: the state is as new as the last frame made from it, and has as many bytes as a window at most; it
says so if it had to leave types out. The feed keeps it, so that a join makes no trip to Redis.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hub.job.event import Event, EventId, JobId
from hub.job.frame import Frame
from hub.job.record import Job
from hub.totals import Totals

MAX_TYPES = 64
"""Types of which the last event is kept. Of a producer that makes up more the last 64 stay."""


class State:
    """The current state of one job."""

    __slots__ = ("_is_cut", "_job_id", "_last", "_limit", "_public", "_size", "_status", "_totals", "job")

    def __init__(self, job_id: JobId, public: frozenset[str], *, limit: int, totals: Totals) -> None:
        self.job: Job | None = None
        self._limit = limit
        self._totals = totals
        self._size = 0  # bytes of `_last`
        self._is_cut = False  # types were dropped
        self._job_id = job_id
        self._public = public
        self._status: str | None = None
        self._last: dict[str, Event] = {}

    @property
    def status(self) -> str:
        """The status of the last event that had one, else the hash's."""
        return self._status or (self.job.status if self.job else "")

    def remember(self, event: Event) -> None:
        """An event is delivered."""
        if event.status is not None:
            self._status = event.status
        kind = event.type
        if kind is None:
            return
        before = self._last.pop(kind, None)
        growth = event.size if before is None else event.size - before.size
        if event.size > self._limit:
            self._is_cut = True
            growth -= event.size
        else:
            self._last[kind] = event
        self._weigh(growth)
        if len(self._last) > MAX_TYPES or self._size > self._limit:
            self._shrink()

    def recall(self, events: Sequence[Event]) -> None:
        """Add events that are older than all that it has, in their order."""
        older: dict[str, Event] = {}
        for event in events:
            if (kind := event.type) is None or kind in self._last:
                continue
            older.pop(kind, None)
            older[kind] = event
        for kind in [kind for kind, event in older.items() if event.size > self._limit]:
            del older[kind]
            self._is_cut = True
        self._last = {**older, **self._last}
        self._weigh(sum(event.size for event in older.values()))
        self._shrink()

    def cut(self) -> None:
        """It may lack what older events say."""
        self._is_cut = True

    def _shrink(self) -> None:
        while len(self._last) > MAX_TYPES or self._size > self._limit:
            self._is_cut = True
            self._drop(next(iter(self._last)))  # the one whose last event is the oldest

    def _drop(self, kind: str) -> None:
        if (event := self._last.pop(kind, None)) is not None:
            self._weigh(-event.size)

    def _weigh(self, size: int) -> None:
        self._size += size
        self._totals.state_bytes += size

    def clear(self) -> None:
        """Drop the events."""
        self._weigh(-self._size)
        self._last.clear()
        self._is_cut = False

    def forget(self, job: Job | None) -> None:
        """The log was lost, and with it what was remembered from it. `job` is the hash, if there still is
        one."""
        self.clear()
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
        if self._is_cut:
            head["truncated"] = True
        last = ",".join(f"{json.dumps(kind)}:{event.body}" for kind, event in self._last.items())
        return f'{json.dumps(head, separators=(",", ":"))[:-1]},"last":{{{last}}}}}'

    def frame(self, position: EventId | None) -> Frame:
        """The `state` frame. A `position` is its id, and a viewer that has the frame resumes from there."""
        return Frame(
            Event(None, self.text(position), {"job_id": self._job_id}), event_id=position, name="state"
        )
