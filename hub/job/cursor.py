"""Decides where in a job's log a viewer begins, from its cursor (`Last-Event-ID`) or its `from`. Pure.

Invariant: for any text in a cursor, the answer is a position, a read of the retained log, or a `resync` with
a reason; never an error and never a silent stream (docs/protocol.md).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from hub.job.event import FINAL, EventId
from hub.job.log import Log

MAX_TYPES = 32
"""Types of a filter."""

MAX_TYPE = 64
"""Characters of a type in a filter."""

_FROM_LAST = re.compile(r"-([1-9][0-9]{0,5})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a viewer asks for.

    `cursor` is the id of the last event it has, as the client wrote it. `from_` applies only without a
    cursor: the job's "start", "live" (new events only), or the number of last events to send. `types` are the
    event types to send; None means all.
    """

    cursor: str | None = None
    from_: Literal["start", "live"] | int = "start"
    types: frozenset[str] | None = None

    @classmethod
    def parse(cls, *, cursor: str | None = None, from_: str | None = None, types: str | None = None) -> Wish:
        """Read query parameters; `types` is a comma-separated list.

        An unknown `from` means "start", and more types than a filter may have mean all: a viewer can ignore
        events it did not want, but cannot guess those it missed.
        """
        wanted = frozenset(name for name in map(str.strip, (types or "").split(",", MAX_TYPES)) if name)
        if len(wanted) > MAX_TYPES or any(len(name) > MAX_TYPE for name in wanted):
            wanted = frozenset()
        return cls(cursor=cursor or None, from_=_parse_from(from_), types=wanted or None)


def _parse_from(text: str | None) -> Literal["start", "live"] | int:
    if text == "live":
        return "live"
    last = _FROM_LAST.fullmatch(text or "")
    return int(last[1]) if last else "start"


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where a viewer's stream begins.

    `position` is a position in the window. If `after` is set, the events after that id are first read from
    the retained log, up to the start of the window.
    `resync` is the reason why the cursor cannot be honoured; the stream then begins with the job's current
    state.
    `ahead` is a cursor beyond the end of the window: either another process has already delivered that event,
    or the client invented the id.
    `over` is True if the job has ended and the viewer has all of its events.
    """

    position: int
    after: EventId | None = None
    resync: str | None = None
    over: bool = False
    ahead: EventId | None = None


def beginning(
    wish: Wish, log: Log, *, retained: bool, ended: EventId | None = None, attempt: int = 1
) -> Beginning:
    """Decide. `retained`: events from before the window may be in a log that all processes share. `ended`:
    the id of the job's terminal event, which the log may not have any more. `attempt`: how often the job was
    begun.
    """
    if wish.cursor is not None:
        seen = EventId.parse(wish.cursor)
        if attempt > 1 and seen is not None and FINAL.epoch < seen.epoch < _epoch(log):
            return _from_attempt(log)
        return _resume(seen, log, retained=retained, ended=ended)
    if wish.from_ == "live":
        return live(log)
    if wish.from_ == "start":
        missing = log.origin.seq + 1
    else:
        position, missing = log.position_of_last(wish.from_)
        if not missing:
            return Beginning(position)
    first = EventId(log.origin.next.epoch, 0)
    if not retained or log.origin < first:  # no event is older than the window
        return Beginning(log.start)
    return Beginning(log.start, after=EventId(first.epoch, max(0, log.origin.seq + 1 - missing)).previous)


def depth(wish: Wish, last: EventId | None) -> int | None:
    """How many events, with `last` as the newest, a viewer with this wish needs. None: all, and the state."""
    if wish.cursor is None:
        return wish.from_ if isinstance(wish.from_, int) else 0 if wish.from_ == "live" else None
    seen = EventId.parse(wish.cursor)
    if seen is None or last is None or seen.epoch != last.next.epoch:
        return None
    return max(0, last.seq - seen.seq)


def live(log: Log, *, resync: str | None = None) -> Beginning:
    """Begin with new events only.

    On a closed log, begin with the terminal event and the `end` frame, because no new event would ever end
    the stream.
    """
    return Beginning(max(log.start, log.end - 2) if log.closed else log.end, resync=resync)


def _epoch(log: Log) -> int:
    """The epoch of the next event."""
    return log.seen_at(log.end).next.epoch


def _from_attempt(log: Log) -> Beginning:
    """The cursor is of an attempt that is over: begin with the first event of the present one."""
    first = EventId(_epoch(log), 0).previous
    position = log.position_after(first)
    if position is None:
        return Beginning(log.start, after=first, resync="restarted")
    # A window that saw the restart has a `resync` of its own there.
    return Beginning(position, resync="restarted" if log.origin == first else None)


def _resume(seen: EventId | None, log: Log, *, retained: bool, ended: EventId | None) -> Beginning:
    if seen is None:
        return live(log, resync="malformed")
    if log.closed and seen in (FINAL, log.seen_at(log.end), ended):
        return Beginning(log.end - 1, over=True)
    position = log.position_after(seen)
    if position is not None:
        return Beginning(position)
    if retained and not log.closed and seen.epoch == log.origin.next.epoch and seen > log.seen_at(log.end):
        return Beginning(log.end, ahead=seen)
    if not retained or seen > log.origin or seen < EventId(log.origin.next.epoch, 0).previous:
        return live(log, resync="unknown")
    return Beginning(log.start, after=seen)
