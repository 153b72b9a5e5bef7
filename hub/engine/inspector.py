"""What an operator sees of one process: its jobs, their viewers, why viewers have gone, and its warnings.

Invariant: it costs nothing while nobody looks, but a short note of each viewer that goes.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from hub.engine.incidents import Incidents
from hub.engine.view import View
from hub.feed.feed import Feed
from hub.job.event import JobId
from hub.totals import NAMES, Totals

REMEMBERED = 500
"""Viewers that have gone, and are remembered with the reason."""

GONE = 20
"""Of these, those that an answer has at most; of warnings as many."""


@dataclass(frozen=True, slots=True)
class Gone:
    """A viewer that has gone. `at` is in seconds since 1970."""

    at: float
    job: JobId
    user: str
    why: str


class Inspector:
    """Looks into the feeds and views of one hub."""

    def __init__(
        self,
        feeds: Mapping[JobId, Feed],
        views: Iterable[View],
        statistics: Callable[[], Totals],
        incidents: Incidents,
    ) -> None:
        self._feeds = feeds
        self._views = views
        self._statistics = statistics
        self._incidents = incidents
        self._since = time.time()
        self._gone: deque[Gone] = deque(maxlen=REMEMBERED)

    def note(self, view: View) -> None:
        """A viewer has gone, with its reason."""
        self._gone.append(Gone(time.time(), view.job_id, view.user, view.why))

    def look(self, job: JobId | None, limit: int) -> dict[str, Any]:
        """What this process says to an operator's question (question.py): of one job, or of all."""
        place = {"host": socket.gethostname(), "pid": os.getpid()}
        return place | (self._of_all(limit) if job is None else self._of_one(job, limit))

    def _of_all(self, limit: int) -> dict[str, Any]:
        """`totals`: numbers by name (totals.py). `timings`: counts by bucket. `watched`: the jobs with the
        most viewers first.
        """
        totals = self._statistics()
        rows = [_of_feed(feed) for feed in self._feeds.values()]
        return {
            "version": version("push-hub"),
            "since": self._since,
            "totals": {name: getattr(totals, name) for name in NAMES},
            "timings": {
                **{f"delivery {hop}": one.counts for hop, one in totals.timings.delivery.items()},
                **{f"join {transport}": one.counts for transport, one in totals.timings.joins.items()},
                "fanout": totals.timings.fanout.counts,
            },
            "watched": sorted(rows, key=lambda row: (-row["viewers"], row["job_id"]))[:limit],
            "gone": self._last(None),
            "incidents": self._incidents.last(GONE),
        }

    def _of_one(self, job: JobId, limit: int) -> dict[str, Any]:
        """`watched`: the job, [] if it is not watched here. `watching`: its viewers, the last one first."""
        feed = self._feeds.get(job)
        now = asyncio.get_running_loop().time()
        viewers = [row for view in self._views if view.job_id == job and (row := _of_view(view, now))]
        return {
            "watched": [] if feed is None else [_of_feed(feed)],
            "watching": sorted(viewers, key=lambda row: -row["behind"])[:limit],
            "gone": self._last(job),
        }

    def _last(self, job: JobId | None) -> list[dict[str, Any]]:
        """The viewers (of one job, if given) that went last, the last one first."""
        return [asdict(one) for one in reversed(self._gone) if job in (None, one.job)][:GONE]


def _of_feed(feed: Feed) -> dict[str, Any]:
    """`events`: those of this process's log, ever. Of the window: `window_events` and `window_bytes`."""
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
        "events": log.end,
        "window_events": log.end - log.start,
        "window_bytes": log.size,
        "closed": log.closed,
    }


def _of_view(view: View, now: float) -> dict[str, Any] | None:
    """What is known of a viewer; None before it has a seat. `behind` is in events, `unsent` in bytes that the
    kernel has not taken; `seconds`: how long it is there; `ends_in`: seconds until it is to reconnect.
    """
    seat = view.taken
    if seat is None:
        return None
    return {
        "user": view.user,
        "transport": seat.audience.format.transport,
        "position": str(view.log.seen_at(seat.position)),
        "behind": view.log.end - seat.position,
        "unsent": getattr(seat.wire, "unsent", 0),
        "paused": seat.wire.paused,
        "types": sorted(seat.audience.types or ()),
        "seconds": round(now - view.since, 1),
        "ends_in": round(seat.until - now) if seat.until < math.inf else None,
    }
