"""The subscription of one dashboard to all jobs of its user."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace

from hub.ending import end_tasks
from hub.engine.mine import Mine
from hub.job.event import JobId, UserId
from hub.transports.commands import Command


class MyJobs:
    """Calls `join` with each job of `user` that runs, one after the other, from `start` to `stop`."""

    def __init__(self, mine: Mine, user: UserId, join: Callable[[JobId, Command], Awaitable[None]]) -> None:
        self._mine = mine
        self._user = user
        self._join = join
        self._wanted: Command | None = None  # None while they are not subscribed
        self._coming: deque[JobId] = deque()  # to be joined
        self._joining: asyncio.Task[None] | None = None

    def start(self, command: Command) -> None:
        """Each job is joined as `command` says."""
        self._wanted = replace(command, ref=None)
        self._mine.follow(self._user, self._begun)

    def stop(self) -> None:
        """Join no more. Jobs that were joined stay so."""
        self._wanted = None
        self._coming.clear()
        self._mine.unfollow(self._user, self._begun)

    async def aclose(self) -> None:
        """Stop, and return when no join is under way. Called once."""
        self.stop()
        if self._joining is not None:
            await end_tasks(self._joining)
        del self._join  # the dashboard's, which holds this: apart they are freed at once

    def _begun(self, job: JobId) -> None:
        self._coming.append(job)
        if self._joining is None:
            self._joining = asyncio.create_task(self._join_all(), name="hub-dashboard-mine")

    async def _join_all(self) -> None:
        try:
            while self._coming and self._wanted is not None:
                await self._join(self._coming.popleft(), self._wanted)
        finally:
            self._joining = None
