"""A job's log with what is needed to make its frames: the state, the numbering, the limits. No I/O.

Invariant: an event in the log follows the last one, or a `gap` or `resync` frame with the current state
stands between them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

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
        self.state = State(job, settings.public_fields, limit=settings.window_bytes, totals=totals)
        self.numbering = Numbering()
        self.is_whole = True  # the retained log has no more for it, or no more is to be asked for
        self.is_lost = False  # Redis lost the job's hash, and a publisher may go on without an owner
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

    def open(self, job: Job, entries: Sequence[Entry], *, whole: bool) -> Sequence[Entry]:
        """Begin the numbering: the job's own, before the first of `entries`, or this feed's where there is no
        log.

        Returns the entries that viewers are to see: none of an attempt that is over, in a job that runs
        again. `whole`: there are no more of them.
        """
        self.state.job = job
        self.numbering.shared = job.epoch is not None
        ends = self._settings.terminal_statuses
        if job.stated not in (frozenset(), ends):
            theirs = ",".join(sorted(job.stated))
            logger.warning(
                "job %s: its publisher ends jobs with %s, this hub with %s",
                self.id,
                theirs,
                ",".join(sorted(ends)),
            )
        if job.ended is not None and not job.over:
            entries, whole = (), True
        self.is_whole = whole or job.epoch is None or not entries
        last = job.position if not entries else entries[0].id.previous
        # Without a retained log the ids are this feed's own: good in this process while the feed lives.
        self.log.renumber(last or EventId(job.epoch if job.epoch is not None else _now_ms(), 0).previous)
        return entries

    def share(self, epoch: int) -> None:
        """The job has a retained log now, and its ids."""
        self.numbering.shared = True
        self.log.renumber(EventId(epoch, 0).previous)

    def recall(self, entries: Sequence[Entry], *, whole: bool) -> None:
        """Put retained events from before the window in front of it, and what they say into the state.

        What does not meet the window is left out, and what is before an event that is over the limit; viewers
        who ask for it read it for themselves.
        """
        self.is_whole = whole
        past: list[Event] = []
        meets = self.log.origin
        for entry in reversed(entries):
            if entry.id > meets:
                continue  # it was evicted from the window when it was read, and is not any more
            if entry.id != meets or len(entry.body) > self._settings.max_event_bytes:
                self.is_whole = True
                break
            past.append(Event.from_body(entry.id, entry.body))
            meets = entry.id.previous
        past.reverse()
        self.state.recall(past)
        before = self.log.size
        self.log.prepend(
            [Frame(event, event_id=event.id, terminal=self._is_terminal(event)) for event in past]
        )
        self._totals.window_bytes += self.log.size - before

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
            return True
        if self.is_anothers(job) or self.is_deleted(job) or job.over:
            return True
        if job.epoch is None:
            return self.numbering.shared
        if not self.numbering.shared or (job.position or EventId(job.epoch, 0).previous) != self.last:
            return True
        return self.numbering.is_rewritten(job, self.last)

    def is_anothers(self, job: Job) -> bool:
        """Returns True if `job` has another owner, or lost its owner while its hash is there."""
        known = self.state.job
        if known is None or not job.exists:
            return False
        return job.user_id != known.user_id and not (self.is_lost and not job.user_id)

    def is_outdated(self, job: Job) -> bool:
        """Returns True if `job`, as just read, is not what this window can show: another owner's, or begun
        again."""
        known = self.state.job
        if known is None or self.is_anothers(job):
            return known is not None
        if not self.log.closed or job.epoch != known.epoch:
            return self.log.closed
        if self._is_older(job, known):
            return False
        newest = self.numbering.newest
        goes_on = newest is not None and job.position != newest
        return not job.over and (goes_on or job.ended is not None or job.status != known.status)

    def note(self, job: Job) -> None:
        """`job` was just read. It is newer than what the window of a job that has ended knows, or is left."""
        known = self.state.job
        if self.log.closed and known is not None and not self._is_older(job, known):
            self.state.job = job

    def _is_older(self, job: Job, known: Job) -> bool:
        """Returns True if it was read before the last event, or before the hash that ended the job."""
        times = [at for at in (self.numbering.newest, known.position) if at is not None]
        return bool(times) and (job.position is None or job.position < max(times))

    def is_deleted(self, job: Job | None) -> bool:
        """Returns True if the application has deleted the job's hash.

        If ours is gone as well, Redis may have lost both: that is `lost` first, and a deletion when it stays
        so.
        """
        if job is None:
            return not self.numbering.shared
        return not job.exists and bool(job.log_owner)

    @property
    def has_ended(self) -> bool:
        """Returns True if the hash says that the job has ended, and no event did."""
        job = self.state.job
        return job is not None and not self.log.closed and job.over

    def final_frames(self) -> list[Frame]:
        """The event that stands for an end of which only the hash knows; [] if there is none."""
        job = self.state.job
        return [self.frame(final_event(self.id, job.status))] if job is not None and self.has_ended else []

    @property
    def has_all(self) -> bool:
        """Returns True if the job's terminal event is in the log, or a gap that stands for it."""
        job = self.state.job
        return job is not None and job.ended is not None and self.last >= job.ended

    def deletion(self) -> list[Frame]:
        """The frame of a job that the application has deleted."""
        return [end_frame(None, "deleted")]

    def _is_terminal(self, event: Event) -> bool:
        job = self.state.job
        return event.status in self._settings.terminal_statuses or (
            job is not None and event.status in job.terminal
        )

    # --- ids

    def owns(self, event_id: EventId, last: EventId) -> bool:
        """Returns True if the id is of the job's numbering, of which `last` is the last one."""
        return self.numbering.shared and event_id.epoch == last.next.epoch

    def follows(self, event_id: EventId, last: EventId) -> bool:
        """Returns True if the id is the next one after `last`."""
        return self.numbering.shared and event_id == last.next

    def is_past(self, event_id: EventId, last: EventId) -> bool:
        """Returns True if the event was delivered before, or is a straggler of a numbering that is over."""
        return event_id <= last if self.owns(event_id, last) else self.numbering.is_over(event_id)

    def is_oversize(self, data: bytes) -> bool:
        """Returns True if a message is over the limit without its id."""
        limit = self._settings.max_event_bytes
        return len(data) > limit and body_size(data) > limit

    def has_gap(self, entries: Iterable[Entry], last: EventId) -> bool:
        """Returns True if a gap will stand for one of `entries`, or for what is between them and `last`."""
        limit = self._settings.max_event_bytes
        for entry in entries:
            if entry.id != last.next or len(entry.body) > limit:
                return True
            last = entry.id
        return False

    # --- frames

    def frame(self, event: Event) -> Frame:
        """The frame of an event that goes out next."""
        self.state.remember(event)
        terminal = self._is_terminal(event)
        if event.id is None:
            self._has_bare = True
        else:
            self.numbering.remember(event)
        event_id = FINAL if terminal and event.id is None else event.id
        return Frame(event, event_id=event_id, terminal=terminal)

    def message_frame(self, data: bytes, event_id: EventId | None, start: int, last: EventId) -> Frame:
        """The frame of a message that follows `last`. `event_id`, `start`: as `numbered` says."""
        if event_id is not None:
            return self.frame(Event.from_numbered(event_id, start, data))
        # It gets an id where the ids are this feed's own.
        return self.frame(Event.from_body(None if self.numbering.shared else last.next, data))

    def entry_frames(self, entry: Entry, last: EventId) -> list[Frame]:
        """The frames of a retained event that comes after `last`."""
        hole = self.gap("trimmed", last.next, entry.id.previous) if entry.id != last.next else []
        if len(entry.body) > self._settings.max_event_bytes:
            return [*hole, *self.gap("oversize", entry.id, entry.id)]
        return [*hole, self.frame(Event.from_body(entry.id, entry.body))]

    def past_frame(self, entry: Entry) -> Frame | None:
        """The frame of a retained event from before the window; None if it is over the limit."""
        if len(entry.body) > self._settings.max_event_bytes:
            return None
        event = Event.from_body(entry.id, entry.body)
        return Frame(event, event_id=event.id, terminal=self._is_terminal(event))

    def gap(self, reason: str, first: EventId | None, last: EventId | None) -> list[Frame]:
        """The frame that says what is missing, and the current state."""
        self._totals.gaps += 1
        self.numbering.skip()
        logger.warning("job %s: events are missing (%s), its viewers are told", self.id, reason)
        return [gap_frame(reason, first, last), self.state.frame(last)]

    def lose_log(self, job: Job | None) -> list[Frame]:
        """The job has no retained log: it never had one, or it was lost together with its ids."""
        frames = []
        if self.numbering.shared:
            self.numbering.shared = False
            self.is_lost = True
            frames = self.restart(job, "lost", EventId(_now_ms(), 0).previous)
        self.state.job = job or self.state.job
        return frames

    def restart(self, job: Job | None, reason: str, last: EventId, kept: Sequence[Entry] = ()) -> list[Frame]:
        """A new numbering goes on after `last`: the frames that say so. `kept` was delivered before and is
        still true."""
        self._totals.resyncs += 1
        self.is_whole = True
        logger.warning("job %s: its log started again (%s), its viewers are told", self.id, reason)
        self.numbering.restart(reason, self.last)
        self.log.forget()
        self.log.renumber(last)
        self.state.forget(job)
        for entry in kept:
            self.state.remember(Event.from_body(entry.id, entry.body))
        return [resync_frame(reason), self.state.frame(last)]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
