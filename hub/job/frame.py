"""Frames and events that the hub itself makes."""

from __future__ import annotations

import json

from hub.job.event import FINAL, Event, EventId, JobId
from hub.job.log import Frame


def gap_frame(reason: str, first: EventId | None, last: EventId | None) -> Frame:
    """`gap`: the first and last id of what is missing, where they are known."""
    fields = {"from": str(first) if first else None, "to": str(last) if last else None, "reason": reason}
    return Frame.control("gap", fields)


def resync_frame(reason: str) -> Frame:
    """`resync`: the viewer's position means nothing any more; the state follows."""
    return Frame.control("resync", {"reason": reason})


def end_frame(status: str) -> Frame:
    """`end`: nothing follows; it closes the log."""
    return Frame.control("end", {"status": status})


def final_event(job: JobId, status: str) -> Event:
    """The one event of a job that ended without leaving one; its spelling is fixed (docs/protocol.md)."""
    fields = {"type": "build.stage.started", "status": status, "job_id": job}
    return Event(FINAL, json.dumps(fields), fields)
