"""A job as a numbered log: a bounded window of frames, and positions in that window.

Invariant: the window is contiguous. A position is an int that counts frames since the feed began; `start` and
`end` only grow, and every position from `start` to `end` can be read. Pure: no I/O, no clock, no tasks.
A log knows neither its viewers (hub/fanout) nor the source of its frames (hub/feed).
"""

from __future__ import annotations

from collections.abc import Iterable

from hub.job.event import EventId
from hub.job.frame import Frame

_EVICTED = Frame.control("evicted", {})


class Log:
    """The window of one job, bounded by `count` frames and `size` bytes of bodies.

    At either bound the oldest frames are evicted; a viewer that still needs them reads the retained log in
    Redis. A frame also holds its encodings, so the memory of a full window is about three times `size`.
    """

    __slots__ = (
        "_base",
        "_count",
        "_frames",
        "_most",
        "_positions",
        "closed",
        "deleted",
        "end",
        "origin",
        "size",
        "start",
    )

    def __init__(self, *, origin: EventId, count: int = 1000, size: int = 1 << 20) -> None:
        self.origin = origin  # the cursor of a viewer at `start`
        self.start = 0
        self.end = 0  # the position after the last frame
        self.size = 0  # bytes of bodies in the window
        self.closed = False
        self.deleted = False  # closed because the job was deleted
        self._base = 0  # position of _frames[0]; places before `start` are dead and are dropped in lumps
        self._frames: list[Frame] = []
        self._positions: dict[EventId, int] = {}
        self._count = count
        self._most = size

    def append(self, frames: Iterable[Frame]) -> None:
        """Add frames at the end, then evict at the start. A frame named `end` closes the log."""
        seen = self.seen_at(self.end)
        for frame in frames:
            assert not self.closed, "the feed stops reading at the terminal event"
            self._frames.append(frame)
            self.end += 1
            self.size += frame.size
            if frame.id is None:
                frame.seen = seen
            else:
                seen = frame.seen = frame.id
                self._positions[frame.id] = self.end
            if frame.name == "end":
                self.closed = True
                self.deleted = frame.event.fields == {"status": None, "reason": "deleted"}
        self._evict()

    def prepend(self, frames: list[Frame]) -> None:
        """Put the events that end with `origin` in front, as many as the bounds allow: positions may be
        negative.
        """
        room, size, first = self._count - (self.end - self.start), self.size, len(frames)
        while first > 0 and room > 0 and size + frames[first - 1].size <= self._most:
            first, room, size = first - 1, room - 1, size + frames[first - 1].size
        if not (fits := frames[first:]):
            return
        self._frames[: self.start - self._base] = fits
        self.start = self._base = self.start - len(fits)
        self.size = size
        for position, frame in enumerate(fits, self.start + 1):
            assert frame.id is not None, "retained events have ids"
            frame.seen = frame.id
            self._positions[frame.id] = position
        assert fits[0].id is not None, "retained events have ids"
        self.origin = fits[0].id.previous

    def slice(self, position: int, size: int) -> list[Frame]:
        """Returns the frames from `position` on, up to and including the one that reaches `size` bytes of
        bodies.

        Returns [] at the end of the log, else at least one frame.
        """
        assert position >= self.start, "the caller compares with start first, because evicted frames are gone"
        first = position - self._base
        total = 0
        for index in range(first, len(self._frames)):
            total += self._frames[index].size
            if total >= size:
                return self._frames[first : index + 1]
        return self._frames[first:]

    def position_after(self, event_id: EventId) -> int | None:
        """The position after the event `event_id`, or None if that event is not in the window."""
        if event_id == self.origin:
            return self.start
        position = self._positions.get(event_id)
        return position if position is not None and position >= self.start else None

    def position_of_last(self, number: int) -> tuple[int, int]:
        """The position from which the last `number` events follow, and how many of them the window lacks.

        Control frames are not counted. If the window lacks any, the position is `start`.
        """
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
        """Continue the numbering after `last`. Frames already in the window and their cursors stay valid."""
        if self.start == self.end:
            self.origin = last
        else:
            self._frames[-1].seen = last
        self._positions[last] = self.end

    def forget(self) -> None:
        """Make all earlier cursors unknown. The frames stay, for viewers that are still catching up."""
        self._positions.clear()

    def _evict(self) -> None:
        while self.end - self.start > self._count or (self.size > self._most and self.end - self.start > 1):
            frame = self._evict_first()
            # A `gap` or `resync` and the `state` after it leave together: a viewer that begins at a `state`
            # frame would not learn why it was sent.
            if frame.name in ("gap", "resync") and self._first_is("state"):
                self._evict_first()
        dead = self.start - self._base
        # Deleting from the front moves the rest of the list, so wait until more than half of it is dead: then
        # each frame is moved once on average.
        if dead > 64 and dead * 2 > len(self._frames):
            del self._frames[:dead]
            self._base = self.start

    def _first_is(self, name: str) -> bool:
        return self.start < self.end and self._frames[self.start - self._base].name == name

    def _evict_first(self) -> Frame:
        frame = self._frames[self.start - self._base]
        self._frames[self.start - self._base] = (
            _EVICTED  # its place stays for a while, and it may be a megabyte
        )
        self.size -= frame.size
        self.origin = frame.seen or self.origin
        self.start += 1
        if frame.id is not None and self._positions.get(frame.id) == self.start:
            del self._positions[frame.id]
        return frame
