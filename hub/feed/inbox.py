"""What waits for a feed: messages as they came, and marks where something may be missing between them.

Invariant: no method but `wait` waits, and nothing is lost without a mark in its place.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Callable

from hub.job.event import EventId
from hub.totals import Totals

LIMIT = 10_000
"""Messages that may wait for the feed's task, a burst of a second. Beyond it all are dropped and the log is
read."""


LIMIT_BYTES = 8 << 20
"""Bytes that may wait; beyond it the same. One message may be larger."""

ID_BYTES = 64
"""Bytes that an id, which is in front of it, adds to an event."""


class Mark(enum.Enum):
    """Stands in the place where something may be missing, so that a notice comes neither early nor late."""

    LOOK = "read the log: something may be there that no message brought"
    LOST = "messages were lost; those without an id are in no log"
    LOST_BARE = "messages were lost, and viewers had been sent some without an id"
    OVER = "the hash says that the job has ended; what was published before that stands before this"


class Inbox:
    """The `Sink` of one job's channel. `received` messages came so far; `popped` of them were taken out or
    dropped. `on_news` is called once when a message comes while the feed's task waits. It empties the inbox,
    or calls `wake`; without it the task is woken.
    """

    __slots__ = (
        "_is_announced",
        "_items",
        "_longest",
        "_on_news",
        "_size",
        "_totals",
        "_waiter",
        "popped",
        "received",
    )

    def __init__(self, totals: Totals, *, longest: int, on_news: Callable[[], None] | None = None) -> None:
        self._longest = longest + ID_BYTES
        self.received = 0
        self.popped = 0
        self._totals = totals
        self._size = 0
        self._items: deque[bytes | Mark] = deque()
        self._waiter: asyncio.Future[None] | None = None  # of the task that waits
        self._on_news = on_news
        self._is_announced = False

    def __len__(self) -> int:
        return len(self._items)

    def receive(self, data: bytes) -> None:
        """A message on the job's channel. Of one that is too long for an event only the beginning is kept."""
        data = data[: self._longest]
        if self._items and (len(self._items) >= LIMIT or self._size + len(data) > LIMIT_BYTES):
            self.clear()
            self.missed()
        self.received += 1
        size, totals = len(data), self._totals
        self._size += size
        totals.inbox += 1
        totals.inbox_bytes += size
        self._items.append(data)
        if not self._is_announced and self.is_awaited:
            self._is_announced = True
            self.wake() if self._on_news is None else self._on_news()

    def missed(self) -> None:
        """The subscription was interrupted: messages may be lost."""
        self._mark(Mark.LOST)

    def doubt(self) -> None:
        """Something may be in the retained log that no message brought."""
        self._mark(Mark.LOOK)

    def end(self) -> None:
        """The job has ended, and its producers had time to publish their last events."""
        self._mark(Mark.OVER)

    def _mark(self, mark: Mark) -> None:
        if not self._items or self._items[-1] is not mark:
            self._items.append(mark)
        self.wake()

    def wake(self) -> None:
        """Let the task look at what is there."""
        if self._waiter is not None and self.is_awaited:
            self._waiter.set_result(None)

    @property
    def is_awaited(self) -> bool:
        """Returns True if the task waits, and was not woken."""
        return self._waiter is not None and not self._waiter.done()

    async def wait(self) -> None:
        """Return when there is an item, or after `wake`. Cancel-safe."""
        if self._items:
            return
        self._is_announced = False
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def is_taken_up(self) -> bool:
        """The pair of `on_news`. Returns True if nobody is at the inbox, who may take messages out now."""
        self._is_announced = False
        return self.is_awaited

    @property
    def first(self) -> bytes | Mark:
        """The item that came first."""
        return self._items[0]

    def pop(self) -> bytes | Mark:
        """Take the first item out."""
        item = self._items.popleft()
        if not isinstance(item, Mark):
            size, totals = len(item), self._totals  # as `_count_popped` and `_weigh`, for every message
            self.popped += 1
            self._size -= size
            totals.inbox -= 1
            totals.inbox_bytes -= size
        return item

    def put_back(self, item: bytes | Mark) -> None:
        """Make `item` the first again."""
        if not isinstance(item, Mark):
            self._count_popped(-1)
            self._weigh(len(item))
        self._items.appendleft(item)

    def first_after(self, last: EventId) -> EventId | None:
        """The first id of a message that is after `last` in its epoch."""
        for item in self._items:
            event_id = None if isinstance(item, Mark) else EventId.of_message(item)
            if event_id is not None and event_id.epoch == last.next.epoch and event_id >= last.next:
                return event_id
        return None

    def drop_numbered(self) -> None:
        """Drop the messages that have an id; the numbering they belong to is over."""
        kept = [item for item in self._items if isinstance(item, Mark) or EventId.of_message(item) is None]
        self._count_popped(len(self._items) - len(kept))
        self._items = deque(kept)
        self._weigh(sum(len(item) for item in kept if not isinstance(item, Mark)) - self._size)

    def close(self) -> None:
        """Drop everything, and whom to call: two that hold each other wait for the garbage collector."""
        self.clear()
        self._on_news = None

    def clear(self) -> None:
        """Drop everything."""
        self._count_popped(self.received - self.popped)
        self._weigh(-self._size)
        self._items.clear()

    def _weigh(self, size: int) -> None:
        self._size += size
        self._totals.inbox_bytes += size

    def _count_popped(self, number: int) -> None:
        self.popped += number
        self._totals.inbox -= number
