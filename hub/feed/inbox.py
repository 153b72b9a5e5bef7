"""What waits for a feed: messages as they came, and marks where something may be missing between them.

Invariant: nothing in here waits, and nothing is lost without a mark in its place.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque

from hub.job.event import EventId

LIMIT = 10_000
"""Messages that may wait for the feed's task; a burst of a second. Beyond it all are dropped, and the log is looked into."""


class Mark(enum.Enum):
    """Stands where something may be missing; in its place, so that a notice comes neither early nor late."""

    LOOK = "look into the log: something may be there that no message brought"
    LOST = "messages are gone; those without a number are in no log"
    OVER = "the hash says that the job has ended; what was published before that stands before this"


class Inbox:
    """The `Sink` of one job's channel."""

    __slots__ = ("_queue", "_wake", "received", "taken")

    def __init__(self) -> None:
        self.received = 0  # messages so far
        self.taken = 0  # of them: taken, or dropped
        self._queue: deque[bytes | Mark] = deque()
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._queue)

    def receive(self, data: bytes) -> None:
        """A message on the job's channel."""
        if len(self._queue) >= LIMIT:
            self._queue.clear()
            self.taken = self.received
            self.missed()
        self.received += 1
        self._queue.append(data)
        self._wake.set()

    def missed(self) -> None:
        """The subscription was interrupted: messages may be gone."""
        self._mark(Mark.LOST)

    def doubt(self) -> None:
        """Something may be in the retained log that no message brought."""
        self._mark(Mark.LOOK)

    def end(self) -> None:
        """The job has ended, and who published its events had time to send the last of them."""
        self._mark(Mark.OVER)

    def _mark(self, mark: Mark) -> None:
        if not self._queue or self._queue[-1] is not mark:
            self._queue.append(mark)
        self._wake.set()

    async def wait(self) -> None:
        """Return when there is something to take. Cancel-safe."""
        await self._wake.wait()
        self._wake.clear()

    @property
    def first(self) -> bytes | Mark:
        """What is to be taken next."""
        return self._queue[0]

    def take(self) -> bytes | Mark:
        """Take it."""
        what = self._queue.popleft()
        self.taken += not isinstance(what, Mark)
        return what

    def put_back(self, what: bytes | Mark) -> None:
        """Let it be the first again."""
        self.taken -= not isinstance(what, Mark)
        self._queue.appendleft(what)

    def first_after(self, last: EventId) -> EventId | None:
        """The first id in here that is after `last` in its epoch."""
        for what in self._queue:
            event_id = None if isinstance(what, Mark) else EventId.of_message(what)
            if event_id is not None and event_id.epoch == last.next.epoch and event_id >= last.next:
                return event_id
        return None

    def drop_numbered(self) -> None:
        """Drop the messages that have a number; the numbering they belong to is over."""
        kept = [what for what in self._queue if isinstance(what, Mark) or EventId.of_message(what) is None]
        self.taken += len(self._queue) - len(kept)
        self._queue = deque(kept)
