"""Where a job's ids come from, and whether its numbering was restarted. Pure.

Invariant: an id never stands for another event than the one that was delivered with it.
"""

from __future__ import annotations

import hashlib

from hub.job.event import FINAL, Event, EventId
from hub.job.record import Entry, Job

MOST_OVER = 8
"""Numberings of which a straggler is known as one."""


class Numbering:
    """`shared`: ids come from the retained log, the same in every process; otherwise they are this feed's
    own."""

    __slots__ = ("_digest", "_newest", "_over", "shared")

    def __init__(self) -> None:
        self.shared = False
        self._newest: Event | None = None  # the last event with an id that was delivered
        self._digest = ""  # over all events up to the newest, as publish.lua makes it; "" if not known
        self._over: tuple[int, ...] = ()  # epochs of the last numberings that are over

    @property
    def newest(self) -> EventId | None:
        """The last id that was delivered."""
        return self._newest.id if self._newest is not None else None

    def remember(self, event: Event) -> None:
        """An event with an id is delivered."""
        self._newest = event
        if self._digest:
            self._digest = hashlib.sha1(
                f"{self._digest}{event.id}{event.body}".encode(), usedforsecurity=False
            ).hexdigest()

    def trust(self, job: Job, last: EventId) -> None:
        """Begin the checksum, if it is not known and `job`, as just read, ends with `last`."""
        if not self._digest and job.position == last:
            self._digest = job.digest

    def skip(self) -> None:
        """Events were left out: the checksum is not known until the next read."""
        self._digest = ""

    def is_rewritten(self, job: Job, last: EventId) -> bool:
        """Returns True if the log that ends with `last` has other events than were delivered.

        Redis lost its last writes and others followed, or a message on the channel imitated an event.
        """
        known = self._digest and job.digest and job.position == last and self._newest is not None
        return (
            bool(known)
            and self._newest is not None
            and self._newest.id == last
            and self._digest != job.digest
        )

    def is_over(self, event_id: EventId | None) -> bool:
        """Returns True if the id is of a numbering that is over."""
        return event_id is not None and event_id.epoch in self._over

    def read_after(self, last: EventId) -> EventId:
        """The id after which the log is read. The newest event is read again, to see that the log still has
        it."""
        if not self.shared:
            return FINAL
        return last.previous if self._newest is not None and self._newest.id == last else last

    def restarted(self, job: Job, entries: list[Entry], last: EventId) -> tuple[str, EventId] | None:
        """If the job's numbering was restarted: the reason, and the id after which it goes on. Else None.

        `entries` follow `read_after(last)`; `job` was read with them and has an epoch.
        """
        assert job.epoch is not None, "a job with a log has an epoch"
        if job.epoch != last.next.epoch:
            return "restarted", EventId(job.epoch, 0).previous
        if self._rewritten(entries, last):
            return "rolled back", last.previous
        if self.is_rewritten(job, last):
            return "rolled back", last
        if not entries and job.position is not None and job.position < last:
            return "rolled back", job.position  # Redis lost its last writes
        return None

    def restart(self, reason: str, last: EventId) -> None:
        """Accept what `restarted` found; `last` was the last id until now."""
        self._newest = None
        self._digest = ""
        if reason != "rolled back":
            self._over = (*self._over, last.next.epoch)[-MOST_OVER:]

    def _rewritten(self, entries: list[Entry], last: EventId) -> bool:
        """Returns True if the newest event's id is another event's now: Redis lost its last writes, and
        others followed."""
        newest = self._newest
        if not entries or newest is None or newest.id != last or entries[0].id != last:
            return False
        return entries[0].body.decode("utf-8", "replace") != newest.body
