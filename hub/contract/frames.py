"""The control frames and commands as models, as docs/protocol.md describes them.

The hub does not build its frames with these models: a frame is made once and encoded by hand. A test holds
the two against each other: it validates everything that a real hub sends.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

Cursor = str
Ref = int | float | str | None
Reason = Literal["trimmed", "redis", "oversize"]


class Control(BaseModel):
    """A message of the hub about the stream. It has no id. Clients ignore fields that they do not know."""


class Hello(Control):
    """The first frame: what a client must know to keep the stream alive and to come back."""

    heartbeat_ms: int = Field(
        ge=0, description="interval of heartbeats; twice as long a silence is a dead connection"
    )
    retry_ms: int = Field(ge=0, description="milliseconds to wait before a reconnect, jittered")
    position: Cursor | None = Field(
        None, description="your cursor from now on; null: keep yours. Not on a dashboard"
    )
    attempt: int | None = Field(None, ge=1, description="the job's attempt. Not on a dashboard")


class Heartbeat(Control):
    """Nothing was sent for `heartbeat_ms`; the connection is alive."""


class Gap(Control):
    """Events are missing. A `state` follows."""

    from_: Cursor | None = Field(alias="from", description="id of the first missing event; null if unknown")
    to: Cursor | None = Field(description="id of the last missing event; null if unknown")
    reason: Reason


class Resync(Control):
    """The cursor, or the numbering, is not valid any more. A `state` follows; start over from it."""

    reason: Literal["malformed", "unknown", "trimmed", "restarted", "rolled back", "lost"]


class State(Control):
    """The job's current state. It replaces events that the viewer does not have."""

    job_id: str
    status: str | None = Field(description="the job's status")
    position: Cursor | None = Field(description="the cursor that belongs to this state; null: keep yours")
    attempt: int = Field(ge=1, description="counts the job's attempts; a restart begins the next")
    job: dict[str, Any] = Field(description="the public fields of the job's hash, as they were last read")
    last: dict[str, Any] = Field(description="the last event of each type")
    truncated: bool = Field(
        False, description="the last events of some types were left out: they are too large"
    )
    ref: Ref = Field(None, description="the `ref` of the command that asked for it; WebSocket only")


class Reconnect(Control):
    """The hub closes the stream now. Wait, then reconnect with your cursor."""

    after_ms: int = Field(ge=0, description="milliseconds to wait")
    reason: str | None = Field(None, description="in words; on SSE only")


class End(Control):
    """The job has ended. The connection is closed."""

    status: str | None = Field(description="the final status; null for a deleted job")
    reason: Literal["deleted"] | None = Field(None, description="only for a deleted job")


class Raw(Control):
    """A producer's message that is no JSON object, or imitates a control frame. WebSocket only."""

    data: str = Field(description="the message's text")


class Answer(Control):
    """The answer to a command. WebSocket only."""

    ref: Ref = Field(None, description="the `ref` of the command, if it had one")


class Pong(Answer):
    """The answer to `ping`."""


class Authenticated(Answer):
    """The new token is accepted."""

    expires: float | None = Field(
        description="when the stream now ends, in seconds since 1970; null: not by that"
    )


class Failure(Answer):
    """The command, or the stream of one job, failed. Nothing else is affected."""

    code: str = Field(description="for programs: not_found, overloaded, ...; docs/protocol.md lists them")
    message: str = Field(description="for people")


class Subscribed(Answer):
    """The job's frames follow. Dashboard only."""

    position: Cursor | None = Field(None, description="your cursor of this job from now on; null: keep yours")
    attempt: int | None = Field(None, ge=1)
    mine: bool = Field(False, description="the answer to `mine`, which has no job")


class Unsubscribed(Answer):
    """No more frames of this job. Dashboard only."""

    mine: bool = Field(False, description="the answer to `mine`, which has no job")


class Accepted(Answer):
    """The command is kept for the job's worker, which answers with `command.done` or `command.refused`."""

    command: str = Field(description="the command's id")


class Viewers(Control):
    """How many viewers the job has, over all hubs: at most every 5 s, when it changes. Dashboard only, for
    whoever subscribed with `viewers`.
    """

    count: int = Field(ge=0)


STREAM: dict[str, type[Control]] = {
    "hello": Hello,
    "heartbeat": Heartbeat,
    "gap": Gap,
    "resync": Resync,
    "state": State,
    "reconnect": Reconnect,
    "end": End,
}
"""Control frames of every stream, by their name on the wire."""

SOCKET: dict[str, type[Control]] = {
    **STREAM,
    "raw": Raw,
    "pong": Pong,
    "authenticated": Authenticated,
    "accepted": Accepted,
    "error": Failure,
}
"""Those of the WebSocket of one job."""

DASHBOARD: dict[str, type[Control]] = {
    **SOCKET,
    "subscribed": Subscribed,
    "unsubscribed": Unsubscribed,
    "viewers": Viewers,
}
"""Those of a dashboard, where each frame about a job has its `job_id`."""


class Command(BaseModel):
    """What a client may send over a WebSocket."""

    ref: Ref = Field(None, description="comes back in the answer; a string has at most 128 characters")


class Ping(Command):
    """Answered by `pong`."""

    op: Literal["ping"]


class AskState(Command):
    """Answered by `state`. On a dashboard `job` says which job is meant."""

    op: Literal["state"]
    job: str | None = None


class Subscribe(Command):
    """Answered by `subscribed` or `error`. Dashboard only."""

    op: Literal["subscribe"]
    job: str | None = None
    mine: bool = Field(
        False, description="instead of `job`: all jobs of the user that run, and those that begin later"
    )
    after: Cursor | None = Field(None, description="the last event you have; the stream resumes after it")
    from_: str | None = Field(None, alias="from", description="without a cursor: start, live, or -20")
    types: list[str] | None = Field(None, description="let only these types through")
    viewers: bool = Field(False, description="send `viewers` frames, too")


class Authenticate(Command):
    """Renews the credentials of the socket, before they expire. Answered by `authenticated`; a token that is
    not valid, or another user's, closes the socket with 4401.
    """

    op: Literal["authenticate"]
    token: str


class Unsubscribe(Command):
    """Answered by `unsubscribed` or `error`. Dashboard only."""

    op: Literal["unsubscribe"]
    job: str | None = None
    mine: bool = Field(False, description="instead of `job`: no further jobs by themselves")


class Give(Command):
    """Gives a command to the job's worker. Answered by `accepted` or `error`. A dashboard need not have
    subscribed to `job`; on the socket of one job it is left out.
    """

    op: Literal["command"]
    job: str | None = None
    name: str = Field(description="one that the hub allows (`HUB_COMMANDS`)")
    args: dict[str, Any] = Field({}, description="at most 4 KB")
    key: str | None = Field(
        None, description="idempotency key: a second command with it, within a day, is the first"
    )


COMMANDS: dict[str, type[Command]] = {
    "ping": Ping,
    "state": AskState,
    "authenticate": Authenticate,
    "subscribe": Subscribe,
    "unsubscribe": Unsubscribe,
    "command": Give,
}
