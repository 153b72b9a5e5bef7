"""The jobs of a user: listed, and heard of when another one begins.

Invariant: a job is shown to a user only as its hash is now, and only if that names the user. What is wrong in
the index is removed from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from time import time
from typing import Any

from hub.broker.seam import Broker
from hub.ending import end_tasks
from hub.errors import BrokerUnavailable
from hub.job.begun import JobBegun
from hub.job.event import JobId
from hub.job.record import Job
from hub.quiet import quiet_log

logger = quiet_log("hub.mine")

AT_ONCE = 50
"""Hashes that are read at once for a list."""

AT_MOST = 200
"""Hashes that are read for one page: a user might ask for a status that no job has."""

KNOWN = 20_000
"""Pairs of user and job that are known to be in the index, before all are forgotten."""

PAUSE = 1.0
"""Seconds between two writes of what joins have shown."""

LOOK = 30.0
"""Seconds between two looks at the index for whoever follows their jobs: a message may have been lost."""

Tell = Callable[[JobId], Any]


@dataclass(frozen=True, slots=True)
class Page:
    """`next` is the cursor of the page after it; None if there is none."""

    jobs: list[tuple[Job, float]]
    next: str | None


class Mine:
    """The jobs of all users at one hub, while `run` runs."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._known: set[tuple[str, JobId]] = set()
        self._seen: dict[str, dict[JobId, float]] = {}  # to be written
        self._followers: dict[str, dict[Tell, set[JobId]]] = {}  # by user: what each was told
        self._looks: set[asyncio.Task[None]] = set()

    # --- what joins show

    def saw(self, user: str, job: Job) -> None:
        """`user` owns `job`, as a join has shown. It is in the index a second later."""
        pair = (user, job.id)
        if pair not in self._known:
            if len(self._known) >= KNOWN:
                self._known.clear()
            self._known.add(pair)
            self._seen.setdefault(user, {})[job.id] = _began(job)
            self._tell(user, job.id)

    async def run(self) -> None:
        """Write what was seen, and look for whoever follows, until cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time() + LOOK
        try:
            while True:
                await asyncio.sleep(PAUSE)
                await self._write()
                if loop.time() >= due:
                    due = loop.time() + LOOK
                    self.missed()
        finally:
            await end_tasks(*self._looks)

    async def _write(self) -> None:
        seen, self._seen = self._seen, {}
        for user, jobs in seen.items():
            try:
                await self._broker.index.add(user, jobs)
            except BrokerUnavailable as error:
                self._known.difference_update((user, job) for job in jobs)  # the next join says it again
                logger.warning("the jobs of a user were not noted: %s", error)

    # --- the list

    async def page(self, user: str, *, status: str | None, limit: int, before: str | None) -> Page:
        """The user's jobs, the newest first, up to `limit`; those of one `status` if given: fewer, if they
        are rare. `before` is the `next` of the page before. Raises BrokerUnavailable."""
        rows = await self._broker.index.of(user)
        rows = rows[_start(rows, before) :]
        found: list[tuple[Job, float]] = []
        for at in range(0, min(len(rows), AT_MOST), AT_ONCE):
            part = rows[at : at + AT_ONCE]
            for row, job in zip(part, await self._read(user, part), strict=True):
                if job is None or (status is not None and job.status != status):
                    continue
                if len(found) == limit:
                    return Page(found, _cursor(found[-1][0].id, found[-1][1]))
                found.append((job, row[1]))
        return Page(found, _cursor(*rows[AT_MOST - 1]) if len(rows) > AT_MOST else None)

    async def _read(self, user: str, rows: list[tuple[JobId, float]]) -> list[Job | None]:
        """The jobs, with None for those that are not this user's; the index forgets those."""
        jobs = [job for job, _ in rows]
        read = await self._broker.jobs(jobs)
        found = [job if job is not None and job.exists and job.user_id == user else None for job in read]
        if wrong := [job for job, one in zip(jobs, found, strict=True) if one is None]:
            self._known.difference_update((user, job) for job in wrong)
            await self._broker.index.remove(user, wrong)
        return found

    # --- whoever follows

    def follow(self, user: str, tell: Tell) -> None:
        """Call `tell` with each job of `user` that runs, and with each that begins later. A job may be told
        that is over by then, or not there: whoever hears of it asks for it."""
        self._followers.setdefault(user, {})[tell] = set()
        self._look(user)

    def unfollow(self, user: str, tell: Tell) -> None:
        """The pair of `follow`; does nothing if there was none."""
        followers = self._followers.get(user, {})
        followers.pop(tell, None)
        if not followers:
            self._followers.pop(user, None)

    def heard(self, one: JobBegun) -> None:
        """The control channel says that a job has begun."""
        self._tell(one.user, one.job)

    def missed(self) -> None:
        """Messages may have been lost."""
        for user in self._followers:
            self._look(user)

    def _look(self, user: str) -> None:
        task = asyncio.create_task(self._look_at(user), name="hub-mine")
        self._looks.add(task)
        task.add_done_callback(self._looks.discard)

    async def _look_at(self, user: str) -> None:
        try:
            rows = (await self._broker.index.of(user))[: 2 * AT_ONCE]
            read = [job for job in await self._read(user, rows) if job is not None] if rows else []
        except BrokerUnavailable as error:
            logger.warning("the jobs of a user were not read: %s", error)
            return
        over = {job.id for job in read if job.over}
        for told in self._followers.get(user, {}).values():
            told.difference_update(over)  # they may begin again
        for job in read:  # the newest first: a socket may have no room for all
            if job.id not in over:
                self._tell(user, job.id)

    def _tell(self, user: str, job: JobId) -> None:
        for tell, told in list(self._followers.get(user, {}).items()):
            if job not in told:
                told.add(job)
                tell(job)


def _began(job: Job) -> float:
    """When a job was made, if its hash says so; else now."""
    try:
        return min(time(), max(0.0, float(job.fields.get("created_at", ""))))
    except ValueError:
        return time()


def _cursor(job: JobId, began: float) -> str:
    return f"{began!r}~{job}"


def _start(rows: list[tuple[JobId, float]], before: str | None) -> int:
    """The index of the first row after the cursor `before`; 0 for text that is none."""
    time_text, tilde, name = (before or "").partition("~")
    try:
        key = (float(time_text), name)
    except ValueError:
        return 0
    return next((at for at, (job, began) in enumerate(rows) if (began, job) < key), len(rows)) if tilde else 0
