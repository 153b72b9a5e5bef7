"""Events, event ids and job ids. Pure values, no I/O.

Invariant: an `Event` read from a message keeps the producer's text unchanged, except that bytes which are not
UTF-8 become U+FFFD, because no transport could carry them. The typed events are in catalogue.py; each
transport encodes events for its own wire.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple, NewType
from uuid import UUID

from hub.errors import InvalidEvent
from hub.job.nesting import TOO_DEEP, is_too_deep

JobId = NewType("JobId", str)
UserId = NewType("UserId", str)

TERMINAL = frozenset({"ready", "failed"})
"""The statuses that end a job; `HUB_TERMINAL_STATUSES` replaces this default."""

LOST = "failed"
"""The status of a job whose worker is lost; terminal even if `HUB_TERMINAL_STATUSES` does not name it."""

MAX_EVENT_BYTES = 1 << 20
"""1 MiB: room for a hundred pages of documentation; bounds what one event can put into a write buffer."""

_MAX_SEQ = (1 << 64) - 1  # Redis stream ids are two unsigned 64-bit integers
_ID = re.compile(r"(0|[1-9][0-9]{0,19})-(0|[1-9][0-9]{0,19})", re.ASCII)
_JOB_ID = re.compile(r"[\w.:@~-]{1,128}", re.ASCII)
_NUMBERED = re.compile(rb'\{"id":"(0|[1-9][0-9]{0,19})-(0|[1-9][0-9]{0,19})"(?:,(?=")|(?=\}))')


class EventId(NamedTuple):
    """`epoch-seq`, a Redis stream id: when the log began (ms since 1970), and a count 0, 1, 2, ... without
    holes.

    A named tuple and not a dataclass: ids are hashed and compared for every event, and a tuple does both in
    C.
    """

    epoch: int
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}"

    @property
    def previous(self) -> EventId:
        """The id before this one in Redis's order; for `E-0`, the last possible id of epoch `E - 1`."""
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
        """The id at the start of a Pub/Sub message, or None. The rest of the message is not parsed."""
        return numbered(data)[0]

    @classmethod
    def parse(cls, text: str) -> EventId | None:
        """Read `epoch-seq`. Returns None for any other text, because anybody can write the header."""
        match = _ID.fullmatch(text)
        if match is None:
            return None
        epoch, seq = int(match[1]), int(match[2])
        return cls(epoch, seq) if epoch <= _MAX_SEQ and seq <= _MAX_SEQ else None


FINAL = EventId(0, 0)
"""The id of the event that the hub makes when a job has ended and its log has no terminal event."""


RESERVED = frozenset(
    [
        "end",
        "gap",
        "resync",
        "state",
        "heartbeat",
        "reconnect",
        "hello",
        "authenticated",
        "pong",
        "error",
        "subscribed",
        "unsubscribed",
        "accepted",
        "viewers",
        "raw",
    ]
)
"""Types of control frames. An event of such a type is sent as `raw` on a WebSocket (docs/protocol.md)."""


def job_id(text: str) -> JobId | None:
    """Returns `text` as a job id, or None if it is not one.

    A job id is 1 to 128 letters, digits and ``_ . : @ ~ -``: it becomes part of a Redis key.
    """
    return JobId(text) if _JOB_ID.fullmatch(text) else None


_MISSING = object()


class Event:
    """One message of a job. Not to be changed.

    `body` is the JSON text of an object, without the id that the publish script adds, and `size` its bytes.
    If the producer's text is not a JSON object, `is_object` is False and `body` is that text. `type`, and
    `status`, which it gives the job, are None where they are missing or no text; `job`, its `job_id`, is ""
    where it is no text. `has_id`: the producer wrote an `id` of its own.
    """

    __slots__ = ("body", "has_id", "id", "is_object", "job", "size", "status", "type")

    def __init__(self, event_id: EventId | None, body: str, fields: dict[str, Any] | None) -> None:
        self.id = event_id
        self.body = body
        self.size = len(body) if body.isascii() else len(body.encode("utf-8", "surrogatepass"))
        # The object itself would take more memory than its text, in every window.
        self.is_object = fields is not None
        get = (fields or {}).get
        kind, status, job = get("type"), get("status"), get("job_id", _MISSING)
        self.type: str | None = kind if isinstance(kind, str) else None
        self.status: str | None = status if isinstance(status, str) else None
        self.job: str | None = job if isinstance(job, str) else None if job is _MISSING else ""
        self.has_id = get("id", _MISSING) is not _MISSING

    @property
    def fields(self) -> dict[str, Any] | None:
        """The object, parsed anew; None if it is none."""
        return _parse_object(self.body) if self.is_object else None

    @classmethod
    def from_message(cls, data: bytes) -> Event:
        """Read a Pub/Sub message, with or without an id. Never raises."""
        return cls.from_numbered(*numbered(data), data)

    @classmethod
    def from_numbered(cls, event_id: EventId | None, start: int, data: bytes) -> Event:
        """The same, of which `numbered` is known."""
        return cls.from_body(event_id, data if event_id is None else b"{" + data[start:])

    @classmethod
    def from_body(cls, event_id: EventId | None, data: bytes) -> Event:
        """Read a body without an id. Never raises: `fields` is None unless `data` is
        a JSON object of at most `MAX_DEPTH` levels.
        """
        text = data.decode("utf-8", "replace").removeprefix("\ufeff")  # a BOM is no JSON, and says nothing
        return cls(event_id, text, _parse_object(text))


def numbered(data: bytes) -> tuple[EventId | None, int]:
    """The message's id, and the index at which the producer's own fields begin.

    Only the exact spelling of the publish script counts as an id: an object whose first member is `id`,
    without white space. An `id` elsewhere is a field of a producer that publishes without the script.
    """
    found = _NUMBERED.match(data)
    if found is None:
        return None, 0
    epoch, seq = int(found[1]), int(found[2])
    return (EventId(epoch, seq), found.end()) if epoch <= _MAX_SEQ and seq <= _MAX_SEQ else (None, 0)


def body_size(data: bytes) -> int:
    """The size in bytes of a message's body, without the id that the publish script added."""
    event_id, start = numbered(data)
    return len(data) if event_id is None else len(data) - start + 1


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


# Python's parser accepts NaN and Infinity; a browser's JSON.parse does not.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_SCAN: Callable[[str, int], tuple[Any, int]] = vars(_DECODER)["scan_once"]


def _parse_object(text: str) -> dict[str, Any] | None:
    if is_too_deep(text):
        return None
    try:
        if text[:1] == "{":  # without the search for white space around it, which is rare
            value, end = _SCAN(text, 0)
            if end != len(text):
                value = _DECODER.decode(text)
        else:
            value = _DECODER.decode(text)
    except (ValueError, StopIteration):
        return None
    return value if isinstance(value, dict) else None


def checked_job_id(text: str | int | UUID) -> JobId:
    """`text` as a job id; a number or a UUID as its text. Raises InvalidEvent, which tells a producer what is
    wrong."""
    is_id = isinstance(text, str | int | UUID) and not isinstance(text, bool)
    known = job_id(str(text)) if is_id else None
    if known is None:
        raise InvalidEvent(f"expected a job id of letters, digits and _.:@~-, got {text!r}")
    return known


def without(body: str, names: AbstractSet[str]) -> str:
    """Remove the members called `names` from the JSON object in `body`; the others keep their text."""
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
    """The index of the next character that is neither white space nor `mark`."""
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
