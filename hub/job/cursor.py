"""Where a viewer begins: a cursor (`Last-Event-ID`) or a wish (`from`) against one job's log. Pure.

Invariant: whatever a stranger writes into a cursor, the answer is a position, a read of the retained log, or a
`resync` with a reason. Never an error, never silence (docs/protocol.md).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from hub.job.event import FINAL, EventId
from hub.job.log import Log

_FROM_LAST = re.compile(r"-([1-9][0-9]{0,5})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a viewer asks for. `cursor` wins over `origin`: "start", "live", or a number of last events."""

    cursor: str | None = None
    origin: Literal["start", "live"] | int = "start"
    types: frozenset[str] | None = None

    @classmethod
    def parse(cls, *, cursor: str | None = None, origin: str | None = None, types: str | None = None) -> Wish:
        """Read query parameters. An unknown `from` is "start": too much is better than silence."""
        wanted = frozenset(name for name in map(str.strip, (types or "").split(",")) if name)
        return cls(cursor=cursor or None, origin=_origin(origin), types=wanted or None)


def _origin(text: str | None) -> Literal["start", "live"] | int:
    if text == "live":
        return "live"
    last = _FROM_LAST.fullmatch(text or "")
    return int(last[1]) if last else "start"


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where a viewer's stream begins.

    `position` in the window; or, when `after` is set, the retained log is read from there until it meets the window.
    `resync` is the reason when the cursor could not be honoured; the current state comes first then.
    `ahead` is a cursor that the window does not reach yet: another process may have been faster, or somebody made it up.
    `over` says that the viewer has everything of a job that has ended.
    """

    position: int
    after: EventId | None = None
    resync: str | None = None
    over: bool = False
    ahead: EventId | None = None


def beginning(wish: Wish, log: Log, *, retained: bool, ended: EventId | None = None) -> Beginning:
    """Decide. `retained`: events from before the window may be in a log that all processes share. `ended`: the id of the
    job's terminal event, which the log may not have any more.
    """
    if wish.cursor is not None:
        return _resume(wish.cursor, log, retained=retained, ended=ended)
    if wish.origin == "live":
        return live(log)
    if wish.origin == "start":
        missing = log.origin.seq + 1
    else:
        position, missing = log.position_of_last(wish.origin)
        if not missing:
            return Beginning(position)
    first = EventId(log.origin.next.epoch, 0)
    if not retained or log.origin < first:  # nothing can be before the window
        return Beginning(log.start)
    return Beginning(log.start, after=EventId(first.epoch, max(0, log.origin.seq + 1 - missing)).previous)


def live(log: Log, *, resync: str | None = None) -> Beginning:
    """From now on; on a log that has ended its last event and the end, so that nobody waits for ever."""
    return Beginning(max(log.start, log.end - 2) if log.closed else log.end, resync=resync)


def _resume(cursor: str, log: Log, *, retained: bool, ended: EventId | None) -> Beginning:
    seen = EventId.parse(cursor)
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
