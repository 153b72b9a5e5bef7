"""A job's messages and its retained log, merged into batches of frames in order.

Invariant: what both the channel and the log bring has the same id and is delivered once; a message that does
not follow the last event waits until the log was read for it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from hub.broker.seam import Broker
from hub.errors import BrokerUnavailable, JobNotFound
from hub.fanout.audience import CHUNK
from hub.feed.depth import Depth
from hub.feed.inbox import Inbox, Mark
from hub.feed.paging import first_limit, next_limit
from hub.feed.window import Window
from hub.job.event import EventId, numbered
from hub.job.frame import Frame
from hub.job.record import Entry, Job, Snapshot
from hub.settings import Settings
from hub.totals import Totals

SETTLE = 0.25
"""Seconds between a hash that says the job has ended and the end frame, if no event brings the end. A
producer writes the hash and publishes the event on two connections, so the event may arrive later."""

RETRY = 0.5
"""Seconds, jittered, between tries to read the log while Redis is away."""


class Intake:
    """The batches of one job: `async for frames in intake` ends when the log is closed. A batch is in the log
    when it is returned. `compare` and `end_soon` never wait and may be called from outside the feed's task.
    """

    def __init__(
        self,
        window: Window,
        inbox: Inbox,
        depth: Depth,
        broker: Broker,
        settings: Settings,
        totals: Totals,
    ) -> None:
        self.window = window
        self.inbox = inbox
        self._depth = depth
        self._broker = broker
        self._settings = settings
        self._totals = totals
        self._page: list[Entry] = []  # read from the retained log, in no batch yet; nearly always empty
        self._limit = first_limit(0, 0)  # entries of the next read
        self._ends = False  # a timer will put Mark.OVER into the inbox
        self._healed = -1  # messages that came before the one for which the log was last read
        self._looked = 0  # messages that had come by then

    async def begin(self) -> None:
        """Read what the first viewer needs, after the subscription. Raises JobNotFound, BrokerUnavailable."""
        limit, most = self._depth.first, self._settings.window_events
        snapshot = await self._latest(limit)
        entries = snapshot.entries
        if limit < most and entries and self.window.has_gap(entries, entries[0].id.previous):
            limit = most  # the state after a gap says what all of the log does
            snapshot = await self._latest(limit)
        self.fill(snapshot, whole=limit == most or len(snapshot.entries) < limit)

    def fill(self, snapshot: Snapshot, *, whole: bool) -> None:
        """Put what was read into the window. `whole`: there is no more to read. Raises JobNotFound."""
        if snapshot.job is None or not snapshot.job.exists:
            raise JobNotFound(f"expected a job, got {self.window.id!r}, which is gone")
        self._limit = next_limit(self._limit, snapshot.entries)
        self._page.extend(self.window.open(snapshot.job, snapshot.entries, whole=whole))
        while self._page:
            self.window.append(self._page_frames())
        self.window.numbering.trust(snapshot.job, self.window.last)

    def compare(self, job: Job | None) -> bool:
        """Hold what the position check read against the window. Returns True if the log is read because of
        it."""
        if self.window.log.closed or self._page or self.inbox:  # what waits may be the difference
            return False
        if self.window.differs(job):
            self.inbox.doubt()
            return True
        if job is not None:
            self.window.state.job = job
            self.window.numbering.trust(job, self.window.last)
        return False

    def end_soon(self) -> None:
        """If the hash says that the job has ended, close the log after `SETTLE` seconds, unless an event
        does."""
        if self.window.has_ended and not self._ends:
            self._ends = True
            asyncio.get_running_loop().call_later(SETTLE, self._end)

    def _end(self) -> None:
        self._ends = False
        self.inbox.end()

    def __aiter__(self) -> Intake:
        return self

    async def __anext__(self) -> list[Frame]:
        """The next batch; it fits one write. Waits for messages, and for a Redis that is away. Raises
        JobNotFound."""
        while not self.window.log.closed:
            if frames := await self._step():
                return self.window.append(frames)
        raise StopAsyncIteration

    def take(self) -> list[Frame]:
        """The next batch, if the task waits for messages and nothing has to be read first; else []."""
        frames = self._frames_in_order()
        return self.window.append(frames) if frames else []

    async def _step(self) -> list[Frame]:
        """Frames of one step, [] if the step brought none."""
        if self._page:
            if not self.window.is_whole and self.window.has_gap(self._page, self.window.last):
                await self._recall()
            return self._page_frames()
        await self.inbox.wait()
        if self.window.log.closed:  # by `take`, meanwhile
            return []
        frames = self._frames_in_order()
        return frames if frames or not self.inbox else await self._frames_of(self.inbox.pop())

    async def _frames_of(self, item: bytes | Mark) -> list[Frame]:
        if item is Mark.OVER:
            return self.window.final_frames()
        if isinstance(item, Mark):
            return await self._look(item)
        return await (self._refuse(item) if self.window.is_oversize(item) else self._heal(item))

    def _frames_in_order(self) -> list[Frame]:
        """Frames of the messages that follow the log; stops before one that does not."""
        frames: list[Frame] = []
        size = 0
        last = self.window.last
        while self.inbox and size < CHUNK:
            data = self.inbox.first
            if isinstance(data, Mark) or self.window.is_oversize(data):
                break
            event_id, start = numbered(data)
            if event_id is not None and not self.window.follows(event_id, last):
                if self.window.is_past(event_id, last):
                    self.inbox.pop()
                    continue
                if self._is_unclear(event_id, last):
                    break
                self.inbox.pop()
                self._totals.strangers += 1  # the log was read after it came, and does not know its epoch
                continue
            self.inbox.pop()
            frames.append(self.window.message_frame(data, event_id, start, last))
            size += len(data)
            last = frames[-1].event.id or last
            if frames[-1].terminal:
                break
        return frames

    def _page_frames(self) -> list[Frame]:
        """Frames of the entries that were read, as many as fit one write."""
        frames: list[Frame] = []
        size = 0
        last = self.window.last
        while self._page and size < CHUNK:
            entry = self._page.pop(0)
            frames += self.window.entry_frames(entry, last)
            last = entry.id
            size += len(entry.body)
            if frames[-1].terminal:
                self._page.clear()
        return frames

    def _is_unclear(self, event_id: EventId, last: EventId) -> bool:
        """Returns True if the log must be read first: there is a hole, or the id may be of a log not known
        yet."""
        return self.window.owns(event_id, last) or self.inbox.popped >= self._looked

    async def _heal(self, data: bytes) -> list[Frame]:
        """A message that does not follow. The log is read for it once; a hole that is left then is a gap."""
        self.inbox.put_back(data)
        if self._healed == self.inbox.popped:
            event_id, last = EventId.of_message(data), self.window.last
            assert event_id is not None, "only a message with an id is unclear"
            await self._recall()
            return self.window.gap("trimmed", last.next, event_id.previous)
        self._totals.heals += 1
        self._healed = self.inbox.popped
        self._looked = self.inbox.received
        self.inbox.put_back(Mark.LOOK)
        return []

    async def _refuse(self, data: bytes) -> list[Frame]:
        """A message over the limit: a gap stands for it. The hash is
        read because it may have been the last.
        """
        last = self.window.last
        event_id = EventId.of_message(data)
        if event_id is not None and not self.window.owns(event_id, last):
            event_id = None  # it only looks like one of the job's
        self.inbox.put_back(Mark.LOOK)
        if event_id is not None and event_id != last.next:
            return []  # the log has it as well, and what came before it
        if event_id is None and not self.window.numbering.shared:
            event_id = last.next
        await self._recall()
        return self.window.gap("oversize", event_id, event_id)

    # --- the retained log

    async def _look(self, mark: Mark) -> list[Frame]:
        """Read a page of hash and log. While a page brings something, `mark` goes back into the inbox for the
        next."""
        window = self.window
        if mark is Mark.LOST and window.may_lose:
            mark = Mark.LOST_BARE
        after = window.numbering.read_after(window.last)
        snapshot = await _patiently(lambda: self._broker.since(window.id, after, limit=self._limit))
        self._limit = next_limit(self._limit, snapshot.entries)
        job = snapshot.job
        if job is not None and window.is_anothers(job):
            raise JobNotFound(f"expected job {window.id} of its owner, got another's of that name")
        if window.is_deleted(job):
            return window.deletion()
        if job is None or job.epoch is None:
            if window.numbering.shared:
                self.inbox.drop_numbered()
            return window.lose_log(job) + await self._end_look(mark)
        if not window.numbering.shared:
            window.share(job.epoch)
        elif (restart := window.numbering.restarted(job, snapshot.entries, window.last)) is not None:
            self.inbox.put_back(mark)
            return await self._restart(job, *restart)
        window.state.job = job
        if self._turn_page(snapshot, mark):
            return []
        frames = await self._trimmed_frames(job)
        if not self._page and not frames:
            window.numbering.trust(job, window.last)
        return frames + await self._end_look(mark)

    def _turn_page(self, snapshot: Snapshot, mark: Mark) -> bool:
        """Keep the entries that come before everything in the inbox. Returns True if the look goes on after
        them."""
        # What follows a waiting event in the log also follows it in the inbox, among messages without an id.
        last = self.window.last
        waiting = self.inbox.first_after(last)
        news = [
            entry for entry in snapshot.entries if entry.id > last and (waiting is None or entry.id < waiting)
        ]
        self._page.extend(news)
        if not news:
            return False
        position = snapshot.job.position if snapshot.job is not None else None
        reaches_end = news[-1].id.next == waiting or (waiting is None and news[-1].id == position)
        if reaches_end and not self._may_be_gap(mark):
            return False
        self.inbox.put_back(mark)
        return True

    async def _trimmed_frames(self, job: Job) -> list[Frame]:
        """A gap up to the job's position, if neither the log nor a message reaches it."""
        if not self._is_trimmed(job):
            return []
        await self._recall()
        return (
            self.window.gap("trimmed", self.window.last.next, job.position) if self._is_trimmed(job) else []
        )

    def _is_trimmed(self, job: Job) -> bool:
        last = self.window.last
        return not (
            self._page or job.position is None or job.position <= last or self.inbox.first_after(last)
        )

    async def _end_look(self, mark: Mark) -> list[Frame]:
        """The look is over. Messages that may have been lost and are in no log are a gap."""
        if self.window.has_ended and self.window.has_all and not self._page:
            return self.window.final_frames()
        self.end_soon()
        if not self._may_be_gap(mark):
            return []
        await self._recall()
        # Where ids are this feed's own the gap uses one up, so that a cursor from before it is told as well.
        return self.window.gap("redis", None, None if self.window.numbering.shared else self.window.last.next)

    def _may_be_gap(self, mark: Mark) -> bool:
        """Returns True if the look for `mark` ends with a gap: messages were lost that may be in no log."""
        return mark is Mark.LOST_BARE or (mark is Mark.LOST and self.window.may_lose)

    async def _restart(self, job: Job, reason: str, last: EventId) -> list[Frame]:
        kept: list[Entry] = []
        if reason == "rolled back":
            # What the log still has up to `last` was delivered before, and is part of the state.
            read = await _patiently(lambda: self._latest(self._settings.window_events))
            kept = [entry for entry in read.entries if entry.id <= last]
        # The new log has whatever is worth having; what waits with an id has an old one.
        self.inbox.drop_numbered()
        return self.window.restart(job, reason, last, kept)

    async def _latest(self, limit: int) -> Snapshot:
        return await self._broker.latest(self.window.id, limit=limit, size=self._settings.window_bytes)

    async def _recall(self) -> None:
        """Read what the state after a gap needs. While Redis is away it is as good as it is, and says so."""
        try:
            await self._depth.reach()
        except BrokerUnavailable:
            self.window.state.cut()


async def _patiently(read: Callable[[], Awaitable[Snapshot]]) -> Snapshot:
    while True:
        try:
            return await read()
        except BrokerUnavailable:
            # Only messages that may not be delivered before it wait for this; heartbeats continue.
            await asyncio.sleep(RETRY * random.uniform(0.5, 1.5))
