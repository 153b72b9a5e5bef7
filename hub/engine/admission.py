"""Caps on viewers: per process, per job, per user, and per user on one job.

Invariant: at a cap the new viewer is refused and none is evicted; what `enter` counted, `leave` takes back.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TypeVar

from hub.engine.rates import Rate
from hub.errors import Overloaded
from hub.job.event import JobId
from hub.quiet import quiet_log
from hub.settings import Settings
from hub.totals import Totals

logger = quiet_log("hub.admission")

T = TypeVar("T")

REFILL = 50.0
"""Seconds after which a user may have all of a budget again."""

LEAST_JOINS = 200
"""Joins of a user at once, however few viewers the user may have: a viewer that is refused tries again."""

LONGEST_WAIT = 5.0
"""Seconds that an answer about a job that is not there is held back at most."""

MAX_WAITS = 20
"""Viewers of one user that wait for jobs to be made: each asks Redis twice a second."""


class Admission:
    """The places of one process: viewers (a stream, or a job on a dashboard), counted in `totals`, and
    `sockets`."""

    def __init__(self, settings: Settings, totals: Totals) -> None:
        self.sockets = 0  # of dashboards
        self._settings = settings
        self._totals = totals
        joins = max(LEAST_JOINS, settings.max_viewers_per_user)
        self._joins = Rate(joins, joins / REFILL)
        self._misses = Rate(settings.max_misses, settings.max_misses / REFILL)
        self._waits: Counter[str] = Counter()
        self._by_job: Counter[JobId] = Counter()
        self._by_user: Counter[str] = Counter()
        self._by_both: Counter[tuple[str, JobId]] = Counter()
        self.changed: set[JobId] = set()  # jobs whose viewers are not what `take_changed` last saw
        self._notes_changes = settings.presence

    def viewers_of(self, job: JobId) -> int:
        """The viewers of a job in this process."""
        return self._by_job[job]

    def take_changed(self) -> set[JobId]:
        """The jobs whose viewers have come or gone since the last call."""
        taken, self.changed = self.changed, set()
        return taken

    def enter(self, user: str, job: JobId) -> None:
        """A viewer of `job`. Raises Overloaded."""
        limits = self._settings
        self._check(self._by_job[job], limits.max_viewers_per_job, "viewers of a job")
        self._check(
            self._by_both[user, job], limits.max_viewers_per_user_and_job, "viewers of a user on a job"
        )
        self._enter(user)
        self._totals.viewers += 1
        self._totals.opened += 1
        self._by_job[job] += 1
        self._by_both[user, job] += 1
        self._note(job)

    def leave(self, user: str, job: JobId) -> None:
        """The pair of `enter`."""
        self._totals.viewers -= 1
        _take_back(self._by_job, job)
        _take_back(self._by_both, (user, job))
        _take_back(self._by_user, user)
        self._note(job)

    def _note(self, job: JobId) -> None:
        if self._notes_changes:
            self.changed.add(job)

    def count_refusal(self, *, is_known: bool) -> None:
        """A job was asked for that does not exist, or that is another user's."""
        self._totals.auth_refused_owner += is_known
        self._totals.auth_refused_unknown += not is_known

    def enter_socket(self, user: str) -> None:
        """A dashboard socket, which may watch nothing yet. Raises Overloaded."""
        self._enter(user)
        self.sockets += 1

    def leave_socket(self, user: str) -> None:
        """The pair of `enter_socket`."""
        self.sockets -= 1
        _take_back(self._by_user, user)

    def enter_wait(self, user: str) -> None:
        """A viewer that waits for a job to be made. Raises Overloaded."""
        self._check(self._waits[user], MAX_WAITS, "waits of a user")
        self._waits[user] += 1

    def leave_wait(self, user: str) -> None:
        """The pair of `enter_wait`."""
        _take_back(self._waits, user)

    def enter_rate(self, user: str) -> None:
        """A join of a user. Raises Overloaded, with a longer `after` for who goes on all the same."""
        if after := self._joins.spend(user):
            error = self.refuse("expected fewer joins of a user")
            error.after = after
            raise error

    async def slow_down(self, user: str) -> None:
        """A job that the user asked for is not there, or is not theirs: wait, if that was not the first.

        Raises Overloaded if too many of the user's requests wait.
        """
        if after := self._misses.spend(user):
            self.enter_wait(user)
            try:
                await asyncio.sleep(min(after, LONGEST_WAIT))
            finally:
                self.leave_wait(user)

    def refuse(self, words: str) -> Overloaded:
        """Count a refusal; the error to raise."""
        self._totals.refused += 1
        logger.warning("a viewer was refused: %s", words)
        return Overloaded(words)

    def _enter(self, user: str) -> None:
        limits = self._settings
        self._check(self._totals.viewers + self.sockets, limits.max_viewers, "viewers")
        self._check(self._by_user[user], limits.max_viewers_per_user, "viewers of a user")
        self._by_user[user] += 1

    def _check(self, present: int, limit: int, what: str) -> None:
        if present >= limit:
            raise self.refuse(f"expected at most {limit} {what}")


def _take_back(counter: Counter[T], key: T) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]  # or every user there ever was stays in memory
