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
    `ask`: the application's own answer to who may watch, `ask_command` to who may give which command. `only`:
    the one job that the credentials are good for (a ticket). `request`: the id of the request, for the log;
    `trace`: its `traceparent`.
    """

    user: UserId
    issued: float = 0.0
    expires: float = math.inf
    shared: Mapping[str, str] = field(default_factory=dict)
    ask: Callable[[JobId], Awaitable[bool]] | None = None
    only: JobId | None = None
    ask_command: Callable[[JobId, str], Awaitable[bool]] | None = None
    request: str = ""
    trace: str = ""

    @property
    def is_plain(self) -> bool:
        """Returns True if all that matters of a caller who owns a job is the user id."""
        return self.only is None and self.ask_command is None

    def owns(self, job: Job) -> bool:
        """Returns True if the job's hash names this user."""
        return bool(self.user) and job.user_id == self.user and self.only in (None, job.id)

    async def may_watch(self, job: JobId, found: Job | None) -> bool:
        """Returns True if this caller may watch `job`, which was read as `found`. An unknown job costs the
        same question as another user's. Raises BrokerUnavailable if the application does not answer.
        """
        if self.only not in (None, job):
            return False
        if found is not None and (self.owns(found) or self._is_shared(found)):
            return True
        asked = self.ask is not None and await self._answer(job)
        return asked and found is not None and found.exists

    def _is_shared(self, found: Job) -> bool:
        return any(value and found.fields.get(name) == value for name, value in self.shared.items())

    async def may_command(self, job: Job, name: str) -> bool:
        """Returns True if this caller, who may watch `job`, may give its worker the command `name`.

        Nobody may by a ticket. Raises BrokerUnavailable if the application does not answer.
        """
        if self.only is not None:
            return False
        if self.ask_command is None:
            return self.owns(job)
        return await _answered(self.ask_command(job.id, name), "may_command")

    async def _answer(self, job: JobId) -> bool:
        assert self.ask is not None
        return await _answered(self.ask(job), "may_watch")


async def _answered(question: Awaitable[bool], name: str) -> bool:
    """The application's answer. Raises BrokerUnavailable if there is none."""
    try:
        async with asyncio.timeout(ANSWER):
            return await question
    except Exception as error:
        logger.exception("%s failed, the client is told to try again", name)
        raise BrokerUnavailable(f"expected an answer of {name}, got none") from error
