"""What goes over the control channel: each message is read back as it was, and nothing else is one."""

from __future__ import annotations

import json

import pytest

from hub.errors import InvalidSettings
from hub.job.begun import JobBegun
from hub.job.log_level import LONGEST, LogLevel
from hub.job.question import Answer, Away, Question
from hub.job.revocation import Revocation

MESSAGES = [
    JobBegun("a", "ada"),
    LogLevel("debug", 60.0),
    LogLevel("error", 0.5),
    LogLevel("info", float(LONGEST)),
    Revocation("ada", None, 12.5),
    Revocation("ada", "job-1", 1.0),
    Question("n" * 64, None, 1),
    Question("n", "job-1", 1000),
    Answer("n", "p", {"jobs": []}),
    Away("job-1", None),
    Away(None, "ada"),
    Away("job-1", "ada"),
]


@pytest.mark.parametrize("one", MESSAGES, ids=repr)
def test_a_message_is_read_back_and_only_by_its_own_kind(one):
    assert type(one).parse(one.message()) == one
    kinds = {JobBegun, LogLevel, Revocation, Question, Answer, Away} - {type(one)}
    assert [kind for kind in kinds if kind.parse(one.message()) is not None] == []
    assert Answer.is_one(one.message()) is isinstance(one, Answer)


@pytest.mark.parametrize("kind", [JobBegun, LogLevel, Revocation, Question, Answer, Away])
@pytest.mark.parametrize("data", [b"", b"\xff", b"null", b"[]", b"7", b'"a"', b"{}", b"[" * 100_000])
def test_other_text_is_no_message(kind, data):
    assert kind.parse(data) is None


def broken(one: object) -> list[dict]:
    """The message with each of its members missing, or of another kind."""
    words = json.loads(one.message())
    found = [{name: value for name, value in words.items() if name != left_out} for left_out in words]
    for name in words:
        found += [{**words, name: other} for other in (True, [], {}, "", -1, "no id, for it has blanks")]
    return [other for other in found if other != words]


@pytest.mark.parametrize(
    ("one", "allowed"),
    [
        (JobBegun("a", "ada"), {"user": ["no id, for it has blanks"]}),
        (LogLevel("debug", 60.0), {}),
        (Revocation("ada", "job-1", 12.5), {"revoked": ["no id, for it has blanks"], "at": [-1]}),
        (Question("n", "job-1", 5), {"question": ["no id, for it has blanks"], "job": ["left out"]}),
        (
            Answer("n", "p", {"jobs": []}),
            {
                "answer": ["", "no id, for it has blanks"],
                "process": ["", "no id, for it has blanks"],
                "said": [{}],
            },
        ),
    ],
    ids=lambda one: type(one).__name__,
)
def test_a_member_of_another_kind_makes_it_no_message(one, allowed):
    words = json.loads(one.message())
    for other in broken(one):
        changed = [name for name in words if other.get(name, "left out") != words[name]]
        is_allowed = all(other.get(name, "left out") in allowed.get(name, []) for name in changed)
        found = type(one).parse(json.dumps(other).encode())
        assert (found is not None) is is_allowed, other


def test_away_concerns_whom_it_names():
    assert Away("a", None).concerns("a", "ada")
    assert not Away("a", None).concerns("b", "ada")
    assert Away(None, "ada").concerns("b", "ada")
    assert not Away(None, "ada").concerns("b", "eve")
    assert not Away("a", "ada").concerns("a", "eve")
    assert not Away("a", "ada").concerns("b", "ada")
    for words in ({"job": None, "user": None}, {"job": "a b"}, {"job": None, "user": 7}, {"user": ""}):
        assert Away.parse(json.dumps({"away": words}).encode()) is None


def test_a_question_has_bounds():
    for limit, is_one in ((0, False), (1, True), (1000, True), (1001, False)):
        assert (Question.parse(Question("n", None, limit).message()) is not None) is is_one
    assert Question.parse(Question("n" * 65, None, 5).message()) is None


def test_a_level_has_a_name_and_a_time():
    for name, seconds in (
        ("loud", 1),
        (None, 1),
        ("debug", 0),
        ("debug", True),
        ("debug", "60"),
        ("debug", LONGEST + 1),
        ("debug", float("nan")),
    ):
        with pytest.raises(InvalidSettings):
            LogLevel.of(name, seconds)
    assert LogLevel.of("debug", 1) == LogLevel("debug", 1.0)


def test_a_revocation_is_kept_as_a_member_with_its_time():
    for one in (Revocation("ada", None, 12.5), Revocation("ada", "job-1", 1.0)):
        assert Revocation.of_member(one.member.encode(), one.at) == one
    for member in (
        b"",
        b"\xff",
        b"7",
        b"[]",
        b'["ada"]',
        b'["ada",null,1]',
        b'["",null]',
        b'["ada","a b"]',
        b'["ada",7]',
    ):
        assert Revocation.of_member(member, 1.0) is None, member
    for at in (float("nan"), float("inf"), True, "1", None):
        assert Revocation.of_member(b'["ada",null]', at) is None
    assert Revocation.now("ada", "job-1").job == "job-1"
    for user, job in (("", None), ("ada", "a b"), (7, None)):
        with pytest.raises(InvalidSettings):
            Revocation.now(user, job)
