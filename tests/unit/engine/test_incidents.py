"""The hub's last warnings are kept, without credentials; other lines are not."""

from __future__ import annotations

import logging

import pytest

from hub.engine.incidents import LONGEST, REMEMBERED, Incidents
from hub.redaction import Redaction

log_of_a_part = logging.getLogger("hub.test_incidents")


@pytest.fixture
def incidents():
    kept = Incidents(Redaction(["geheim"]))
    yield kept
    kept.close()


def said(incidents: Incidents, limit: int = 1000) -> list[str]:
    return [one["said"] for one in incidents.last(limit)]


def test_warnings_and_errors_are_kept_the_newest_first(incidents):
    log_of_a_part.warning("expected %s, got %d", "one", 2)
    log_of_a_part.error("worse")
    assert said(incidents) == ["worse", "expected one, got 2"]


def test_a_warning_has_its_time_and_its_part(incidents):
    record = logging.makeLogRecord({"name": "hub.feed", "msg": "late", "levelno": 30, "created": 12.5})
    logging.getLogger("hub").handle(record)
    assert incidents.last(1) == [{"at": 12.5, "logger": "hub.feed", "said": "late"}]


def test_other_lines_are_not_kept(incidents, caplog):
    with caplog.at_level(logging.DEBUG, "hub"):
        log_of_a_part.info("all is well")
    logging.getLogger("another").warning("not ours")
    assert said(incidents) == []


def test_credentials_are_not_kept(incidents):
    log_of_a_part.warning("redis://:geheim@host refused")
    assert said(incidents) == ["redis://:***@host refused"]


def test_a_storm_leaves_its_last_lines_and_a_long_line_its_beginning(incidents):
    for number in range(REMEMBERED + 5):
        log_of_a_part.warning("%d", number)
    assert said(incidents) == [str(number) for number in reversed(range(5, REMEMBERED + 5))]
    assert said(incidents, 2) == [str(REMEMBERED + 4), str(REMEMBERED + 3)]
    log_of_a_part.warning("x" * (LONGEST + 1))
    assert said(incidents, 1) == ["x" * LONGEST]


def test_a_line_that_does_not_fit_its_arguments_disturbs_nothing(incidents, monkeypatch):
    handled = []
    monkeypatch.setattr(incidents, "handleError", handled.append)
    record = logging.makeLogRecord({"name": "hub", "msg": "%d", "args": ("one",), "levelno": 30})
    incidents.handle(record)
    assert (said(incidents), handled) == ([], [record])


def test_nothing_is_kept_after_the_end(incidents):
    incidents.close()
    log_of_a_part.warning("too late")
    assert said(incidents) == []
    assert incidents not in logging.getLogger("hub").handlers
