"""What a worker hears: the commands that viewers give it.

Invariant: at least once, in order, and none of another job. A command is deleted when the worker asks for the
next one, so a worker that dies before it has handled a command hears it again when it begins again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from hub.job.catalogue import CommandDone, CommandRefused
from hub.job.command import JobCommand

LISTENS = 15.0
"""Seconds that a worker counts as listening after it has asked for commands."""

RETRY = 1.0
"""Seconds between tries to hear commands while Redis is away."""

UNKNOWN = "The worker does not know this command"
"""Why a worker that only looks at `lease.cancelled` refuses all other commands."""

R_co = TypeVar("R_co", covariant=True)

Emit = Callable[[str, dict[str, Any], str], R_co]
"""Publishes an event of a type, with fields and an idempotency key."""


class Heard(Generic[R_co]):
    """A command that a viewer gave: `name`, `args`, the `user` that gave it, and its `id`.

    `done` and `refused` publish an event with the command's id, which every viewer sees. They return what
    `emit` of the publisher does: with an async publisher they are awaited.
    """

    __slots__ = ("_command", "_emit", "is_answered")

    def __init__(self, command: JobCommand, emit: Emit[R_co]) -> None:
        self._command = command
        self._emit = emit
        self.is_answered = False

    @property
    def id(self) -> str:
        """Orders the commands of a job."""
        return self._command.id

    @property
    def name(self) -> str:
        """Which command it is: one that the hub allows."""
        return self._command.name

    @property
    def args(self) -> Mapping[str, Any]:
        """The arguments, a JSON object."""
        return self._command.args

    @property
    def user(self) -> str:
        """The id of the user that gave it."""
        return self._command.user

    def done(self, **fields: Any) -> R_co:
        """Publish `command.done`, with `fields`. A repeated call publishes nothing."""
        return self._answer(CommandDone.kind(), fields)

    def refused(self, reason: str, **fields: Any) -> R_co:
        """Publish `command.refused`: `reason` says why, for people. A repeated call publishes nothing."""
        return self._answer(CommandRefused.kind(), {**fields, "reason": reason})

    def _answer(self, kind: str, fields: dict[str, Any]) -> R_co:
        self.is_answered = True
        return self._emit(
            kind, {**fields, "command": self.id, "name": self.name}, f"command:{self.id}:{kind}"
        )

    def __repr__(self) -> str:
        return f"<command {self.name} {self.id} of {self.user}>"
