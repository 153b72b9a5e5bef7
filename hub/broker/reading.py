"""Interprets what Redis answered: hashes as jobs, rows of a stream as entries. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from redis.exceptions import ResponseError

from hub.broker.script import Publication
from hub.job.event import EventId, JobId, UserId
from hub.job.record import Entry, Job

MAX_DIGITS = 20
"""Largest number of digits of a number in a hash: 64 bits. `int` raises ValueError for more than 4,300
digits, and an application can write any text there."""


def job_of(
    job: JobId,
    names: Sequence[str],
    publication: Publication,
    reply: Any,
    meta: Any,
    now: float | None = None,
) -> Job | None:
    """The job, as its hash's values of `names` (status and owner first) and the hub's own hash have it.
    None if there is neither. `now`: the clock of its Redis, in seconds since 1970.
    """
    values = readable(reply) or []
    fields = {name: _text(value) for name, value in zip(names, values, strict=False) if value is not None}
    ours = {_text(name): _text(value) for name, value in _pairs(readable(meta) or {})}
    if not fields and not ours:
        return None
    owner = _owner(values[1]) if values else ""
    if owner and ours.get("owner", owner) != owner:
        ours = {}  # the log is of another owner's job of this name
    lease = _number(ours.get("lease", ""))
    stated = frozenset(filter(None, ours.get("terminal", "").split(",")))
    return Job(
        id=job,
        status=fields.get("status", ""),
        user_id=UserId(owner),
        epoch=_number(ours.get("epoch", "")),
        position=EventId.parse(ours.get("position", "")),
        lease=None if lease is None or now is None else lease / 1000 - now,
        fields=fields,
        ended=EventId.parse(ours.get("ended", "")),
        log_owner=ours.get("owner", ""),
        attempt=_number(ours.get("attempt", "")) or 1,
        digest=ours.get("digest", ""),
        exists=bool(fields),
        terminal=publication.terminal | stated,
        stated=stated,
    )


def _pairs(reply: dict[Any, Any] | list[Any]) -> Iterable[tuple[Any, Any]]:
    """What HGETALL answered, as redis-py or Redis itself has it."""
    return reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)


def readable(reply: Any) -> Any:
    """The reply, or None if the key has another type than the hub's. Raises every other error in a reply.

    Only WRONGTYPE may mean "no such job". A Redis that is loading its data, or that has revoked the hub's
    rights, returns an error for every job, and a viewer that gets a 404 does not reconnect.
    """
    if isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE"):
        return None
    if isinstance(reply, Exception):
        raise reply
    return reply


def has(job: Job | None, entry: Entry) -> bool:
    """Returns False for an entry of an earlier epoch, and of a job whose hash was deleted: it is nobody's to
    see."""
    if job is None or entry.id.epoch != job.epoch:
        return False
    return job.exists or not job.log_owner


def _owner(value: bytes | str | None) -> str:
    """The owner in a hash, "" for none. Bytes that are not UTF-8 are nobody: replaced, they would equal
    another name."""
    try:
        return value.decode() if isinstance(value, bytes) else value or ""
    except UnicodeDecodeError:
        return ""


def entry_of(row: Any) -> Entry:
    """Read a stream row: (id, {field: value}) or (id, [field, value, ...]), as redis-py's protocol has it."""
    row_id, values = row
    body = next(iter(values.values())) if isinstance(values, dict) else values[1]
    event_id = EventId.parse(_text(row_id))
    assert event_id is not None, "a stream's ids are two unsigned integers"
    return Entry(event_id, body if isinstance(body, bytes) else body.encode())


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS else None
