"""Event ids, job ids, messages and the catalogue."""

from __future__ import annotations

import json
import random

import pytest

from hub.errors import EventTooLarge, InvalidEvent
from hub.job.catalogue import CATALOGUE, encode
from hub.job.event import (
    FINAL,
    Event,
    EventId,
    JobId,
    body_size,
    checked_job_id,
    job_id,
    without,
)

JOB = JobId("a")
LAST = (1 << 64) - 1

ODD_TEXTS = [
    "",
    " ",
    "\r",
    "\n",
    "\r\n",
    "\n\n",
    "\0",
    "\ufeff",
    "\ufeffx",
    "\u2028",
    "\u2029",
    "\x85",
    "\x7f",
    ": comment",
    "data: x",
    "id: 1-1",
    "é",
    "日本語",
    "👩‍👩‍👧",
    '"\\/',
    "\b\f\t\v",
    "</script>",
    "\U0010ffff",
]


def random_json(rng: random.Random, depth: int = 0):
    """A JSON value of any shape, containing texts that break naive encoders."""
    kind = rng.randrange(9 if depth < 4 else 6)
    if kind == 0:
        return None
    if kind == 1:
        return rng.random() < 0.5
    if kind == 2:
        return rng.choice([0, -1, 2**53, -(2**63), 10**40, rng.randrange(10**9)])
    if kind == 3:
        return rng.choice([0.0, -0.0, 1e-300, 1.7e308, 0.1, rng.random() * 1e6])
    if kind in (4, 5):
        return "".join(rng.choice(ODD_TEXTS) for _ in range(rng.randrange(4)))
    if kind in (6, 7):
        return [random_json(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(ODD_TEXTS) + str(i): random_json(rng, depth + 1) for i in range(rng.randrange(4))}


def strict(text: str | bytes):
    """Parse as a browser's JSON.parse does: no NaN, no Infinity."""

    def refuse(name: str):
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


# --- ids


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "+",
        "$",
        "*",
        "1",
        "1-",
        "-1",
        "1-1-1",
        "01-1",
        "1-01",
        "00-0",
        "+1-1",
        " 1-1",
        "1-1 ",
        "1-1\n",
        "1 - 1",
        "1_0-1",
        "a-b",
        "1-*",
        "0x1-1",
        "1.0-1",
        "١-١",
        "²-1",
        "1–1",
        f"{LAST + 1}-0",
        f"0-{LAST + 1}",
        "9" * 5000 + "-0",
        "(1-1",
        "1-1,2-2",
        "null",
    ],
)
def test_what_is_not_an_id_is_unknown(text):
    """Any text other than two canonical unsigned 64-bit numbers gives None, never an error."""
    assert EventId.parse(text) is None


@pytest.mark.parametrize("text", ["0-0", "0-1", "1-0", "1732345000123-7", f"{LAST}-{LAST}"])
def test_an_id_is_read_back_as_it_is_written(text):
    """`str` and `parse` are inverse to each other."""
    assert str(EventId.parse(text)) == text


def test_ids_are_ordered_as_redis_orders_them():
    """Ids compare by epoch, then by sequence number, as numbers and not as text."""
    ids = [EventId(1, 2), EventId(1, 10), EventId(2, 0), EventId(10, 0)]
    assert sorted([ids[2], ids[0], ids[3], ids[1]]) == ids


@pytest.mark.parametrize(
    "one", [EventId(5, 0), EventId(5, 7), EventId(5, LAST), EventId(1, 0), EventId(0, 1)]
)
def test_next_and_previous_are_inverse_over_borders(one):
    """No id exists between an id and its neighbours, also across the border of two epochs."""
    assert one.previous < one < one.next
    assert one.previous.next == one
    assert one.next.previous == one


def test_an_epoch_begins_after_the_last_id_of_the_one_before():
    """`E-0` follows the last possible id of epoch `E - 1`."""
    assert EventId(5, 0).previous == EventId(4, LAST)
    assert EventId(4, LAST).next == EventId(5, 0)


@pytest.mark.parametrize("text", ["a", "a-b_c.d:e@f~g", "0" * 128, "550e8400-e29b-41d4-a716-446655440000"])
def test_job_ids_that_fit_a_key_are_taken(text):
    """Letters, digits and a few marks are allowed."""
    assert job_id(text) == text


@pytest.mark.parametrize(
    "text", ["", "0" * 129, "a b", "a\n", "a/b", "a{b}", "é", "a*", "a\0", "..%2f", "a,b", "a?b", "a#b"]
)
def test_other_job_ids_are_unknown(text):
    """A text that a key, a URL or a log line could misread is not a job id."""
    assert job_id(text) is None


# --- messages


def test_our_message_has_its_id_taken_off():
    """The script's id is removed; the body is what the producer wrote."""
    event = Event.from_message(b'{"id":"17-3","type":"x","status":"code","a":1}')
    assert event.id == EventId(17, 3)
    assert event.body == '{"type":"x","status":"code","a":1}'
    assert (event.type, event.status) == ("x", "code")
    assert event.fields == {"type": "x", "status": "code", "a": 1}


def test_our_message_may_be_empty_but_for_its_id():
    """`{"id":"1-0"}` is an event with the id 1-0 and no fields."""
    event = Event.from_message(b'{"id":"1-0"}')
    assert (event.id, event.body, event.fields) == (EventId(1, 0), "{}", {})


@pytest.mark.parametrize(
    "data",
    [
        b'{"id": "17-3","type":"x"}',
        b'{"type":"x","id":"17-3"}',
        b' {"id":"17-3","type":"x"}',
        b'{"id":17,"type":"x"}',
        b'{"id":"17-3" ,"type":"x"}',
        b'{"id":"17-3", "type":"x"}',
        b'{"id":"abc","type":"x"}',
        b'{"id":"17-3-1","type":"x"}',
        b'{"id":"","type":"x"}',
        b'{"id":"' + b"1" * 21 + b'-0","type":"x"}',
    ],
)
def test_a_foreign_id_is_the_producers_own(data):
    """Only the exact spelling of the publish script is an event id; any other `id` stays in the body."""
    event = Event.from_message(data)
    assert event.id is None
    assert event.body.encode() == data
    assert event.fields == json.loads(data)


@pytest.mark.parametrize("number", [f"{LAST + 1}-0", "007-1"])
def test_an_impossible_id_costs_no_event(number):
    """An id that Redis cannot have given, in the script's spelling: the event is kept, without an id."""
    event = Event.from_message(b'{"id":"%b","type":"x"}' % number.encode())
    assert event.id is None
    assert event.type == "x"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"null",
        b"1",
        b"[1]",
        b'"text"',
        b"{",
        b'{"a":1',
        b'{"a":1}{"b":2}',
        b"{'a':1}",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":"\n"}',
        b'{"a":1,}',
        b"\0",
        b'{"a":' + b"1" * 5000 + b"}",
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    ],
    ids=range(19),
)
def test_what_is_no_json_object_is_raw_and_never_raises(data):
    """JSON is read as strictly as browsers read it; any other message is text."""
    event = Event.from_message(data)
    assert event.fields is None
    assert (event.type, event.status) == (None, None)
    assert event.body.encode() == data


def test_bytes_that_are_not_utf8_are_replaced():
    """U+FFFD replaces bytes that are not UTF-8; the other text stays, and is still parsed as JSON."""
    event = Event.from_message(b'{"id":"1-2","type":"x","a":"\xff\xfeb"}')
    assert event.id == EventId(1, 2)
    assert event.fields == {"type": "x", "a": "��b"}
    event.body.encode()


def test_the_last_of_duplicate_keys_counts():
    """Viewers' JSON parsers read duplicates the same way; the body keeps both."""
    event = Event.from_message(b'{"type":"x","type":"y"}')
    assert event.type == "y"
    assert event.body == '{"type":"x","type":"y"}'


def test_type_and_status_are_text_or_nothing():
    """A `type` or `status` that is not a string counts as absent."""
    event = Event.from_message(b'{"type":5,"status":["ready"]}')
    assert (event.type, event.status) == (None, None)


def test_line_separators_are_not_touched():
    """U+2028, NUL escapes and white space stay as the producer wrote them."""
    data = '{\n  "a": "\u2028",\r\n "b": "\\u0000"\n}'.encode()
    event = Event.from_message(data)
    assert event.body.encode() == data
    assert event.fields == {"a": "\u2028", "b": "\0"}


# --- new events


def test_the_catalogue_holds_what_was_asked_for():
    """The catalogue has the four types that the protocol fixes, and the answers to commands."""
    assert set(CATALOGUE) == {
        "build.stage.started",
        "build.stage.completed",
        "snapshot.updated",
        "documentation.updated",
        "command.done",
        "command.refused",
    }


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        ("build.stage.started", {"stage": 5}, "build.stage.started: stage: "),
        ("build.stage.started", {"status": ["ready"]}, "build.stage.started: status: "),
        ("build.stage.completed", {}, "build.stage.completed: stage: Field required"),
        ("build.stage.completed", {"stage": "a", "duration": -1}, "duration: "),
        ("build.stage.completed", {"stage": "a", "duration": float("nan")}, "duration: "),
        ("build.stage.completed", {"stage": "a", "duration": "long"}, "duration: "),
        ("snapshot.updated", {}, "snapshot.updated: url: Field required"),
        ("documentation.updated", {"section": "a"}, "documentation.updated: content: Field required"),
    ],
)
def test_a_malformed_typed_event_says_which_field_is_wrong(kind, fields, words):
    """The error text names the type and the field."""
    with pytest.raises(InvalidEvent) as caught:
        encode(JOB, kind, fields)
    assert words in str(caught.value)


CYCLE: dict = {}
CYCLE["again"] = CYCLE
DEEP: list = []
for _ in range(5000):
    DEEP = [DEEP]

ODD_VALUES = {
    "nan": float("nan"),
    "infinity": float("-inf"),
    "surrogate": "\ud800",
    "nested surrogate": [{"x": "a\udfff"}],
    "object": object(),
    "complex": 1j,
    "cycle": CYCLE,
    "deep": DEEP,
}


@pytest.mark.parametrize("kind", ["mine", "build.stage.started"])
@pytest.mark.parametrize("value", ODD_VALUES.values(), ids=ODD_VALUES.keys())
def test_what_is_not_json_is_refused_in_one_way(kind, value):
    """Raises InvalidEvent for types of the catalogue and for other types, never the encoder's own error."""
    with pytest.raises(InvalidEvent):
        encode(JOB, kind, {"extra": value})


@pytest.mark.parametrize("kind", ["mine", "snapshot.updated"])
def test_the_id_is_the_hubs_to_give(kind):
    """A field named `id` is refused, whatever its value is."""
    with pytest.raises(InvalidEvent, match="id"):
        encode(JOB, kind, {"url": "/", "id": None})


def test_an_event_has_a_type():
    """An empty type is refused."""
    with pytest.raises(InvalidEvent):
        encode(JOB, "", {})


def test_type_and_job_id_cannot_be_contradicted():
    """The arguments replace fields named `type` and `job_id`."""
    body = encode(JOB, "mine", {"type": "other", "job_id": "b", "a": 1})
    assert json.loads(body) == {"type": "mine", "a": 1, "job_id": "a"}


def test_size_is_counted_in_bytes_and_the_limit_itself_fits():
    """A body of exactly `limit` bytes is allowed; `é` counts as two bytes."""
    body = encode(JOB, "mine", {"text": "é" * 100})
    size = len(body.encode())
    assert encode(JOB, "mine", {"text": "é" * 100}, limit=size) == body
    with pytest.raises(EventTooLarge) as caught:
        encode(JOB, "mine", {"text": "é" * 100}, limit=size - 1)
    assert str(size) in str(caught.value)


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_every_text_survives_typed_fields(text):
    """Typed fields with any text read back unchanged."""
    body = encode(JOB, "documentation.updated", {"section": text, "content": text, "own": {"n": None}})
    assert strict(body) == {
        "type": "documentation.updated",
        "section": text,
        "content": text,
        "own": {"n": None},
        "job_id": "a",
    }


@pytest.mark.parametrize("kind", ["mine", "build.stage.started"])
def test_every_json_value_survives_the_way(kind):
    """Seeded JSON values read back unchanged, with and without an event id in the message."""
    rng = random.Random(7)
    for round_ in range(300):
        fields = {f"f{i}": random_json(rng) for i in range(rng.randrange(5))}
        if kind != "mine":
            fields = {name: value for name, value in fields.items() if value is not None}
        body = encode(JOB, kind, fields)
        expected = {"type": kind, **fields, "job_id": "a"}
        assert strict(body) == expected
        event = Event.from_message(f'{{"id":"9-{round_}",{body[1:]}'.encode())
        assert event.id == EventId(9, round_)
        assert event.body == body
        assert event.fields == expected
        assert "\n" not in body and "\r" not in body


def test_unknown_types_and_fields_pass_untouched():
    """A type outside the catalogue is not checked, and its fields stay as they are."""
    assert strict(encode(JOB, "x.y", {"deep": {"a": [1, None]}})) == {
        "type": "x.y",
        "deep": {"a": [1, None]},
        "job_id": "a",
    }


def test_the_final_id_is_before_every_other():
    """Redis never gives the id `0-0`, so it can stand for the hub's own event."""
    assert EventId.parse("0-0") == FINAL
    assert EventId(0, 1) > FINAL


@pytest.mark.parametrize(
    ("data", "event_id", "size"),
    [
        (b'{"id":"17-3","type":"x"}', EventId(17, 3), len(b'{"type":"x"}')),
        (b'{"id":"17-3"}', EventId(17, 3), len(b"{}")),
        (b'{"type":"x"}', None, len(b'{"type":"x"}')),
        (b"text", None, 4),
        (b'{"id":"99999999999999999999-0"}', None, 31),
    ],
)
def test_the_id_and_the_size_of_a_message_are_known_without_reading_it(data, event_id, size):
    """The size is that of the body, which the limit for events is about."""
    assert EventId.of_message(data) == event_id
    assert body_size(data) == size == len(Event.from_message(data).body)


def test_a_producer_is_told_what_is_wrong_with_its_job_id():
    """A good one is given back."""
    assert checked_job_id("a-1") == "a-1"
    with pytest.raises(InvalidEvent, match="got 'a b'"):
        checked_job_id("a b")


@pytest.mark.parametrize(
    ("body", "rest"),
    [
        ('{"a":1,"job_id":"x","b":{"job_id":2}}', '{"a":1,"b":{"job_id":2}}'),
        ('{"job_id":"x"}', "{}"),
        ("{}", "{}"),
        (' {\t"a" :\r\n [1, 2] , "b":2 }', '{"a" :\r\n [1, 2],"b":2}'),
        ('\n{ "type" : "t", "a":"\\"}, {" }', '{"a":"\\"}, {"}'),
        ('{"a":1e5,"a":1.0}', '{"a":1e5,"a":1.0}'),
    ],
)
def test_members_are_taken_out_and_the_others_stay_as_they_were_written(body, rest):
    """Numbers, white space in values, and names that stand twice."""
    assert without(body, {"job_id", "type"}) == rest
