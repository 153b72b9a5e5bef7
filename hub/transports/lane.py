"""One job on a dashboard: a `Wire` of its own, on the socket that all jobs of the dashboard share.

Invariant: one job's end, fault or slowness is that job's alone; lanes take turns, so a busy job does not starve the others.
"""

from __future__ import annotations

from typing import Any, Protocol

from hub.engine.view import View
from hub.fanout.audience import Seat
from hub.fanout.wire import Reason
from hub.job.event import JobId
from hub.transports.portable import Messages

_OF_ONE_JOB = (Reason.ENDED, Reason.GAP, Reason.TOO_SLOW, Reason.NOT_FOUND)


class Road(Protocol):
    """What lanes need of the socket they share."""

    @property
    def paused(self) -> bool: ...

    def write(self, payload: Messages, /) -> None: ...

    def finish(self, reason: Reason, /) -> None: ...

    def end_lane(self, lane: Lane, reason: Reason, /) -> None: ...


class Lane:
    """The wire of `view`'s job. It has a `seat` once the job's past is written."""

    __slots__ = ("_road", "seat", "view")

    def __init__(self, road: Road, view: View) -> None:
        self.view = view
        self.seat: Seat[Messages] | None = None
        self._road = road

    @property
    def job(self) -> JobId:
        """The job it carries."""
        return self.view.feed.id

    @property
    def paused(self) -> bool:
        """Returns True while the socket is busy, whichever job's bytes it sends."""
        return self._road.paused

    def write(self, payload: Messages) -> None:
        """Send these on the socket."""
        self._road.write(payload)

    def beat(self, payload: Messages) -> None:
        """A dashboard beats once for all its jobs (dashboard.py)."""

    def finish(self, reason: Reason) -> None:
        """The end of one job ends its lane. The end of a process, or of a stream's time, ends the socket."""
        if reason in _OF_ONE_JOB:
            self._road.end_lane(self, reason)
        else:
            self._road.finish(reason)


class Lanes:
    """The lanes of one socket, by job."""

    def __init__(self) -> None:
        self._lanes: dict[JobId, Lane] = {}

    def __len__(self) -> int:
        return len(self._lanes)

    def __contains__(self, job: JobId) -> bool:
        return job in self._lanes

    @property
    def seated(self) -> bool:
        """Returns True if at least one job is past its beginning."""
        return any(lane.seat is not None for lane in self._lanes.values())

    def get(self, job: JobId) -> Lane | None:
        """The lane of `job`."""
        return self._lanes.get(job)

    def add(self, lane: Lane) -> None:
        """A new job."""
        self._lanes[lane.job] = lane

    def remove(self, lane: Lane) -> None:
        """The pair of `add`; gives back what the job's view holds. May be called twice."""
        if self._lanes.get(lane.job) is lane:
            del self._lanes[lane.job]
        lane.view.close()
        lane.seat = (
            None  # they hold each other; apart they are freed at once and not by the garbage collector
        )

    def clear(self) -> None:
        """Remove all."""
        for lane in list(self._lanes.values()):
            self.remove(lane)

    def catch_up(self) -> None:
        """Let each lane write until the socket is busy; who was first this time is last the next."""
        for lane in list(self._lanes.values()):
            if lane.seat is not None:
                lane.seat.catch_up()
        if self._lanes:
            first: Any = next(iter(self._lanes))
            self._lanes[first] = self._lanes.pop(first)
