"""No test may leave an error or a traceback in the log (docs: "and no traceback was logged")."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

KNOWN = ("parser failed", "ASGI callable returned without completing handshake.")
"""Each has a law of its own, so that one defect does not fail every test."""


def errors(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What was logged as an error so far."""
    return [
        record
        for when in ("setup", "call")
        for record in caplog.get_records(when)
        if record.levelno >= logging.ERROR
    ]


@pytest.fixture(autouse=True)
def nothing_is_logged_as_an_error(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """See above."""
    yield
    left = [record for record in errors(caplog) if record.getMessage() not in KNOWN]
    assert not left, left
