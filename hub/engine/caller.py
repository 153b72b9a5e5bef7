"""Who asks to watch, and what lets them: they own the job, its hash shares it with them, or the application
says so."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from hub.errors import BrokerUnavailable
from hub.job.event import JobId, UserId
from hub.job.record import Job
from hub.quiet import quiet_log

logger = quiet_log("hub.access")

ANSWER = 10.0
"""Seconds that an application's `may_watch` may take."""


@dataclass(frozen=True, slots=True)
class Caller:
    """`issued` and `expires` are the credentials' times, in seconds since 1970.

    `shared`: values that fields of a job's hash must have to open it to this caller, by the field's name.
    `ask`: the application's own answer. `only`: the one job that the credentials are good for (a ticket).
    """

    user: UserId
    issued: float = 0.0
    expires: float = math.inf
    shared: Mapping[str, str] = field(default_factory=dict)
    ask: Callable[[JobId], Awaitable[bool]] | None = None
    only: JobId | None = None

    def owns(self, job: Job) -> bool:
        """Returns True if the job's hash names this user."""
        return bool(self.user) and job.user_id == self.user and self.only in (None, job.id)

    async def may_watch(self, job: JobId, found: Job | None) -> bool:
        """Returns True if this caller may watch `job`, which was read as `found`. An unknown job costs the same
        question as another user's. Raises BrokerUnavailable if the application does not answer."""
        if self.only not in (None, job):
            return False
        if found is not None and (self.owns(found) or self._is_shared(found)):
            return True
        asked = self.ask is not None and await self._answer(job)
        return asked and found is not None and found.exists

    def _is_shared(self, found: Job) -> bool:
        return any(value and found.fields.get(name) == value for name, value in self.shared.items())

    async def _answer(self, job: JobId) -> bool:
        assert self.ask is not None
        try:
            async with asyncio.timeout(ANSWER):
                return await self.ask(job)
        except Exception as error:
            logger.exception("may_watch failed, the viewer is told to come back")
            raise BrokerUnavailable("expected an answer of may_watch, got none") from error
