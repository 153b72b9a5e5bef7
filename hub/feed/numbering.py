"""Whose ids a job's events have, and how it is noticed that the numbering began anew. Pure.

Invariant: an id is never taken for another event than the one that was delivered with it.
"""

from __future__ import annotations

from collections import deque

from hub.job.event import FINAL, Event, EventId
from hub.job.record import Entry, Job


class Numbering:
    """`shared`: ids come from the retained log, the same in every process; otherwise they are this feed's own."""

    __slots__ = ("_newest", "_over", "shared")

    def __init__(self) -> None:
        self.shared = False
        self._newest: Event | None = None  # the last numbered event that was delivered
        self._over: deque[int] = deque(maxlen=8)  # epochs of before

    @property
    def newest(self) -> EventId | None:
        """The last number that was delivered."""
        return self._newest.id if self._newest is not None else None

    def take(self, event: Event) -> None:
        """This numbered event goes out."""
        self._newest = event

    def is_over(self, event_id: EventId | None) -> bool:
        """Whether the id is of a numbering that is over."""
        return event_id is not None and event_id.epoch in self._over

    def read_after(self, last: EventId) -> EventId:
        """Where a read of the log begins: with the newest event again, to see that it still is what went out."""
        if not self.shared:
            return FINAL
        return last.previous if self._newest is not None and self._newest.id == last else last

    def restart(self, job: Job, entries: list[Entry], last: EventId) -> tuple[str, EventId] | None:
        """Whether the numbering began anew: why, and after which id it goes on.

        `entries` follow `read_after(last)`; `job` was read with them and has an epoch.
        """
        assert job.epoch is not None, "a job with a log has an epoch"
        if job.epoch != last.next.epoch:
            return "restarted", EventId(job.epoch, 0).previous
        if self._rewritten(entries, last):
            return "rolled back", last.previous
        if not entries and job.position is not None and job.position < last:
            return "rolled back", job.position  # Redis lost its last writes
        return None

    def begin_anew(self, reason: str, last: EventId) -> None:
        """What `restart` found is accepted; `last` was the last id until now."""
        self._newest = None
        if reason != "rolled back":
            self._over.append(last.next.epoch)

    def _rewritten(self, entries: list[Entry], last: EventId) -> bool:
        """Whether the newest event's id now belongs to another one: Redis lost its last writes, and others followed."""
        newest = self._newest
        if not entries or newest is None or newest.id != last or entries[0].id != last:
            return False
        return entries[0].body.decode("utf-8", "replace") != newest.body
