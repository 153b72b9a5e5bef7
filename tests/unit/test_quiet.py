"""One cause is one line a second at most, and what was left out is counted."""

from __future__ import annotations

import asyncio
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
        "job 10: Redis is away (and 9 more of these since the last, of jobs 1, 2, 3, 4, 5 and others)",
    ]


def test_the_count_begins_anew(clock, log, caplog):
    """Each line says what was left out since the one before."""
    for number in (0, 1, 2):
        log.warning("job %d: Redis is away", number)
    clock.now += 1
    log.warning("job %d: Redis is away", 3)
    clock.now += 1
    log.warning("job %d: Redis is away", 4)
    assert lines(caplog)[1:] == [
        "job 3: Redis is away (and 2 more of these since the last, of jobs 1, 2)",
        "job 4: Redis is away",
    ]


def test_the_job_is_found_among_other_arguments(clock, log, caplog):
    """Whatever stands before it, and a percent sign in a name breaks nothing."""
    for job in ("a", "b%s", "b%s"):
        log.warning("%s of job %s was not published: %s", "x", job, "why")
    clock.now += 1
    log.warning("%s of job %s was not published: %s", "y", "c", "why")
    assert lines(caplog)[1] == (
        "y of job c was not published: why (and 2 more of these since the last, of jobs b%s)"
    )


async def test_what_was_left_out_is_told_although_nothing_follows(log, caplog, monkeypatch):
    """A storm that ends within its second is known in full."""
    monkeypatch.setattr(quiet, "INTERVAL", 0.02)
    told = asyncio.Event()
    monkeypatch.setattr(log, "handle", lambda record, handle=log.handle: (handle(record), told.set()))
    for number in range(4):
        log.warning("job %d: Redis is away", number)
    told.clear()
    await asyncio.wait_for(told.wait(), 10)
    assert lines(caplog) == [
        "job 0: Redis is away",
        "job 3: Redis is away (and 2 more of these since the last, of jobs 1, 2, 3)",
    ]


async def test_one_line_that_was_left_out_comes_later_as_it_is(log, caplog, monkeypatch):
    """Without a count, and neither an error nor its traceback is kept for it."""
    monkeypatch.setattr(quiet, "INTERVAL", 0.02)
    told = asyncio.Event()
    monkeypatch.setattr(log, "handle", lambda record, handle=log.handle: (handle(record), told.set()))
    for name in ("a", "b"):
        try:
            raise ValueError(name)
        except ValueError:
            log.exception("the feed of job %s failed", name)
    told.clear()
    await asyncio.wait_for(told.wait(), 10)
    assert lines(caplog) == ["the feed of job a failed", "the feed of job b failed"]
    assert [record.exc_info is None for record in caplog.records] == [False, True]
    assert caplog.records[1].args is None


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
