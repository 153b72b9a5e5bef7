"""The commands of WebSocket clients: parsing, errors, and the rate limit."""

from __future__ import annotations

import json

import pytest

from hub.job.cursor import Wish
from hub.transports.commands import BURST, RATE, Command, Malformed, parse, spend


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ('{"op":"ping"}', Command("ping", None, None, Wish())),
        ('{"op":"ping","ref":1}', Command("ping", 1, None, Wish())),
        ('{"op":"ping","ref":"r","more":[]}', Command("ping", "r", None, Wish())),
        ('{"op":"state","job":"a","ref":1.5}', Command("state", 1.5, "a", Wish())),
        ('{"op":"unsubscribe","job":"a"}', Command("unsubscribe", None, "a", Wish())),
        ('{"op":"subscribe","job":"a"}', Command("subscribe", None, "a", Wish())),
        ('{"op":"subscribe","job":"a","after":"1-2"}', Command("subscribe", None, "a", Wish(cursor="1-2"))),
        ('{"op":"subscribe","job":"a","after":""}', Command("subscribe", None, "a", Wish())),
        ('{"op":"subscribe","job":"a","after":null}', Command("subscribe", None, "a", Wish())),
        ('{"op":"subscribe","job":"a","from":"live"}', Command("subscribe", None, "a", Wish(from_="live"))),
        ('{"op":"subscribe","job":"a","from":"-20"}', Command("subscribe", None, "a", Wish(from_=20))),
        (
            '{"op":"subscribe","job":"a","types":["x","y"]}',
            Command("subscribe", None, "a", Wish(types=frozenset({"x", "y"}))),
        ),
        ('{"op":"subscribe","job":"a","types":[]}', Command("subscribe", None, "a", Wish())),
    ],
)
def test_a_command_is_read(text, command):
    """Every command of docs/protocol.md is parsed; unknown fields are ignored."""
    assert parse(text) == command


@pytest.mark.parametrize(
    ("text", "code", "ref"),
    [
        ("", "malformed", None),
        ("ping", "malformed", None),
        ("null", "malformed", None),
        ("[]", "malformed", None),
        ('"ping"', "malformed", None),
        ("{", "malformed", None),
        ("[" * 100_000, "malformed", None),
        ('{"op":"ping","ref":1,"x":' + "[" * 64 + "]" * 64 + "}", "malformed", None),
        ('{"n":' + "1" * 5000 + "}", "malformed", None),
        ("{}", "unknown_op", None),
        ('{"op":null,"ref":1}', "unknown_op", 1),
        ('{"op":"PING","ref":1}', "unknown_op", 1),
        ('{"op":["ping"],"ref":1}', "unknown_op", 1),
        ('{"op":{},"ref":"r"}', "unknown_op", "r"),
        ('{"op":"ping","ref":[]}', "malformed", None),
        ('{"op":"ping","ref":{}}', "malformed", None),
        ('{"op":"ping","ref":"' + "x" * 129 + '"}', "malformed", None),
        ('{"op":"state","job":5,"ref":1}', "not_found", 1),
        ('{"op":"state","job":"a b","ref":1}', "not_found", 1),
        ('{"op":"state","job":"","ref":1}', "not_found", 1),
        ('{"op":"state","job":"../x","ref":1}', "not_found", 1),
        ('{"op":"subscribe","job":"a","after":5,"ref":1}', "malformed", 1),
        ('{"op":"subscribe","job":"a","from":-20,"ref":1}', "malformed", 1),
        ('{"op":"subscribe","job":"a","types":"x","ref":1}', "malformed", 1),
        ('{"op":"subscribe","job":"a","types":[1],"ref":1}', "malformed", 1),
        ('{"op":"subscribe","job":"a","types":{"x":1},"ref":1}', "malformed", 1),
    ],
)
def test_what_is_no_command_costs_one_error(text, code, ref):
    """The error has the client's `ref`, says what was expected, and repeats none of the input."""
    with pytest.raises(Malformed) as caught:
        parse(text)
    assert (caught.value.code, caught.value.ref) == (code, ref)
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize("ref", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_ref_that_is_no_json_is_never_sent_back(ref):
    """A `ref` that is not JSON would break the client's own parser."""
    try:
        answer = parse(f'{{"op":"ping","ref":{ref}}}').ref
    except Malformed as error:
        answer = error.ref
    json.dumps(answer, allow_nan=False)


def test_an_unknown_job_and_an_impossible_one_are_told_alike():
    """A stranger cannot tell from the error whether a job exists."""
    with pytest.raises(Malformed, match="^Job not found$"):
        parse('{"op":"subscribe","job":"no such/id"}')


def allowed(times, due: float = 0.0) -> list[bool]:
    """For each frame that comes at one of `times`: True if it is within the budget."""
    verdicts = []
    for now in times:
        later = spend(due, now)
        verdicts.append(later is not None)
        due = due if later is None else later
    return verdicts


def test_a_burst_is_allowed_and_no_more():
    """After a burst the budget is used up until time has passed."""
    assert allowed([100.0] * (BURST + 1)) == [True] * BURST + [False]


def test_a_budget_fills_with_time_and_never_beyond_a_burst():
    """The budget grows by `RATE` per second, up to `BURST`."""
    assert allowed([0.0] * BURST + [1 / RATE] * 2) == [True] * BURST + [True, False]
    assert sum(allowed([0.0] * BURST + [10_000.0] * 2 * BURST)[BURST:]) == BURST


def test_the_long_run_is_the_rate():
    """A client that sends at exactly the rate is never refused."""
    assert all(allowed(n / RATE for n in range(5000)))
