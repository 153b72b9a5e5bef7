"""A log that can be read at 3 a.m.: one cause is one line a second at most, and the next line says how many there were.

Redis flapping under a thousand watched jobs would otherwise be a thousand lines a second, and hide what else is wrong.
"""

from __future__ import annotations

import logging
import time

INTERVAL = 1.0
"""Seconds between two lines of one cause."""


def quiet_log(name: str) -> logging.Logger:
    """The logger `name`, for a module whose lines may come in storms."""
    log = logging.getLogger(name)
    log.addFilter(_Quiet())
    return log


class _Quiet(logging.Filter):
    """The cause is a line's template, before its arguments are filled in; there are as many as there are log calls."""

    def __init__(self) -> None:
        super().__init__()
        # When last (monotonic), and how often it was left out since.
        self._said: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        last, left_out = self._said.get(record.msg, (-INTERVAL, 0))
        if now - last < INTERVAL:
            self._said[record.msg] = last, left_out + 1
            return False
        self._said[record.msg] = now, 0
        if left_out:
            record.msg += f" (and {left_out} more of these since the last)"
        return True
