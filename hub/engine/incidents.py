"""The warnings that the hub has logged last, for an operator who comes later."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

from hub.redaction import Redaction

REMEMBERED = 100
"""Warnings that are kept."""

LONGEST = 500
"""Characters of a warning that are kept."""


class Incidents(logging.Handler):
    """Keeps the warnings and errors of the loggers below `hub`, from `start` to `close`."""

    def __init__(self, redaction: Redaction) -> None:
        super().__init__(logging.WARNING)
        self._redaction = redaction
        self._kept: deque[dict[str, Any]] = deque(maxlen=REMEMBERED)
        logging.getLogger("hub").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        try:
            said = self._redaction.of(record.getMessage())[:LONGEST]
        except (TypeError, ValueError):  # a line that does not fit its arguments
            self.handleError(record)
        else:
            self._kept.append({"at": record.created, "logger": record.name, "said": said})

    def last(self, limit: int) -> list[dict[str, Any]]:
        """The last ones, the newest first. `at` is in seconds since 1970."""
        return [one for one, _ in zip(reversed(self._kept), range(limit), strict=False)]

    def close(self) -> None:
        """Keep no more."""
        logging.getLogger("hub").removeHandler(self)
        super().close()
