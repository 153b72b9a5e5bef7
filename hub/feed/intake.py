"""A job's messages and its retained log, merged into frames in order: numbering, healing, the terminal.

Invariant: what `deliver` gets is contiguous: an event follows the last one, or a `gap` or `resync` frame with the
current state stands between them. What both the channel and the log bring has the same id and is taken once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from hub.broker.seam import Broker
from hub.errors import BrokerUnavailable, JobNotFound
from hub.fanout.audience import CHUNK
from hub.feed.inbox import Inbox, Mark
from hub.feed.numbering import Numbering
from hub.feed.state import State
from hub.job.event import FINAL, Event, EventId, JobId, body_size
from hub.job.frame import Frame, end_frame, final_event, gap_frame, resync_frame
from hub.job.log import Log
from hub.job.record import Entry, Job, Snapshot
from hub.quiet import quiet_log
from hub.settings import Settings

log = quiet_log("hub.intake")

PAGE = 500
"""Entries per read of the retained log: about 100 KB of small events."""

SETTLE = 0.25
"""Seconds between the hash that says a job has ended and the end, if no event brings it: its producer writes the one and then
publishes the other, and they come on two connections."""

RETRY = 0.5
"""Seconds, jittered, between tries to read the log while Redis is away."""


class Intake:
    """One job's. `compare` never waits; `begin` and `take_all` are the feed's task's."""

    def __init__(
        self,
        job: JobId,
        broker: Broker,
        settings: Settings,
        *,
        inbox: Inbox,
        log: Log,
        state: State,
        deliver: Callable[[list[Frame]], Awaitable[None]],
    ) -> None:
        self.id = job
        self.inbox = inbox
        self.log = log
        self.state = state
        self.numbering = Numbering()
        self.heals = 0
        self.gaps = 0
        self.resyncs = 0
        self._broker = broker
        self._settings = settings
        self._deliver_frames = deliver
        self._ending: asyncio.TimerHandle | None = None
        self._looked = 0  # messages that had come when the log was last looked into for one of them
        self._unnumbered = False  # messages without an id came, which no log can bring back

    def compare(self, job: Job | None) -> bool:
        """Hold what the position check read against what this feed has; whether there is a difference to look into."""
        if self.log.closed or self.inbox:  # what waits in the inbox may be the difference
            return False
        if self._differs(job):
            self.inbox.doubt()
            return True
        self.state.job = job or self.state.job
        return False

    def _differs(self, job: Job | None) -> bool:
        if job is None:
            return self.numbering.shared
        if self._is_anothers(job):
            return True
        if job.status in self._settings.terminal_statuses:
            return True
        if job.epoch is None:
            return self.numbering.shared
        return not self.numbering.shared or (job.position or EventId(job.epoch, 0).previous) != self._last

    def close(self) -> None:
        """Nobody is there any more to hand on to."""
        self._deliver_frames = _drop
        if self._ending is not None:
            self._ending.cancel()

    async def begin(self, snapshot: Snapshot) -> None:
        """Fill the window from what was read after the subscription. Raises JobNotFound."""
        job, entries = snapshot.job, snapshot.entries
        if job is None:
            raise JobNotFound(f"expected a job, got {self.id!r}, which is gone")
        self.state.job = job
        self.numbering.shared = job.epoch is not None
        # Without a retained log the ids are this feed's own: good in this process while the feed lives.
        first = EventId(job.epoch if job.epoch is not None else _now_ms(), 0)
        self.log.renumber(entries[0].id.previous if entries else first.previous)
        await self._deliver_entries(entries)

    async def take_all(self) -> None:
        """Take everything that waits, in batches that fit one write."""
        while self.inbox and not self.log.closed:
            if frames := self._in_order():
                await self._deliver(frames)
            elif self.inbox:
                await self._take_one(self.inbox.take())

    async def _take_one(self, what: bytes | Mark) -> None:
        if what is Mark.OVER:
            self._ending = None
            await self.close_if_ended()
        elif isinstance(what, Mark):
            await self._look(what)
        elif self._is_oversize(what):
            await self._refuse(what)
        else:
            await self._heal(what)

    def _in_order(self) -> list[Frame]:
        """Frames of the messages that follow what the log has; stops before one that does not."""
        frames: list[Frame] = []
        size = 0
        last = self._last
        while self.inbox and size < CHUNK:
            data = self.inbox.first
            if isinstance(data, Mark) or self._is_oversize(data):
                break
            event_id = EventId.of_message(data)
            if event_id is not None and self._is_past(event_id, last):
                self.inbox.take()
                continue
            if event_id is not None and self._is_unclear(event_id, last):
                break
            event = self._event(data, event_id, last)
            self.inbox.take()
            size += len(data)
            last = event.id or last
            frames.append(self._frame(event))
            if frames[-1].terminal:
                break
        return frames

    def _is_past(self, event_id: EventId, last: EventId) -> bool:
        """Whether it was read from the log before, or is a straggler of a numbering that is over."""
        return event_id <= last if self._is_ours(event_id, last) else self.numbering.is_over(event_id)

    def _is_unclear(self, event_id: EventId, last: EventId) -> bool:
        """Whether the log must be looked into first: there is a hole before it, or it may be of a log that we do not know yet."""
        return event_id > last.next if self._is_ours(event_id, last) else self.inbox.taken >= self._looked

    def _event(self, data: bytes, event_id: EventId | None, last: EventId) -> Event:
        if event_id is not None and self._is_ours(event_id, last):
            return Event.from_message(data)
        # Without a number, or it only looks like one of ours: it gets one of its own where it can have one.
        return Event.from_body(None if self.numbering.shared else last.next, data)

    def _is_ours(self, event_id: EventId, last: EventId) -> bool:
        return self.numbering.shared and event_id.epoch == last.next.epoch

    def _is_oversize(self, data: bytes) -> bool:
        limit = self._settings.max_event_bytes
        return len(data) > limit and body_size(data) > limit

    async def _heal(self, data: bytes) -> None:
        """A message that does not follow: there is a hole before it, or its number is of a log that is not ours, or not yet."""
        self.heals += 1
        known = self.inbox.received
        self.inbox.put_back(data)  # so that the look stops before it
        await self._look(Mark.LOOK)
        self._looked = known
        event_id, last = EventId.of_message(data), self._last
        if event_id is None or not self.inbox or self.inbox.first is not data:
            return
        if self._is_ours(event_id, last) and event_id > last.next:
            await self._deliver(self._gap("trimmed", last.next, event_id.previous))

    async def _refuse(self, data: bytes) -> None:
        """A message over the limit: a gap frame stands for it, and the hash is asked whether it was the last."""
        last = self._last
        event_id = EventId.of_message(data)
        if event_id is not None and not self._is_ours(event_id, last):
            event_id = None  # it only looks like one of ours
        if event_id is not None and event_id != last.next:
            await self._look(Mark.LOOK)  # the log has it as well, and what came before it
            return
        if event_id is None and not self.numbering.shared:
            event_id = last.next
        await self._deliver(self._gap("oversize", event_id, event_id))
        self.inbox.put_back(Mark.LOOK)

    async def _look(self, mark: Mark) -> None:
        """Read hash and log, and deliver what no message brought. Waits for a Redis that is away."""
        was_shared = self.numbering.shared
        while await self._look_at_page():
            pass
        unnumbered = not was_shared or not self.numbering.shared or self._unnumbered
        if mark is Mark.LOST and unnumbered and not self.log.closed:
            # Where ids are ours the notice takes one, so that a cursor from before it is told as well.
            await self._deliver(self._gap("redis", None, None if self.numbering.shared else self._last.next))
        self.end_soon()

    def _waiting(self) -> EventId | None:
        """The first id that waits in the inbox. What follows it in the log also follows it there, among messages without
        one, so the log is read up to it and no further."""
        return self.inbox.first_after(self._last)

    async def _look_at_page(self) -> bool:
        """Read and deliver a page of the log; whether there may be more."""
        snapshot = await self._read()
        job = snapshot.job
        if job is not None and self._is_anothers(job):
            raise JobNotFound(f"expected job {self.id} of its owner, got another's of that name")
        if job is None or job.epoch is None:
            await self._look_without_log(job)
            return False
        if not self.numbering.shared:
            self.numbering.shared = True
            self.log.renumber(EventId(job.epoch, 0).previous)
        elif (restart := self.numbering.restart(job, snapshot.entries, self._last)) is not None:
            await self._resync(job, *restart)
            return True
        self.state.job = job
        waiting = self._waiting()
        entries = [entry for entry in snapshot.entries if entry.id > self._last]
        await self._deliver_entries([entry for entry in entries if waiting is None or entry.id < waiting])
        if self.log.closed:
            return False
        if len(snapshot.entries) >= PAGE and (waiting is None or entries[-1].id < waiting):
            return True
        if waiting is None and job.position is not None and job.position > self._last:
            await self._deliver(self._gap("trimmed", self._last.next, job.position))
        return False

    def _is_anothers(self, job: Job) -> bool:
        # Without an owner it is nobody's: a publisher goes on after Redis lost the hash.
        known = self.state.job
        return known is not None and job.user_id not in ("", known.user_id)

    async def _look_without_log(self, job: Job | None) -> None:
        """The job has no retained log: it never had one, or it was lost together with its numbers."""
        if self.numbering.shared:
            self.numbering.shared = False
            await self._resync(job, "lost", EventId(_now_ms(), 0).previous)
        self.state.job = job or self.state.job

    async def _read(self) -> Snapshot:
        return await _patiently(
            lambda: self._broker.since(self.id, self.numbering.read_after(self._last), limit=PAGE)
        )

    async def _deliver_entries(self, entries: list[Entry]) -> None:
        batch: list[Frame] = []
        size = 0
        for entry in entries:
            frames = self._entry_frames(entry, batch[-1].seen if batch else self._last)
            batch.extend(frames)
            size += len(entry.body)
            if size >= CHUNK or frames[-1].terminal:
                await self._deliver(batch)
                batch, size = [], 0
            if self.log.closed:
                return
        if batch:
            await self._deliver(batch)

    def _entry_frames(self, entry: Entry, last: EventId | None) -> list[Frame]:
        hole = []
        if last is not None and entry.id != last.next:
            hole = self._gap("trimmed", last.next, entry.id.previous)
        if len(entry.body) > self._settings.max_event_bytes:
            return [*hole, *self._gap("oversize", entry.id, entry.id)]
        return [*hole, self._frame(Event.from_body(entry.id, entry.body))]

    async def _resync(self, job: Job | None, reason: str, last: EventId) -> None:
        """The numbering began anew: say so, and give the state."""
        self.resyncs += 1
        log.warning("job %s: its log began anew (%s), its viewers are told", self.id, reason)
        self.numbering.begin_anew(reason, self._last)
        # The new log has whatever is worth having; what waits with a number has an old one.
        self.inbox.drop_numbered()
        self.log.forget()
        self.log.renumber(last)
        self.state.forget(job)
        if reason == "rolled back":
            await self._remember(last)
        await self._deliver([resync_frame(reason), self.state.frame(last)])

    async def _remember(self, last: EventId) -> None:
        """What the log still has up to `last` was delivered before, and is part of the state all the same."""
        limit = self._settings.window_events
        snapshot = await _patiently(lambda: self._broker.latest(self.id, limit=limit))
        for entry in snapshot.entries:
            if entry.id <= last:
                self.state.take(Event.from_body(entry.id, entry.body))

    def end_soon(self) -> None:
        """The hash may say that the job has ended, and no event did. Its last events may be on their way, on another connection."""
        if self._has_ended and self._ending is None:
            self._ending = asyncio.get_running_loop().call_later(SETTLE, self.inbox.end)

    async def close_if_ended(self) -> None:
        """They are not: the final status stands for them."""
        if self._has_ended:
            assert self.state.job is not None, "or it would not have ended"
            await self._deliver([self._frame(final_event(self.id, self.state.job.status))])

    @property
    def _has_ended(self) -> bool:
        job = self.state.job
        return job is not None and not self.log.closed and job.status in self._settings.terminal_statuses

    async def _deliver(self, frames: list[Frame]) -> None:
        """Hand on. A terminal event takes the end along."""
        if frames[-1].terminal:
            frames.append(end_frame(self.state.status))
        await self._deliver_frames(frames)

    def _frame(self, event: Event) -> Frame:
        self.state.take(event)
        terminal = event.status in self._settings.terminal_statuses
        if event.id is None:
            self._unnumbered = True
        else:
            self.numbering.take(event)
        event_id = FINAL if terminal and event.id is None else event.id
        return Frame(event, event_id=event_id, terminal=terminal)

    def _gap(self, reason: str, first: EventId | None, last: EventId | None) -> list[Frame]:
        """The frame that says what is missing, and the current state."""
        self.gaps += 1
        log.warning("job %s: events are missing (%s), its viewers are told", self.id, reason)
        return [gap_frame(reason, first, last), self.state.frame(last)]

    @property
    def _last(self) -> EventId:
        return self.log.seen_at(self.log.end)


async def _patiently(read: Callable[[], Awaitable[Snapshot]]) -> Snapshot:
    while True:
        try:
            return await read()
        except BrokerUnavailable:
            # Nobody waits for this but messages that may not be delivered before it; heartbeats go on.
            await asyncio.sleep(RETRY * random.uniform(0.5, 1.5))


async def _drop(frames: list[Frame]) -> None:
    """What comes after the end."""


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
