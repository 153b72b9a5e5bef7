"""A `Frame` is what viewers are sent: an event, or a control frame that the hub makes itself. Pure.

Invariant: a frame is encoded once per `Format`, however many viewers share it.
"""

from __future__ import annotations

import json
from typing import Any, Protocol, TypeVar

from hub.job.event import FINAL, Event, EventId, JobId, dumps

P_co = TypeVar("P_co", covariant=True)


class Format(Protocol[P_co]):
    """How frames look on one kind of wire. One instance per kind, shared by all viewers; it is a dictionary key.

    `encode` gives one frame's bytes and is called once per frame, however many viewers share it. `join` makes what a
    wire writes in one go out of several encodings; it is called once per batch and audience.
    """

    def encode(self, frame: Frame) -> bytes: ...

    def join(self, parts: list[bytes]) -> P_co: ...


class Frame:
    """An event, or a control frame, with its encodings, each made once.

    A control frame has a `name` (`gap`, `resync`, `state`, `end`, ...) and no id; an event has no name. `seen` is
    the cursor of a viewer that has this frame; the log sets it.
    """

    __slots__ = ("_encodings", "body", "event", "id", "name", "seen", "terminal")

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
        self.id = event_id
        self.name = name
        self.terminal = terminal
        self.seen: EventId | None = event_id
        self._encodings: dict[object, bytes] = {}

    @classmethod
    def control(cls, name: str, fields: dict[str, Any]) -> Frame:
        """A frame about the stream itself."""
        return cls(Event(None, dumps(fields), fields), name=name)

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return len(self.body) if self.body.isascii() else len(self.body.encode())

    def encoded(self, fmt: Format[Any]) -> bytes:
        """The frame's bytes in `fmt`."""
        encoding = self._encodings.get(fmt)
        if encoding is None:
            encoding = self._encodings[fmt] = fmt.encode(self)
        return encoding

    def passes(self, types: frozenset[str] | None) -> bool:
        """Whether a viewer that asked for `types` gets it: control frames and terminal events always pass."""
        return types is None or self.name is not None or self.terminal or self.event.type in types


def gap_frame(reason: str, first: EventId | None, last: EventId | None) -> Frame:
    """`gap`: the first and last id of what is missing, where they are known."""
    fields = {"from": str(first) if first else None, "to": str(last) if last else None, "reason": reason}
    return Frame.control("gap", fields)


def resync_frame(reason: str) -> Frame:
    """`resync`: the viewer's position means nothing any more; the state follows."""
    return Frame.control("resync", {"reason": reason})


def end_frame(status: str | None, reason: str | None = None) -> Frame:
    """`end`: nothing follows; it closes the log. `status` is None, with a reason, when the job was deleted."""
    return Frame.control(
        "end", {"status": status} if reason is None else {"status": status, "reason": reason}
    )


def final_event(job: JobId, status: str) -> Event:
    """The one event of a job that ended without leaving one; its spelling is fixed (docs/protocol.md)."""
    fields = {"type": "build.stage.started", "status": status, "job_id": job}
    return Event(FINAL, json.dumps(fields), fields)
