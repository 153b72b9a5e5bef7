"""A lane is one job on a dashboard: a `Wire` of its own, on the socket that all jobs of the dashboard share.

Invariant: the end, failure or slowness of one job does not affect the others. Lanes take turns, so a busy job
does not starve the others.
"""

from __future__ import annotations

from typing import Any, Protocol

from hub.engine.view import View
from hub.fanout.audience import Seat
from hub.fanout.wire import Reason
from hub.job.event import JobId
from hub.transports.portable import Messages

_OF_ONE_JOB = (Reason.ENDED, Reason.GAP, Reason.TOO_SLOW, Reason.NOT_FOUND)


class SharedSocket(Protocol):
    """What lanes need of their socket. `end_lane` ends one lane, `finish` ends the whole socket."""

    @property
    def paused(self) -> bool: ...

    def write(self, payload: Messages, /) -> None: ...

    def finish(self, reason: Reason, /) -> None: ...

    def end_lane(self, lane: Lane, reason: Reason, /) -> None: ...


class Lane:
    """The wire of one job on the socket. It gets its `seat` when the replay of the job's past is written."""

    __slots__ = ("_socket", "seat", "view")

    def __init__(self, socket: SharedSocket, view: View) -> None:
        self.view = view
        self.seat: Seat[Messages] | None = None
        self._socket = socket

    @property
    def job(self) -> JobId:
        """The job's id."""
        return self.view.job_id

    @property
    def paused(self) -> bool:
        """Returns True while the socket is busy with the bytes of any job."""
        return self._socket.paused

    def write(self, payload: Messages) -> None:
        """Write to the shared socket."""
        self._socket.write(payload)

    def beat(self, payload: Messages) -> None:
        """Does nothing: a dashboard sends one heartbeat for all its jobs (dashboard.py)."""

    def finish(self, reason: Reason) -> None:
        """End the lane if `reason` concerns one job, else (end of the process, age) end the socket."""
        if reason in _OF_ONE_JOB:
            self._socket.end_lane(self, reason)
        else:
            self._socket.finish(reason)


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
        """Returns True if at least one lane has a seat."""
        return any(lane.seat is not None for lane in self._lanes.values())

    def get(self, job: JobId) -> Lane | None:
        """The lane of `job`, or None."""
        return self._lanes.get(job)

    def add(self, lane: Lane) -> None:
        """Add the lane of a job that has none yet."""
        self._lanes[lane.job] = lane

    def remove(self, lane: Lane) -> None:
        """Remove a lane and close its view. May be called twice."""
        if self._lanes.get(lane.job) is lane:
            del self._lanes[lane.job]
        lane.view.close()
        lane.seat = None  # breaks the reference cycle of seat and lane, so that both are freed at once

    def clear(self, why: str) -> None:
        """Remove all lanes, whose viewers have gone for this reason."""
        for lane in list(self._lanes.values()):
            lane.view.why = why
            self.remove(lane)

    def catch_up(self) -> None:
        """Let lane after lane write until the socket is busy. The first lane is last the next time."""
        for lane in list(self._lanes.values()):
            if lane.seat is not None:
                lane.seat.catch_up()
        if self._lanes:
            first: Any = next(iter(self._lanes))
            self._lanes[first] = self._lanes.pop(first)
