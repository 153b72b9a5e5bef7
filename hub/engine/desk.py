"""Where viewers give commands to workers: who may, which, how many.

Invariant: a command that was answered with its id is handled by a worker of this job, or ends with the job. A
stranger is answered as about a job that does not exist.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from hub.broker.seam import Broker
from hub.engine.caller import Caller
from hub.engine.rates import Rate
from hub.errors import CommandForbidden, InvalidCommand, TooManyCommands
from hub.job.catalogue import COMMANDS, checked_args
from hub.job.command import MAX_NAME, command_text
from hub.job.event import JobId
from hub.job.record import Job
from hub.settings import Settings
from hub.totals import Totals

REFILL = 50.0
"""Seconds after which a user may give all of `HUB_MAX_COMMANDS` again."""

MAX_KEY = 128
"""Characters of an idempotency key."""


class Desk:
    """Takes commands. `authorise` returns the job if the caller may watch it, and raises JobNotFound else."""

    def __init__(
        self,
        broker: Broker,
        settings: Settings,
        authorise: Callable[[Caller, JobId], Awaitable[Job]],
        totals: Totals,
    ) -> None:
        self._broker = broker
        self._names = settings.commands
        self._authorise = authorise
        self._rate = Rate(settings.max_commands, settings.max_commands / REFILL)
        self._totals = totals

    async def give(self, caller: Caller, job: JobId, name: object, args: object, key: object = None) -> str:
        """Give a command to the worker of `job`; returns the command's id. `key` is an idempotency key.

        Raises InvalidCommand, CommandForbidden, TooManyCommands, NobodyListens, JobEnded, JobNotFound,
        Overloaded and BrokerUnavailable.
        """
        try:
            self._spend(caller.user)
            found = await self._authorise(caller, job)
            given = await self._give(caller, found, name, args, key)
        except Exception:
            self._totals.commands_refused += 1
            raise
        self._totals.commands += 1
        return given

    def _spend(self, user: str) -> None:
        if after := self._rate.spend(user):
            error = TooManyCommands("expected fewer commands of a user")
            error.after = after
            raise error

    async def _give(self, caller: Caller, job: Job, name: object, args: object, key: object) -> str:
        known, text = self._checked(name, args, caller.user)
        if not await caller.may_command(job, known):
            raise CommandForbidden(
                f"expected a user who may give {known!r} to job {job.id}, got {caller.user!r}"
            )
        if key is not None and not (isinstance(key, str) and 0 < len(key) <= MAX_KEY and key.isprintable()):
            raise InvalidCommand(f"expected a key of 1 to {MAX_KEY} printable characters")
        once = None if key is None else f"{caller.user}:{key}"
        return await self._broker.command(job, text, once=once)

    def _checked(self, name: object, args: object, user: str) -> tuple[str, str]:
        """The name and the text of a command. Raises InvalidCommand."""
        allowed = sorted(self._names | COMMANDS.keys())
        if not isinstance(name, str) or len(name) > MAX_NAME or name not in allowed:
            words = f"one of {', '.join(allowed)}" if allowed else "no command: this hub allows none"
            raise InvalidCommand(f"expected {words}")
        if not isinstance(args, Mapping):
            raise InvalidCommand("expected args to be a JSON object")
        fields: Mapping[str, Any] = checked_args(name, args)
        return name, command_text(name, user, fields)
