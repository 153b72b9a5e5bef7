"""A log that stays readable in a storm: a kind of line appears once a second at most, the rest are counted.

With a thousand watched jobs, a Redis that flaps would otherwise write a thousand lines a second and hide
every other problem.
"""

from __future__ import annotations

import logging
import time

INTERVAL = 1.0
"""Seconds between two lines of one kind."""


def quiet_log(name: str) -> logging.Logger:
    """Returns the logger `name`, limited to one line a second of each kind."""
    logger = logging.getLogger(name)
    logger.addFilter(_Quiet())
    return logger


class _Quiet(logging.Filter):
    """Lines of one template (`record.msg`) are of one kind; there are as many kinds as log calls."""

    def __init__(self) -> None:
        super().__init__()
        # Template -> when it was last logged (monotonic), and how many lines of it were dropped since.
        self._said: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        last, dropped = self._said.get(record.msg, (-INTERVAL, 0))
        if now - last < INTERVAL:
            self._said[record.msg] = last, dropped + 1
            return False
        self._said[record.msg] = now, 0
        if dropped:
            record.msg += f" (and {dropped} more of these since the last)"
        return True
