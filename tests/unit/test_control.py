"""What the control channel says, and what it cannot say."""

from __future__ import annotations

import asyncio
import logging

import pytest

from hub.engine.control import Control
from hub.errors import InvalidSettings
from hub.job.begun import JobBegun
from hub.job.log_level import LogLevel
from hub.job.question import Answer, Away, Question
from hub.job.revocation import Revocation
from hub.serve.logs import LogSwitch
from hub.settings import Settings


class Revocations:
    def __init__(self):
        self.added, self.stale = [], 0

    def add(self, one):
        self.added.append(one)

    def missed(self):
        self.stale += 1


class Mine:
    def __init__(self):
        self.begun, self.stale = [], 0

    def heard(self, one):
        self.begun.append(one)

    def missed(self):
        self.stale += 1


class Survey:
    def __init__(self):
        self.heard = []

    def hear(self, data):
        is_ours = (question := Question.parse(data)) is not None or Answer.is_one(data)
        self.heard += [question] if is_ours else []
        return is_ours


@pytest.fixture
def control():
    away = []
    made = Control(Revocations(), Mine(), Survey(), away.append)
    made.away = away
    made.levels = []
    made.on_log_level = made.levels.append
    return made


def test_each_message_goes_to_whom_it_concerns(control):
    control.receive(LogLevel("debug", 60.0).message())
    control.receive(Revocation.now("ada").message())
    control.receive(JobBegun("a", "ada").message())
    control.receive(Away("a", None).message())
    control.receive(Question("n", None, 5).message())
    control.missed()
    assert control.away == [Away("a", None)]
    assert control._survey.heard == [Question("n", None, 5)]
    assert control._mine.begun == [JobBegun("a", "ada")]
    assert control._mine.stale == 1
    assert control.levels == [LogLevel("debug", 60.0)]
    assert [one.user for one in control._revocations.added] == ["ada"]
    assert control._revocations.stale == 1


@pytest.mark.parametrize(
    "data",
    [
        b'{"begun":"a"}',
        b'{"begun":"a","user":""}',
        b'{"begun":"a","user":7}',
        b'{"begun":"a b","user":"ada"}',
        b'{"begun":7,"user":"ada"}',
        b"",
        b"\xff",
        b"[]",
        b"null",
        b'{"log":"debug"}',
        b'{"log":"loud","seconds":1}',
        b'{"log":["debug"],"seconds":1}',
        b'{"log":"debug","seconds":0}',
        b'{"log":"debug","seconds":-1}',
        b'{"log":"debug","seconds":1e999}',
        b'{"log":"debug","seconds":NaN}',
        b'{"log":"debug","seconds":true}',
        b'{"log":"debug","seconds":"60"}',
        b'{"question":1,"job":null,"limit":5}',
        b'{"question":"a","job":"a b","limit":5}',
        b'{"question":"a","job":null,"limit":0}',
        b'{"question":"a","job":null,"limit":1001}',
        b'{"question":"a","job":null,"limit":true}',
        b'{"question":"","job":null,"limit":5}',
        b'{"away":{}}',
        b'{"away":{"job":"a b","user":"ada"}}',
        b'{"away":{"job":null,"user":1}}',
        b'{"away":[]}',
        b"[" * 100_000,
    ],
)
def test_other_text_changes_nothing(control, data):
    """The channel is anybody's who has the Redis."""
    control.receive(data)
    assert (control.levels, control._revocations.added, control.away) == ([], [], [])
    assert (control._survey.heard, control._mine.begun) == ([], [])


def test_a_level_is_checked_before_it_is_said():
    for name, seconds in (("loud", 1), ("debug", 0), ("debug", 86_401), (None, 1)):
        with pytest.raises(InvalidSettings):
            LogLevel.of(name, seconds)


@pytest.fixture
def loggers():
    """The loggers of a hub at warning, with a handler on uvicorn's, as they were."""
    found = [logging.getLogger(name) for name in ("hub", "uvicorn", "uvicorn.access")]
    before = [(one.level, one.handlers) for one in found]
    for one in found:
        one.setLevel("WARNING")
    found[1].handlers = [logging.NullHandler()]
    found[2].handlers = []
    yield found
    for one, (level, handlers) in zip(found, before, strict=True):
        one.setLevel(level)
        one.handlers = handlers


@pytest.mark.looptime
async def test_a_level_lasts_for_its_time(loggers):
    switch = LogSwitch(Settings(log_level="warning"))
    access = loggers[2]

    def levels():
        return {one.level for one in loggers}

    switch.set(LogLevel("debug", 60.0))
    assert levels() == {logging.DEBUG}
    assert access.handlers  # uvicorn writes a line per request
    await asyncio.sleep(40)
    switch.set(LogLevel("debug", 60.0))  # said again: the time begins again
    await asyncio.sleep(40)
    assert levels() == {logging.DEBUG}
    await asyncio.sleep(21)
    assert levels() == {logging.WARNING}
    assert not access.handlers
    switch.set(LogLevel("error", 60.0))
    assert levels() == {logging.ERROR}
    await asyncio.sleep(61)
    assert levels() == {logging.WARNING}
