"""A `Frame` is one unit sent to viewers: an event, or a control frame that the hub makes. Pure.

Invariant: a frame is encoded once per `Format`, however many viewers receive it.
"""

from __future__ import annotations

import json
from typing import Any, Protocol, TypeVar

from hub.job.event import FINAL, Event, EventId, JobId, dumps

P_co = TypeVar("P_co", covariant=True)


class Format(Protocol[P_co]):
    """How frames look on one kind of wire.

    All viewers of that kind share one instance, which is a dictionary key. `encode` returns the bytes of one
    frame and is called once per frame. `join` combines encoded frames into the payload that a wire writes at
    once; it is called once per batch and audience. `transport` is one of `TRANSPORTS` (timings.py).
    """

    @property
    def transport(self) -> str: ...

    def encode(self, frame: Frame, /) -> bytes: ...

    def join(self, parts: list[bytes], /) -> P_co: ...


class Frame:
    """An event or a control frame, with its encodings; each encoding is made once.

    A control frame has a `name` (`gap`, `resync`, `state`, `end`, ...) and no id; an event has no name.
    `terminal` is True for the event that ends the job. `seen` is the cursor of a viewer whose last frame is
    this one; the log sets it, because a frame without an id takes the id before it.
    """

    __slots__ = ("_encoding", "_format", "_others", "body", "event", "id", "name", "seen", "size", "terminal")

    def __init__(
        self,
        event: Event,
        *,
        event_id: EventId | None = None,
        name: str | None = None,
        terminal: bool = False,
    ) -> None:
        self.event = event
        self.body = event.body
        self.size = event.size
        self.id = event_id
        self.name = name
        self.terminal = terminal
        self.seen: EventId | None = event_id
        # Most frames are encoded in one format, and need no dictionary.
        self._format: object = None
        self._encoding = b""
        self._others: dict[object, bytes] | None = None

    @classmethod
    def control(cls, name: str, fields: dict[str, Any]) -> Frame:
        """Make a control frame: a message of the hub about the stream, not an event of the job."""
        return cls(Event(None, dumps(fields), fields), name=name)

    def encoded(self, fmt: Format[Any]) -> bytes:
        """The frame's bytes in the format `fmt`, encoded on the first call."""
        if self._format is fmt:
            return self._encoding
        if self._format is None:
            self._format, self._encoding = fmt, fmt.encode(self)
            return self._encoding
        others = self._others = self._others or {}
        if (encoding := others.get(fmt)) is None:
            encoding = others[fmt] = fmt.encode(self)
        return encoding

    def passes(self, types: frozenset[str] | None) -> bool:
        """Returns True if a viewer that asked for `types` gets this frame.

        Control frames and terminal events pass every filter.
        """
        return types is None or self.name is not None or self.terminal or self.event.type in types


def gap_frame(reason: str, first: EventId | None, last: EventId | None) -> Frame:
    """`gap`: events are missing. `first` and `last` are the ids of the missing range, or None if unknown."""
    fields = {"from": str(first) if first else None, "to": str(last) if last else None, "reason": reason}
    return Frame.control("gap", fields)


def resync_frame(reason: str) -> Frame:
    """`resync`: the viewer's cursor is not valid for this log. A `state` frame follows."""
    return Frame.control("resync", {"reason": reason})


def end_frame(status: str | None, reason: str | None = None) -> Frame:
    """`end`: nothing follows; it closes the log. `status` is None,
    with a reason, when the job was deleted.
    """
    return Frame.control(
        "end", {"status": status} if reason is None else {"status": status, "reason": reason}
    )


def final_event(job: JobId, status: str) -> Event:
    """The event that the hub makes for a job that has ended and has no terminal event in its log.

    The JSON text is fixed (docs/protocol.md), so it keeps the default separators of `json.dumps`.
    """
    fields = {"type": "build.stage.started", "status": status, "job_id": job}
    return Event(FINAL, json.dumps(fields), fields)
