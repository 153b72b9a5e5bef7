"""What travels: events, their ids and the typed catalogue. Pure values, no I/O.

Invariant: an `Event` made from the wire keeps the producer's bytes; only what cannot be framed is replaced
(bytes that are not UTF-8). Encoding for a transport lives with that transport.
"""

from __future__ import annotations

import json
import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, NamedTuple, NewType
from uuid import UUID

from hub.errors import InvalidEvent
from hub.job.nesting import TOO_DEEP, is_too_deep

JobId = NewType("JobId", str)
UserId = NewType("UserId", str)

TERMINAL = frozenset({"ready", "failed"})
"""Statuses that end a job, unless `HUB_TERMINAL_STATUSES` says otherwise."""

LOST = "failed"
"""How a job ends whose worker is lost; it ends a job whatever other statuses do."""

MAX_EVENT_BYTES = 1 << 20
"""1 MiB: a page of documentation fits a hundred times, a viewer's write buffer is not drowned."""

_MAX_SEQ = (1 << 64) - 1  # Redis stream ids are two unsigned 64-bit integers
_ID = re.compile(r"(0|[1-9][0-9]{0,19})-(0|[1-9][0-9]{0,19})", re.ASCII)
_JOB_ID = re.compile(r"[\w.:@~-]{1,128}", re.ASCII)
_NUMBERED = re.compile(rb'\{"id":"([0-9]{1,20}-[0-9]{1,20})"(?:,(?=")|(?=\}))')


class EventId(NamedTuple):
    """`epoch-seq`, a Redis stream id: when the log began (ms since 1970) and a count 0, 1, 2 without holes.

    A named tuple rather than a dataclass: it is hashed and compared for every event, and a tuple does both in C.
    """

    epoch: int
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}"

    @property
    def previous(self) -> EventId:
        """The id just before this one in Redis's order; before `E-0` that is the last id of `E - 1`."""
        if self.seq:
            return EventId(self.epoch, self.seq - 1)
        return EventId(self.epoch - 1, _MAX_SEQ)

    @property
    def next(self) -> EventId:
        """The id just after this one in Redis's order."""
        if self.seq < _MAX_SEQ:
            return EventId(self.epoch, self.seq + 1)
        return EventId(self.epoch + 1, 0)

    @classmethod
    def of_message(cls, data: bytes) -> EventId | None:
        """The id in a Pub/Sub message, without a look at the rest of it."""
        return _numbered(data)[0]

    @classmethod
    def parse(cls, text: str) -> EventId | None:
        """Read `epoch-seq`; None for anything else, so that a stranger's header is only ever unknown."""
        match = _ID.fullmatch(text)
        if match is None:
            return None
        epoch, seq = int(match[1]), int(match[2])
        return cls(epoch, seq) if epoch <= _MAX_SEQ and seq <= _MAX_SEQ else None


FINAL = EventId(0, 0)
"""The id of the final status of a job whose log has no terminal event: the end of a job that has no log."""


RESERVED = frozenset(
    [
        "end",
        "gap",
        "resync",
        "state",
        "heartbeat",
        "reconnect",
        "hello",
        "pong",
        "error",
        "subscribed",
        "unsubscribed",
        "raw",
    ]
)
"""Types of control frames. An event of such a type is sent as `raw` on a WebSocket (docs/protocol.md)."""


def job_id(text: str) -> JobId | None:
    """`text` as a job id, or None: 1 to 128 of letters, digits and ``_ . : @ ~ -``, so a key can hold it."""
    return JobId(text) if _JOB_ID.fullmatch(text) else None


@dataclass(frozen=True, slots=True)
class Event:
    """One message of a job.

    `body` is UTF-8 JSON text of an object without the hub's id, or any text at all when `fields` is None.
    `fields` is that object parsed.
    """

    id: EventId | None
    body: str
    fields: dict[str, Any] | None

    @property
    def type(self) -> str | None:
        """The event's type, if it is an object that names one."""
        value = self.fields.get("type") if self.fields is not None else None
        return value if isinstance(value, str) else None

    @property
    def status(self) -> str | None:
        """The status the event sets, if any."""
        value = self.fields.get("status") if self.fields is not None else None
        return value if isinstance(value, str) else None

    @classmethod
    def from_message(cls, data: bytes) -> Event:
        """Read a Pub/Sub message."""
        event_id, start = _numbered(data)
        return cls.from_body(event_id, data if event_id is None else b"{" + data[start:])

    @classmethod
    def from_body(cls, event_id: EventId | None, data: bytes) -> Event:
        """Read a body without an id. Never raises: `fields` is None unless `data` is a JSON object of at most
        `MAX_DEPTH` levels.
        """
        text = data.decode("utf-8", "replace")
        return cls(event_id, text, _parse_object(text))


def _numbered(data: bytes) -> tuple[EventId | None, int]:
    """The id of a message, and where its own fields begin. Ours begin with the id, exactly as the publish script writes it."""
    found = _NUMBERED.match(data)
    event_id = EventId.parse(found[1].decode()) if found is not None else None
    return event_id, 0 if found is None else found.end()


def body_size(data: bytes) -> int:
    """Bytes of a message's body: without the id that the publish script wrote into it."""
    event_id, start = _numbered(data)
    return len(data) if event_id is None else len(data) - start + 1


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


# NaN and Infinity: Python's parser takes them, a browser's JSON.parse does not.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _parse_object(text: str) -> dict[str, Any] | None:
    if is_too_deep(text):
        return None
    try:
        value = _DECODER.decode(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def checked_job_id(text: str | int | UUID) -> JobId:
    """`text` as a job id; a number or a UUID as its text. Raises InvalidEvent, which tells a producer what is wrong."""
    is_id = isinstance(text, str | int | UUID) and not isinstance(text, bool)
    known = job_id(str(text)) if is_id else None
    if known is None:
        raise InvalidEvent(f"expected a job id of letters, digits and _.:@~-, got {text!r}")
    return known


def without(body: str, names: AbstractSet[str]) -> str:
    """The object in `body` without the members called `names`; the others as their producer wrote them."""
    kept = []
    position = _skip(body, body.index("{") + 1, "")
    while body[position] != "}":
        name, end = _DECODER.raw_decode(body, position)
        _, end = _DECODER.raw_decode(body, _skip(body, end, ":"))
        if name not in names:
            kept.append(body[position:end])
        position = _skip(body, end, ",")
    return "{" + ",".join(kept) + "}"


def _skip(body: str, position: int, mark: str) -> int:
    """The position after white space and the one `mark` in it."""
    while body[position] in " \t\r\n" or body[position] == mark:
        position += 1
    return position


def dumps(fields: dict[str, Any]) -> str:
    """Compact JSON text that any strict parser reads back.

    Raises InvalidEvent for NaN, cycles, odd types, and for more than `MAX_DEPTH` levels.
    """
    try:
        text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        text.encode()  # a lone surrogate is not text
    except RecursionError as error:  # the encoder stopped before there was a text to measure
        raise InvalidEvent(TOO_DEEP) from error
    except (ValueError, TypeError) as error:
        raise InvalidEvent(f"expected fields that are JSON, got {error}") from error
    if is_too_deep(text):
        raise InvalidEvent(TOO_DEEP)
    return text
