"""What an operator sees of one process: its jobs, their viewers, and why viewers have gone.

Invariant: it costs nothing while nobody looks, but a short note of each viewer that goes.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hub.engine.view import View
from hub.feed.feed import Feed
from hub.job.event import JobId

REMEMBERED = 500
"""Viewers that have gone, and are remembered with the reason."""


@dataclass(frozen=True, slots=True)
class Gone:
    """A viewer that has gone. `at` is in seconds since 1970."""

    at: float
    job: JobId
    user: str
    why: str


class Inspector:
    """Looks into the feeds and views of one hub."""

    def __init__(self, feeds: Mapping[JobId, Feed], views: Iterable[View]) -> None:
        self._feeds = feeds
        self._views = views
        self._gone: deque[Gone] = deque(maxlen=REMEMBERED)

    def note(self, view: View) -> None:
        """A viewer has gone, with its reason."""
        self._gone.append(Gone(time.time(), view.job_id, view.user, view.why))

    def jobs(self, limit: int) -> list[dict[str, Any]]:
        """The watched jobs with the most viewers."""
        rows = [_of_feed(feed) for feed in self._feeds.values()]
        return sorted(rows, key=lambda row: (-row["viewers"], row["job_id"]))[:limit]

    def job(self, job: JobId) -> dict[str, Any] | None:
        """One watched job with its viewers; None if nobody watches it here."""
        feed = self._feeds.get(job)
        if feed is None:
            return None
        viewers = [row for view in self._views if view.job_id == job and (row := _of_view(view))]
        return {**_of_feed(feed), "watching": sorted(viewers, key=lambda row: -row["behind"])}

    def gone(self, job: JobId | None, limit: int) -> list[dict[str, Any]]:
        """The viewers (of one job, if given) that went last, the last one first."""
        found = [asdict(one) for one in reversed(self._gone) if job in (None, one.job)]
        return found[:limit]


def _of_feed(feed: Feed) -> dict[str, Any]:
    log = feed.log
    seats = [seat for audience in feed.audiences for seat in audience.seats]
    return {
        "job_id": feed.id,
        "status": feed.state.status,
        "user": feed.job.user_id,
        "viewers": len(seats),
        "paused": sum(seat.wire.paused for seat in seats),
        "behind": max((log.end - seat.position for seat in seats), default=0),
        "position": str(log.seen_at(log.end)),
        "window_events": log.end - log.start,
        "window_bytes": log.size,
        "closed": log.closed,
    }


def _of_view(view: View) -> dict[str, Any] | None:
    """What is known of a viewer; None before it has a seat."""
    seat = view.taken
    if seat is None:
        return None
    now = asyncio.get_running_loop().time()
    return {
        "user": view.user,
        "transport": seat.audience.format.transport,
        "position": str(view.log.seen_at(seat.position)),
        "behind": view.log.end - seat.position,
        "paused": seat.wire.paused,
        "types": sorted(seat.audience.types or ()),
        "ends_in": round(seat.until - now) if seat.until < math.inf else None,
    }
