"""What a frame is: whom it passes, and the exact words of the control frames."""

from __future__ import annotations

import json

import pytest

from hub.job.event import FINAL, Event, EventId, JobId
from hub.job.frame import Frame, end_frame, final_event, gap_frame, resync_frame

ID = EventId(5, 1)


def frame(kind: str | None, **more) -> Frame:
    return Frame(Event(ID, "{}", {"type": kind}), event_id=ID, **more)


@pytest.mark.parametrize(
    ("one", "passes"),
    [
        (frame("a"), True),
        (frame("b"), False),
        (frame(None), False),
        (frame("b", terminal=True), True),
        (Frame.control("gap", {}), True),
    ],
    ids=["wanted", "unwanted", "without a type", "terminal", "control"],
)
def test_a_filter_lets_through_its_types_terminal_events_and_control_frames(one, passes):
    """Without a filter everything passes."""
    assert one.passes(frozenset({"a", "c"})) is passes
    assert one.passes(None) is True


@pytest.mark.parametrize(
    ("one", "name", "fields"),
    [
        (gap_frame("trimmed", ID, EventId(5, 7)), "gap", {"from": "5-1", "to": "5-7", "reason": "trimmed"}),
        (gap_frame("redis", None, None), "gap", {"from": None, "to": None, "reason": "redis"}),
        (gap_frame("redis", None, ID), "gap", {"from": None, "to": "5-1", "reason": "redis"}),
        (gap_frame("redis", ID, None), "gap", {"from": "5-1", "to": None, "reason": "redis"}),
        (resync_frame("unknown"), "resync", {"reason": "unknown"}),
        (end_frame("ready"), "end", {"status": "ready"}),
    ],
)
def test_a_control_frame_says_what_the_protocol_fixes(one, name, fields):
    """It has a name, and no id that a client could take for a cursor."""
    assert (one.name, one.id, one.terminal) == (name, None, False)
    assert json.loads(one.body) == fields


def test_the_final_event_has_a_fixed_spelling():
    """A client that knows no log recognises the end of a job by it."""
    event = final_event(JobId("a"), "failed")
    assert event.id == FINAL
    assert event.body == '{"type": "build.stage.started", "status": "failed", "job_id": "a"}'
    assert event.status == "failed"
