"""The state of a job: what it says, and that it can always be said."""

from __future__ import annotations

import json

import pytest

from hub.feed.state import MAX_TYPES, State
from hub.job.event import Event, EventId, JobId, UserId
from hub.job.record import Job
from hub.totals import Totals
from hub.transports import sse, websocket

LIMIT = 1 << 20


def made(*bodies: str, public: frozenset[str] = frozenset({"status", "title"})) -> State:
    state = State(JobId("a"), public, limit=LIMIT, totals=Totals())
    state.job = Job(
        JobId("a"), "queued", UserId("ada"), fields={"status": "queued", "title": "T", "secret": "s"}
    )
    for body in bodies:
        state.remember(Event.from_body(None, body.encode()))
    return state


def test_it_says_status_position_public_fields_and_the_last_of_each_type():
    """And nothing that is not public."""
    state = made('{"type":"x","n":1}', '{"type":"y","status":"code"}', '{"type":"x","n":2}')
    assert json.loads(state.text(EventId(5, 2))) == {
        "job_id": "a",
        "status": "code",
        "position": "5-2",
        "attempt": 1,
        "job": {"status": "code", "title": "T"},
        "last": {"x": {"type": "x", "n": 2}, "y": {"type": "y", "status": "code"}},
    }


def test_a_lost_log_takes_what_was_remembered_from_it():
    """The hash is what is left."""
    state = made('{"type":"x","status":"code"}')
    state.forget(state.job)
    assert json.loads(state.text(None))["status"] == "queued"
    assert json.loads(state.text(None))["last"] == {}


def test_types_beyond_the_bound_are_not_kept():
    """Those whose last event is the oldest leave, and the state says so."""
    state = made(*(f'{{"type":"t{n}"}}' for n in range(MAX_TYPES)), '{"type":"t0","n":1}')
    assert "truncated" not in json.loads(state.text(None))
    state.remember(Event.from_body(None, b'{"type":"new"}'))
    text = json.loads(state.text(None))
    assert text["truncated"] is True
    assert len(text["last"]) == MAX_TYPES
    assert "t1" not in text["last"]
    assert text["last"]["t0"] == {"type": "t0", "n": 1}


def test_it_has_as_many_bytes_as_a_window_at_most():
    """The oldest types leave; one that is larger than all that is not kept at all."""
    state = made()
    for n in range(20):
        state.remember(Event.from_body(None, json.dumps({"type": f"t{n}", "x": "é" * 50_000}).encode()))
        assert len(state.text(None).encode()) <= LIMIT + 500
    assert state._totals.state_bytes <= LIMIT
    last = json.loads(state.text(None))["last"]
    assert list(last)[-1] == "t19"
    assert 2 < len(last) < 20
    state.remember(Event.from_body(None, json.dumps({"type": "t19", "x": "x" * 2 * LIMIT}).encode()))
    without = json.loads(state.text(None))["last"]
    assert list(without) == list(last)[:-1]
    state.clear()
    assert state._totals.state_bytes == 0


@pytest.mark.parametrize("body", ['{"status":"\\ud800"}', '{"type":"\\ud800"}', '{"type":"x","a":"\\udfff"}'])
@pytest.mark.parametrize("encode", [sse.encode, websocket.encode])
def test_whatever_a_producer_wrote_the_state_can_be_sent(body, encode):
    """A lone surrogate escape is valid JSON; it must not end the feed, or the state endpoint, with an exception."""
    encode(made(body).frame(None))


def test_an_event_without_a_type_is_no_part_of_the_state():
    """Its status is."""
    state = made('{"status":"code"}', "no object")
    assert json.loads(state.text(None))["last"] == {}
    assert state.status == "code"


def test_a_hash_that_was_read_with_a_lost_log_takes_the_place_of_the_old_one():
    """Without a hash the old one stays, and what was last said of the status."""
    state = made('{"type":"x","status":"code"}')
    state.forget(None)
    assert (state.status, state.job is not None) == ("code", True)
    state.forget(Job(JobId("a"), "again", UserId("ada"), fields={"title": "new"}))
    assert state.status == "again"
    assert json.loads(state.text(None))["job"] == {"status": "again", "title": "new"}


def recalled(state: State, *bodies: str) -> dict:
    state.recall([Event.from_body(None, body.encode()) for body in bodies])
    return json.loads(state.text(None))


def test_older_events_say_what_no_newer_one_did():
    state = made('{"type":"x","n":9,"status":"code"}')
    said = recalled(
        state, '{"type":"y","n":1}', '{"type":"z","n":2,"status":"old"}', '{"type":"x"}', '{"type":"y","n":3}'
    )
    assert said["last"] == {
        "z": {"type": "z", "n": 2, "status": "old"},
        "y": {"type": "y", "n": 3},
        "x": {"type": "x", "n": 9, "status": "code"},
    }
    assert said["status"] == "code"
    assert "truncated" not in said
    assert state._totals.state_bytes == state._size == sum(event.size for event in state._last.values())


def test_older_events_are_the_first_to_go():
    state = made(*(f'{{"type":"new{n}"}}' for n in range(MAX_TYPES - 1)))
    said = recalled(state, '{"type":"a"}', '{"type":"b"}')
    assert said["truncated"]
    assert list(said["last"])[:2] == ["b", "new0"]
    state = made('{"type":"new"}')
    said = recalled(state, '{"type":"a"}', '{"type":"huge","x":"%s"}' % ("x" * LIMIT))
    assert said["truncated"]
    assert list(said["last"]) == ["a", "new"]


def test_it_says_that_older_events_were_not_read():
    state = made('{"type":"new"}')
    state.cut()
    assert json.loads(state.text(None))["truncated"]
