"""A log that stays readable in a storm: a kind of line appears once a second at most, the rest are counted.

With a thousand watched jobs, a Redis that flaps would otherwise write a thousand lines a second and hide
every other problem.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from dataclasses import dataclass, field

INTERVAL = 1.0
"""Seconds between two lines of one kind."""

NAMED = 5
"""Jobs that a line names, of those whose lines were left out."""

_JOB = re.compile(r"\bjob %[sd]")


def quiet_log(name: str) -> logging.Logger:
    """Returns the logger `name`, limited to one line a second of each kind."""
    logger = logging.getLogger(name)
    logger.addFilter(_Quiet(logger))
    return logger


@dataclass(slots=True)
class _Kind:
    """`since`: when a line of it was last written (monotonic). `left_out`: how many were not, since then, of
    which `last` is the last one, of `jobs`.
    """

    since: float = -INTERVAL
    left_out: int = 0
    last: logging.LogRecord | None = None
    jobs: dict[str, None] = field(default_factory=dict)


class _Quiet(logging.Filter):
    """Lines of one template (`record.msg`) are of one kind; there are as many kinds as log calls.

    What is left out is told by the next line of its kind, or after the interval, where an event loop runs.
    """

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__()
        self._logger = logger
        self._kinds: dict[str, _Kind] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(record, "sums_up", False):
            return True
        kind = self._kinds.setdefault(record.msg, _Kind())
        now = time.monotonic()
        if now - kind.since >= INTERVAL:
            _sum_up(kind, record, kind.left_out)
            kind.since = now
            return True
        if kind.last is None:
            with contextlib.suppress(RuntimeError):  # where no loop runs the next line tells it
                asyncio.get_running_loop().call_later(kind.since + INTERVAL - now, self._tell, kind)
        kind.left_out += 1
        kind.last = record
        if (job := _job_of(record)) is not None and len(kind.jobs) <= NAMED:
            kind.jobs[job] = None
        # As text: an error in it would keep what it happened to alive.
        record.msg, record.args, record.exc_info = record.getMessage(), None, None
        return False

    def _tell(self, kind: _Kind) -> None:
        if (record := kind.last) is None:
            return
        record.sums_up = True
        _sum_up(kind, record, kind.left_out - 1)
        kind.since = time.monotonic()
        self._logger.handle(record)


def _sum_up(kind: _Kind, record: logging.LogRecord, others: int) -> None:
    """Say in `record` how many others were left out, and begin anew."""
    if others:
        jobs = [*kind.jobs][:NAMED]
        rest = " and others" if len(kind.jobs) > NAMED else ""
        of = f", of jobs {', '.join(jobs)}{rest}" if jobs else ""
        words = f" (and {others} more of these since the last{of})"
        record.msg += words.replace("%", "%%") if record.args else words
    kind.left_out, kind.last = 0, None
    kind.jobs.clear()


def _job_of(record: logging.LogRecord) -> str | None:
    """The job that the line is about: the argument behind the word, in its template."""
    found = _JOB.search(record.msg)
    if found is None or not isinstance(record.args, tuple):
        return None
    before = record.msg.count("%", 0, found.start())
    return str(record.args[before]) if before < len(record.args) else None
