"""A job's messages and its retained log, merged into batches of frames in order.

Invariant: what both the channel and the log bring has the same id and is delivered once; a message that does
not follow the last event waits until the log was read for it.
"""

from __future__ import annotations

from hub.fanout.audience import CHUNK
from hub.feed.inbox import Inbox, Mark
from hub.feed.retained import Retained
from hub.feed.window import Window
from hub.job.event import EventId, numbered
from hub.job.frame import Frame
from hub.job.record import Job
from hub.totals import Totals


class Intake:
    """The batches of one job: `async for frames in intake` ends when the log is closed. A batch is in the log
    when it is returned. `compare` never waits and may be called from outside the feed's task.
    """

    def __init__(self, window: Window, inbox: Inbox, retained: Retained, totals: Totals) -> None:
        self.window = window
        self.inbox = inbox
        self._retained = retained
        self._totals = totals
        self._healed = -1  # messages that came before the one for which the log was last read
        self._looked = 0  # messages that had come by then

    def compare(self, job: Job | None) -> bool:
        """Hold what the position check read against the window. Returns True if the log is read because of
        it."""
        if self.window.log.closed or self._retained.page or self.inbox:  # what waits may be the difference
            return False
        if self.window.differs(job):
            self.inbox.doubt()
            return True
        if job is not None:
            self.window.state.job = job
            self.window.numbering.trust(job, self.window.last)
        return False

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
        if self._retained.page:
            return await self._retained.frames()
        await self.inbox.wait()
        if self.window.log.closed:  # by `take`, meanwhile
            return []
        frames = self._frames_in_order()
        return frames if frames or not self.inbox else await self._frames_of(self.inbox.pop())

    async def _frames_of(self, item: bytes | Mark) -> list[Frame]:
        if item is Mark.OVER:
            return self.window.final_frames()
        if isinstance(item, Mark):
            return await self._retained.look(item)
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
            await self._retained.recall()
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
        await self._retained.recall()
        return self.window.gap("oversize", event_id, event_id)
