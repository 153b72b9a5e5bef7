"""A job's log with what is needed to make its frames: the state, the numbering, the limits. No I/O.

Invariant: an event in the log follows the last one, or a `gap` or `resync` frame with the current state stands between
them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from hub.feed.numbering import Numbering
from hub.feed.state import State
from hub.job.event import FINAL, Event, EventId, JobId, body_size
from hub.job.frame import Frame, end_frame, final_event, gap_frame, resync_frame
from hub.job.log import Log
from hub.job.record import Entry, Job
from hub.quiet import quiet_log
from hub.settings import Settings
from hub.totals import Totals

logger = quiet_log("hub.intake")


class Window:
    """One job's. The methods that return frames do not append them; `append` does."""

    def __init__(self, job: JobId, settings: Settings, totals: Totals) -> None:
        self.id = job
        self.log = Log(origin=FINAL, count=settings.window_events, size=settings.window_bytes)
        self.state = State(job, settings.public_fields)
        self.numbering = Numbering()
        self._settings = settings
        self._totals = totals
        self._has_bare = False  # events without an id went out, which no log can bring back

    @property
    def last(self) -> EventId:
        """The cursor of a viewer that has everything."""
        return self.log.seen_at(self.log.end)

    @property
    def may_lose(self) -> bool:
        """Returns True if a message that is lost may be in no log."""
        return self._has_bare or not self.numbering.shared

    def open(self, job: Job, entries: Sequence[Entry]) -> None:
        """Begin the numbering: the job's own, before the first of `entries`, or this feed's where there is no log."""
        self.state.job = job
        self.numbering.shared = job.epoch is not None
        # Without a retained log the ids are this feed's own: good in this process while the feed lives.
        first = EventId(job.epoch if job.epoch is not None else _now_ms(), 0)
        self.log.renumber(entries[0].id.previous if entries else first.previous)

    def share(self, epoch: int) -> None:
        """The job has a retained log now, and its ids."""
        self.numbering.shared = True
        self.log.renumber(EventId(epoch, 0).previous)

    def append(self, frames: list[Frame]) -> list[Frame]:
        """Add a batch to the log and return it. A terminal event takes the `end` frame along."""
        if frames[-1].terminal:
            frames.append(end_frame(self.state.status))
        before = self.log.size
        self.log.append(frames)
        self._totals.window_bytes += self.log.size - before
        return frames

    # --- what the hash says

    def differs(self, job: Job | None) -> bool:
        """Returns True if `job`, as just read, has something that the window has not."""
        if job is None:
            return self.numbering.shared
        if self.is_anothers(job) or job.status in self._settings.terminal_statuses:
            return True
        if job.epoch is None:
            return self.numbering.shared
        return not self.numbering.shared or (job.position or EventId(job.epoch, 0).previous) != self.last

    def is_anothers(self, job: Job) -> bool:
        """Returns True if `job` has another owner. A job without one is nobody else's: Redis lost its hash."""
        known = self.state.job
        return known is not None and job.user_id not in ("", known.user_id)

    @property
    def has_ended(self) -> bool:
        """Returns True if the hash says that the job has ended, and no event did."""
        job = self.state.job
        return job is not None and not self.log.closed and job.status in self._settings.terminal_statuses

    def final_frames(self) -> list[Frame]:
        """The event that stands for an end of which only the hash knows; [] if there is none."""
        job = self.state.job
        return [self.frame(final_event(self.id, job.status))] if job is not None and self.has_ended else []

    # --- ids

    def owns(self, event_id: EventId, last: EventId) -> bool:
        """Returns True if the id is of the job's numbering, of which `last` is the last one."""
        return self.numbering.shared and event_id.epoch == last.next.epoch

    def is_past(self, event_id: EventId, last: EventId) -> bool:
        """Returns True if the event was delivered before, or is a straggler of a numbering that is over."""
        return event_id <= last if self.owns(event_id, last) else self.numbering.is_over(event_id)

    def is_oversize(self, data: bytes) -> bool:
        """Returns True if a message is over the limit without its id."""
        limit = self._settings.max_event_bytes
        return len(data) > limit and body_size(data) > limit

    # --- frames

    def frame(self, event: Event) -> Frame:
        """The frame of an event that goes out next."""
        self.state.remember(event)
        terminal = event.status in self._settings.terminal_statuses
        if event.id is None:
            self._has_bare = True
        else:
            self.numbering.remember(event)
        event_id = FINAL if terminal and event.id is None else event.id
        return Frame(event, event_id=event_id, terminal=terminal)

    def message_frame(self, data: bytes, event_id: EventId | None, last: EventId) -> Frame:
        """The frame of a message that follows `last`."""
        if event_id is not None and self.owns(event_id, last):
            return self.frame(Event.from_message(data))
        # It has no id, or one that only looks like the job's. It gets an id where the ids are this feed's own.
        return self.frame(Event.from_body(None if self.numbering.shared else last.next, data))

    def entry_frames(self, entry: Entry, last: EventId) -> list[Frame]:
        """The frames of a retained event that comes after `last`."""
        hole = self.gap("trimmed", last.next, entry.id.previous) if entry.id != last.next else []
        if len(entry.body) > self._settings.max_event_bytes:
            return [*hole, *self.gap("oversize", entry.id, entry.id)]
        return [*hole, self.frame(Event.from_body(entry.id, entry.body))]

    def gap(self, reason: str, first: EventId | None, last: EventId | None) -> list[Frame]:
        """The frame that says what is missing, and the current state."""
        self._totals.gaps += 1
        logger.warning("job %s: events are missing (%s), its viewers are told", self.id, reason)
        return [gap_frame(reason, first, last), self.state.frame(last)]

    def lose_log(self, job: Job | None) -> list[Frame]:
        """The job has no retained log: it never had one, or it was lost together with its ids."""
        frames = []
        if self.numbering.shared:
            self.numbering.shared = False
            frames = self.restart(job, "lost", EventId(_now_ms(), 0).previous)
        self.state.job = job or self.state.job
        return frames

    def restart(self, job: Job | None, reason: str, last: EventId, kept: Sequence[Entry] = ()) -> list[Frame]:
        """A new numbering goes on after `last`: the frames that say so. `kept` was delivered before and is still true."""
        self._totals.resyncs += 1
        logger.warning("job %s: its log began anew (%s), its viewers are told", self.id, reason)
        self.numbering.restart(reason, self.last)
        self.log.forget()
        self.log.renumber(last)
        self.state.forget(job)
        for entry in kept:
            self.state.remember(Event.from_body(entry.id, entry.body))
        return [resync_frame(reason), self.state.frame(last)]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
