"""One cause is one line a second at most, and what was left out is counted."""

from __future__ import annotations

import itertools
import logging

import pytest

from hub import quiet

names = itertools.count()


@pytest.fixture
def clock(monkeypatch):
    """Monotonic seconds, set by the test."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(quiet.time, "monotonic", lambda: Clock.now)
    return Clock


@pytest.fixture
def log():
    return quiet.quiet_log(f"hub.test-{next(names)}")


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_a_storm_is_one_line_a_second_with_a_count(clock, log, caplog):
    """However its arguments differ."""
    for number in range(10):
        log.warning("job %d: Redis is away", number)
    clock.now += 1
    log.warning("job %d: Redis is away", 10)
    assert lines(caplog) == [
        "job 0: Redis is away",
        "job 10: Redis is away (and 9 more of these since the last)",
    ]


def test_another_cause_is_not_hidden(clock, log, caplog):
    """Each template is counted by itself."""
    log.warning("one")
    log.warning("two")
    log.warning("one")
    assert lines(caplog) == ["one", "two"]


def test_a_traceback_survives(clock, log, caplog):
    """An error inside is said with where it was."""
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("it failed")
    assert caplog.records[0].levelno == logging.ERROR
    assert "why" in caplog.text
