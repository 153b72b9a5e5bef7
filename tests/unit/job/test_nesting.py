"""The limit on nesting, which is ours and not the interpreter's."""

from __future__ import annotations

import json
import random

import pytest

from hub.errors import InvalidEvent
from hub.job.catalogue import encode
from hub.job.event import Event, JobId, dumps
from hub.job.nesting import MAX_DEPTH, is_too_deep
from tests.unit.job.test_event import random_json

JOB = JobId("a")

LEVELS = {
    "arrays": ("[", "]"),
    "objects": ('{"a":', "}"),
    "arrays with white space": (" [\n", "\t] "),
    "after strings with brackets": ('["]]}", ', "]"),
    "after an escaped quote": (r'["\"]", ', "]"),
    "after an escaped backslash": (r'["\\", ', "]"),
    "after both": (r'["\\\"]", ', "]"),
    "under names with brackets": ('{"]":', "}"),
}


@pytest.mark.parametrize(("before", "after"), LEVELS.values(), ids=LEVELS.keys())
def test_the_limit_is_inclusive(before, after):
    """64 levels pass, 65 do not, whatever stands beside them."""
    fits = before * MAX_DEPTH + "1" + after * MAX_DEPTH
    assert json.loads(fits)
    assert not is_too_deep(fits)
    assert is_too_deep("[" + fits + "]")
    assert is_too_deep('{"a":' + fits + "}")


@pytest.mark.parametrize(
    "text",
    [
        json.dumps("[" * 1000),
        json.dumps({"[" * 1000: '{"' * 1000}),
        json.dumps(['\\"[' * 1000]),
        json.dumps([[{}]] * 1000),
        '"' + "[" * 1000,
        '"' + '\\"[' * 1000,
        "]" * 1000 + "[" * 64,
        "é\ud800" + "[]" * 1000,
    ],
    ids=repr,
)
def test_brackets_that_open_no_level_are_not_counted(text):
    """In strings, ended or not, and of levels that are closed again."""
    assert not is_too_deep(text)


@pytest.mark.parametrize("text", ["[" * 65, '{"a":' * 65, "[{" * 33, '["]",' * 65, "[" * 1_000_000], ids=len)
def test_what_is_never_closed_is_deep_all_the_same(text):
    """A parser would open as many levels before it sees that the text is no JSON."""
    assert is_too_deep(text)


def depth(value: object) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


def test_the_count_is_that_of_the_parsed_value():
    """Seeded values of any text, wrapped until they have 64 and 65 levels."""
    rng = random.Random(5)
    for _ in range(200):
        value = [random_json(rng) for _ in range(30)]
        while depth(value) < MAX_DEPTH:
            value = rng.choice([[value], {'"}\\': value}, ["[", value, "\\"]])
        text = json.dumps(value, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 1]))
        assert not is_too_deep(text)
        assert is_too_deep(f"[{text}]")


def nested(levels: int) -> list:
    """`levels` arrays, one in the other."""
    value: list = []
    for _ in range(levels - 1):
        value = [value]
    return value


@pytest.mark.parametrize("kind", ["mine", "build.stage.started"])
def test_our_publisher_refuses_what_the_hub_would_not_read(kind):
    """The same limit on both sides; the event itself is a level."""
    body = encode(JOB, kind, {"extra": nested(MAX_DEPTH - 1)})
    assert Event.from_body(None, body.encode()).fields == json.loads(body)
    for levels in (MAX_DEPTH, 500, 5000, 100_000):
        with pytest.raises(InvalidEvent, match="expected at most 64 levels of arrays and objects, got more"):
            encode(JOB, kind, {"extra": nested(levels)})


def test_dumps_refuses_the_same():
    """Whoever uses it."""
    assert dumps({"a": nested(63)})
    with pytest.raises(InvalidEvent):
        dumps({"a": nested(64)})


@pytest.mark.parametrize("levels", [65, 500, 990, 5000, 100_000])
def test_a_deeper_message_is_text(levels):
    """As what is not JSON: its bytes stay, its fields are not read, its status ends nothing."""
    data = b'{"type":"x","status":"ready","a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"
    event = Event.from_message(data)
    assert (event.body.encode(), event.fields, event.type, event.status) == (data, None, None, None)
    ours = Event.from_message(b'{"id":"1-0",' + data[1:])
    assert (str(ours.id), ours.body.encode(), ours.fields) == ("1-0", data, None)
