"""A job's messages and its retained log, merged into frames in order: numbering, healing, the terminal.

Invariant: what `deliver` gets is contiguous: an event follows the last one, or a `gap` or `resync` frame with the
current state stands between them. What both the channel and the log bring has the same id and is taken once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from hub.broker.redis import Broker, Entry, Job, Snapshot
from hub.errors import BrokerUnavailable, JobNotFound
from hub.event import FINAL, Event, EventId, JobId
from hub.inbox import Inbox, Mark
from hub.log import Frame, Log
from hub.notices import end_frame, final_event, gap_frame, resync_frame
from hub.numbering import Numbering
from hub.settings import Settings
from hub.state import State
from hub.wire import CHUNK

PAGE = 500
"""Entries per read of the retained log: about 100 KB of small events."""

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
        if job.status in self._settings.terminal_statuses:
            return True
        if job.epoch is None:
            return self.numbering.shared
        return not self.numbering.shared or (job.position or EventId(job.epoch, 0).previous) != self._last

    def close(self) -> None:
        """Nobody is there any more to hand on to."""
        self._deliver_frames = _drop

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
        await self._close_if_ended()

    async def take_all(self) -> None:
        """Take everything that waits, in batches that fit one write."""
        while self.inbox and not self.log.closed:
            if frames := self._in_order():
                await self._deliver(frames)
            elif self.inbox:
                data = self.inbox.take()
                await (self._look(data) if isinstance(data, Mark) else self._heal(data))

    def _in_order(self) -> list[Frame]:
        """Frames of the messages that follow what the log has; stops before one that does not."""
        frames: list[Frame] = []
        size = 0
        last = self._last
        while self.inbox and size < CHUNK:
            data = self.inbox.first
            if isinstance(data, Mark) or len(data) > self._settings.max_event_bytes:
                break
            event = Event.from_message(data)
            if event.id is not None:
                if event.id != last.next or not self.numbering.shared:
                    if self.numbering.shared and event.id.epoch == last.next.epoch and event.id <= last:
                        self.inbox.take()  # read from the log before
                        continue
                    break
            elif not self.numbering.shared:
                event = Event(last.next, event.body, event.fields)
            self.inbox.take()
            size += len(data)
            last = event.id or last
            frames.append(self._frame(event))
            if frames[-1].terminal:
                break
        return frames

    async def _heal(self, data: bytes) -> None:
        """A message that does not follow: too large, after a hole, or numbered by a log we have not seen yet."""
        if len(data) > self._settings.max_event_bytes:
            await self._refuse(data)
            return
        event = Event.from_message(data)
        self.heals += 1
        self.inbox.put_back(data)  # so that the look stops before it
        await self._look(Mark.LOOK)
        if self.inbox and self.inbox.first is data:
            self.inbox.take()
        last = self._last
        if self.log.closed or self.numbering.is_over(event.id):
            return  # a straggler of a numbering that is over
        if event.id is None or not self.numbering.shared or event.id.epoch != last.next.epoch:
            # what only looks like one of ours: it gets a number of its own where it can have one
            event_id = None if self.numbering.shared else last.next
            await self._deliver([self._frame(Event.from_body(event_id, data))])
        elif event.id > last:
            hole = [] if event.id == last.next else self._gap("trimmed", last.next, event.id.previous)
            await self._deliver([*hole, self._frame(event)])

    async def _refuse(self, data: bytes) -> None:
        """A message over the limit: a gap frame stands for it, and the hash is asked whether it was the last."""
        last = self._last
        numbered = Event.from_message(data[:64] + b"}").id if self.numbering.shared else None
        if numbered is not None and numbered.epoch != last.next.epoch:
            numbered = None  # it only looks like one of ours
        if numbered is not None and numbered != last.next:
            await self._look(Mark.LOOK)  # the log has it as well, and what came before it
            return
        event_id = numbered or (None if self.numbering.shared else last.next)
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
        if self._waiting() is None:
            await self._close_if_ended()

    def _waiting(self) -> EventId | None:
        """The first id that waits in the inbox. What follows it in the log also follows it there, among messages without
        one, so the log is read up to it and no further."""
        return self.inbox.first_after(self._last)

    async def _look_at_page(self) -> bool:
        """Read and deliver a page of the log; whether there may be more."""
        snapshot = await self._read()
        job = snapshot.job
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

    async def _look_without_log(self, job: Job | None) -> None:
        """The job has no retained log: it never had one, or it was lost together with its numbers."""
        if self.numbering.shared:
            self.numbering.shared = False
            await self._resync(job, "lost", EventId(_now_ms(), 0).previous)
        self.state.job = job or self.state.job

    async def _read(self) -> Snapshot:
        while True:
            try:
                after = self.numbering.read_after(self._last)
                return await self._broker.since(self.id, after, limit=PAGE)
            except BrokerUnavailable:
                # Nobody waits for this but messages that may not be delivered before it; heartbeats go on.
                await asyncio.sleep(RETRY * random.uniform(0.5, 1.5))

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
        if len(entry.body) > self._settings.max_event_bytes:
            return self._gap("oversize", entry.id, entry.id)
        hole = (
            []
            if last is None or entry.id == last.next
            else self._gap("trimmed", last.next, entry.id.previous)
        )
        return [*hole, self._frame(Event.from_body(entry.id, entry.body))]

    async def _resync(self, job: Job | None, reason: str, last: EventId) -> None:
        """The numbering began anew: say so, and give the state."""
        self.resyncs += 1
        self.numbering.begin_anew(reason, self._last)
        # The new log has whatever is worth having; what waits with a number has an old one.
        self.inbox.drop_numbered()
        self.log.forget()
        self.log.renumber(last)
        self.state.forget(job)
        await self._deliver([resync_frame(reason), self.state.frame(last)])

    async def _close_if_ended(self) -> None:
        """The hash says the job has ended, and no event did: the final status stands for it."""
        job = self.state.job
        if job is None or self.log.closed or job.status not in self._settings.terminal_statuses:
            return
        await self._deliver([self._frame(final_event(self.id, job.status))])

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
        return [gap_frame(reason, first, last), self.state.frame(last)]

    @property
    def _last(self) -> EventId:
        return self.log.seen_at(self.log.end)


async def _drop(frames: list[Frame]) -> None:
    """What comes after the end."""


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
