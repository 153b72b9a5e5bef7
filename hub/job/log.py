"""A job as a numbered log: a bounded window of frames, and positions in it.

Invariant: the window is contiguous. A position is an int that counts frames since the feed began; `start` and
`end` only grow, and every position from `start` to `end` can be read. Pure: no I/O, no clock, no tasks.
It does not know viewers (wire.py) or where frames come from (feed.py).
"""

from __future__ import annotations

from collections.abc import Iterable

from hub.job.event import EventId
from hub.job.frame import Frame


class Log:
    """The window of one job. At its bounds the oldest frames leave; who still needs them reads the retained log.

    `count` frames and `size` bytes of bodies are kept (each frame also holds its encodings, so the true cost is
    about three times `size`).
    """

    __slots__ = (
        "_base",
        "_bytes",
        "_count",
        "_frames",
        "_positions",
        "_size",
        "closed",
        "deleted",
        "origin",
        "start",
    )

    def __init__(self, *, origin: EventId, count: int = 1000, size: int = 1 << 20) -> None:
        self.origin = origin  # the cursor of a viewer at `start`
        self.start = 0
        self.closed = False
        self.deleted = False  # closed because the job was deleted
        self._base = 0  # position of _frames[0]; frames before `start` are dead and are dropped in lumps
        self._frames: list[Frame] = []
        self._positions: dict[EventId, int] = {}
        self._count = count
        self._size = size
        self._bytes = 0

    @property
    def end(self) -> int:
        """The position after the last frame."""
        return self._base + len(self._frames)

    @property
    def size(self) -> int:
        """Bytes of bodies in the window."""
        return self._bytes

    def append(self, frames: Iterable[Frame]) -> None:
        """Add frames at the end; may evict at the start. A frame named `end` closes the log: nothing follows it."""
        seen = self.seen_at(self.end)
        for frame in frames:
            assert not self.closed, "a terminal is the last word, so the feed stops reading"
            self._frames.append(frame)
            self._bytes += frame.size
            if frame.id is None:
                frame.seen = seen
            else:
                seen = frame.seen = frame.id
                self._positions[frame.id] = self.end
            self.closed = frame.name == "end"
            self.deleted = self.closed and frame.event.fields == {"status": None, "reason": "deleted"}
        self._evict()

    def slice(self, position: int, size: int) -> list[Frame]:
        """Frames from `position` on: at least one, and no more than fit in about `size` bytes; [] at the end."""
        assert position >= self.start, "the caller looks at start first: what was evicted cannot be read"
        first = position - self._base
        taken = 0
        for index in range(first, len(self._frames)):
            taken += self._frames[index].size
            if taken >= size:
                return self._frames[first : index + 1]
        return self._frames[first:]

    def position_after(self, event_id: EventId) -> int | None:
        """Where a viewer that has `event_id` goes on; None when the window does not know it."""
        if event_id == self.origin:
            return self.start
        position = self._positions.get(event_id)
        return position if position is not None and position >= self.start else None

    def position_of_last(self, number: int) -> tuple[int, int]:
        """The position from which `number` events (not control frames) follow, and how many are missing for that."""
        position = self.end
        while number > 0 and position > self.start:
            position -= 1
            number -= self._frames[position - self._base].name is None
        return position, number

    def seen_at(self, position: int) -> EventId:
        """The cursor of a viewer at `position`."""
        if position <= self.start:
            return self.origin
        return self._frames[position - 1 - self._base].seen or self.origin

    def renumber(self, last: EventId) -> None:
        """The numbering goes on after `last`, whatever it was; frames and cursors from before stay good."""
        if self.start == self.end:
            self.origin = last
        else:
            self._frames[-1].seen = last
        self._positions[last] = self.end

    def forget(self) -> None:
        """Cursors from before are unknown from now on; frames stay for who is reading."""
        self._positions.clear()

    def _evict(self) -> None:
        while self.end - self.start > self._count or (self._bytes > self._size and self.end - self.start > 1):
            frame = self._evict_first()
            # What is missing and the state that follows go together, or a window could begin in the middle of the notice.
            if frame.name in ("gap", "resync") and self._first_is("state"):
                self._evict_first()
        dead = self.start - self._base
        if dead > 64 and dead * 2 > len(self._frames):  # amortised: each frame is moved once on average
            del self._frames[:dead]
            self._base = self.start

    def _first_is(self, name: str) -> bool:
        return self.start < self.end and self._frames[self.start - self._base].name == name

    def _evict_first(self) -> Frame:
        frame = self._frames[self.start - self._base]
        self._bytes -= frame.size
        self.origin = frame.seen or self.origin
        self.start += 1
        if frame.id is not None and self._positions.get(frame.id) == self.start:
            del self._positions[frame.id]
        return frame
