"""No test may leave an error or a traceback in the log (docs/guarantees.md promises that)."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

KNOWN = ("parser failed", "ASGI callable returned without completing handshake.")
"""Errors that a test of their own checks. They are ignored here, or one defect would fail every test."""


def errors(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Returns what was logged as an error so far."""
    return [
        record
        for when in ("setup", "call")
        for record in caplog.get_records(when)
        if record.levelno >= logging.ERROR
    ]


@pytest.fixture(autouse=True)
def nothing_is_logged_as_an_error(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fails the test if anything was logged as an error."""
    yield
    left = [record for record in errors(caplog) if record.getMessage() not in KNOWN]
    assert not left, left
