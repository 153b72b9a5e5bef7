"""The WebSocket encoder: one flat JSON object per frame, the hub's id first."""

from __future__ import annotations

import json
import random

import pytest

from hub.job.event import Event, EventId, JobId
from hub.job.frame import Frame
from hub.transports.websocket import encode
from tests.unit.job.test_event import ODD_TEXTS, random_json, strict

ID = EventId(1_732_345_000_123, 7)
JOB = JobId("a")


def frame(body: bytes | str, event_id: EventId | None = ID) -> Frame:
    data = body if isinstance(body, bytes) else body.encode()
    return Frame(Event.from_body(event_id, data), event_id=event_id)


def flat(pairs):
    names = [name for name, _ in pairs]
    assert len(names) == len(set(names)), f"a key twice: {names}"
    return dict(pairs)


def read(data: bytes) -> dict:
    """Parse strictly: UTF-8, JSON without NaN, an object, no member of the outer object twice."""
    strict(data.decode())
    value = json.loads(data.decode(), object_pairs_hook=flat)
    assert isinstance(value, dict)
    return value


def test_the_id_is_first_and_the_body_is_the_producers():
    """After the id, the text is the producer's, byte for byte."""
    body = '{"type":"x", "n":1.50, "text":"é\\u2028"}'
    assert encode(frame(body)) == b'{"id":"1732345000123-7",' + body[1:].encode()


def test_without_an_id_the_body_travels_as_it_is():
    """An event of a foreign producer in a job with a shared log has no id."""
    assert encode(frame('{"type":"x"}', None)) == b'{"type":"x"}'


@pytest.mark.parametrize("body", ["{}", " { } ", "\n{\n}\n", "\t{\r\n\t}"])
@pytest.mark.parametrize("job", [None, JOB])
def test_an_empty_object_gets_no_stray_comma(body, job):
    """`{}` becomes an object with the id alone."""
    assert read(encode(frame(body), job)) == {"id": str(ID), **({"job_id": "a"} if job else {})}
    assert read(encode(frame(body, None), job)) == ({"job_id": "a"} if job else {})


@pytest.mark.parametrize("job", [None, JOB])
def test_pretty_printed_json_stays_valid(job):
    """Newlines between tokens stay, because they are valid JSON."""
    body = json.dumps({"type": "x", "a": [1, {"b": "c\nd"}]}, indent=2)
    value = read(encode(frame("\r\n" + body + "\n"), job))
    assert value["id"] == str(ID)
    assert (value["type"], value["a"]) == ("x", [1, {"b": "c\nd"}])


@pytest.mark.parametrize("own", ['"5-5"', "5", "null", '{"x":1}', '"id"'])
@pytest.mark.parametrize("event_id", [ID, None])
def test_a_producers_own_id_never_stands_for_ours(own, event_id):
    """Clients' parsers keep the last of duplicate keys, so the producer's `id` is removed."""
    value = read(encode(frame(f'{{"type":"x","id":{own},"a":1}}', event_id)))
    assert value.get("id") == (str(ID) if event_id else None)
    assert (value["type"], value["a"]) == ("x", 1)


def test_our_message_on_the_channel_gives_each_key_once():
    """From Redis to the socket, the id is removed once and added once."""
    event = Event.from_message(b'{"id":"17-3","type":"x","job_id":"a"}')
    assert encode(Frame(event, event_id=event.id)) == b'{"id":"17-3","type":"x","job_id":"a"}'


@pytest.mark.parametrize(
    "body", ["", "hello", "[1]", "null", '"text"', '{"a":NaN}', "a\nb\0", *ODD_TEXTS], ids=repr
)
def test_what_is_no_object_is_raw(body):
    """Text that is not an object becomes `{"type":"raw","data":...}`, with the id if there is one.

    A byte order mark in front of it is dropped.
    """
    text = body.removeprefix("\ufeff")
    assert read(encode(frame(body))) == {"id": str(ID), "type": "raw", "data": text}
    assert read(encode(frame(body, None), JOB)) == {"type": "raw", "data": text, "job_id": "a"}


def test_bytes_that_are_not_utf8_leave_as_utf8():
    """Bytes of a producer that are not UTF-8 are sent as U+FFFD."""
    assert read(encode(frame(b"\xff"))) == {"id": str(ID), "type": "raw", "data": "�"}
    assert read(encode(frame(b'{"a":"\xff"}')))["a"] == "�"


@pytest.mark.parametrize("name", ["heartbeat", "gap", "resync", "state", "end"])
def test_control_frames_have_their_name_as_type(name):
    """A control frame has its name as `type` and no id."""
    assert read(encode(Frame.control(name, {"reason": "r"}))) == {"type": name, "reason": "r"}
    assert read(encode(Frame.control(name, {}), JOB)) == {"type": name, "job_id": "a"}


def test_a_state_frame_tells_its_position_in_the_body():
    """A `state` frame has a `position` and no `id`, because only events have ids."""
    state = Frame(Event(None, '{"job_id":"a","position":"1-2"}', {"job_id": "a"}), event_id=ID, name="state")
    assert read(encode(state)) == {"type": "state", "job_id": "a", "position": "1-2"}
    assert read(encode(state, JOB)) == {"type": "state", "job_id": "a", "position": "1-2"}


@pytest.mark.parametrize("own", ['"b"', "5", "null", '["a"]'])
def test_on_a_dashboard_job_id_is_the_job_it_came_from(own):
    """The hub's `job_id` replaces what the producer wrote."""
    assert read(encode(frame(f'{{"type":"x","job_id":{own}}}'), JOB))["job_id"] == "a"


def test_on_a_dashboard_the_right_job_id_is_not_repeated():
    """If the publisher's `job_id` is right, it is not added again."""
    body = '{"type":"x","job_id":"a"}'
    assert encode(frame(body), JOB) == b'{"id":"1732345000123-7",' + body[1:].encode()


def test_a_job_id_that_comes_twice_is_the_jobs():
    """If a producer wrote `job_id` twice, the frame has the hub's alone."""
    data = encode(frame('{"job_id":"b","job_id":"a","type":"x"}'), JOB)
    assert json.loads(data)["job_id"] == "a"


@pytest.mark.parametrize("own", ["", ',"id":"mine"', ',"job_id":"b"'])
def test_every_json_value_survives(own):
    """Seeded values read back unchanged, with and without a change to the producer's text."""
    rng = random.Random(11)
    for _ in range(200):
        fields = {"type": "x", "v": random_json(rng)}
        body = json.dumps(fields, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 1]))
        value = read(encode(frame(body.rstrip().removesuffix("}") + own + "}"), JOB))
        assert value == {"id": str(ID), **fields, "job_id": "a"}


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" + "0" * 400 + ".0"])
@pytest.mark.parametrize("own", ["", ',"id":"mine"', ',"job_id":"b"'])
def test_a_number_beyond_a_float_is_still_json(number, own):
    """JSON has no largest number, but `Infinity` would break browsers' parsers."""
    data = encode(frame(f'{{"type":"x","n":{number}{own}}}'), JOB)
    strict(data)


def test_a_lone_surrogate_escape_is_still_text():
    r"""`\ud800` is valid JSON and stays an escape on the wire."""
    for own in ("", ',"id":"mine"'):
        data = encode(frame(f'{{"type":"x","a":"\\ud800"{own}}}'))
        assert json.loads(data.decode())["a"] == "\ud800"


@pytest.mark.parametrize("job", [None, JOB])
def test_what_is_nested_too_deep_is_raw(job):
    """64 levels are an event, also with an id that has to give way; one more is text, as what is not JSON."""
    for levels in (63, 64):
        body = '{"id":"mine","a":' + "[" * (levels - 1) + "]" * (levels - 1) + "}"
        assert read(encode(frame(body), job))["id"] == str(ID)
        assert "data" not in read(encode(frame(body), job))
    for levels in (65, 990, 100_000):
        body = '{"id":"mine","job_id":"b","a":' + "[" * (levels - 1) + "]" * (levels - 1) + "}"
        ours = {"job_id": "a"} if job else {}
        assert read(encode(frame(body), job)) == {"id": str(ID), "type": "raw", "data": body, **ours}
