"""All errors of this package, as one tree. A transport reads an error's attributes, never its class.

    HubError
    |-- InvalidEvent        a producer's event cannot be published
    |   `-- EventTooLarge
    |-- InvalidCommand      a command to a worker is not one of the allowed, or its arguments are not
    |-- CommandForbidden    the caller may watch the job, and may not give it this command
    |-- NobodyListens       no worker would hear the command
    |-- TooManyCommands     the worker has not handled those before, or the caller gives too many
    |-- InvalidSettings     the process must not start
    |-- JobNotFound         unknown job, another user's job, or no credentials: always the same answer
    |-- JobExists
    |-- JobEnded            the job has had its terminal event
    |-- Overloaded          a cap is reached; the client retries later
    |-- BrokerUnavailable   Redis does not answer; the client retries later
    `-- KeysUnavailable     no key that verifies tokens was fetched yet; the client retries later

`status` is the HTTP status. `close_code` is the WebSocket close code (RFC 6455 section 7.4; docs/protocol.md
lists ours, from 4000 to 4999). `code` is that of an `error` frame. `detail` is the only text that reaches a
client; the message is for logs.
"""

from __future__ import annotations

from typing import ClassVar


class HubError(Exception):
    """The base of every error that this package raises on purpose."""

    status: ClassVar[int] = 500
    close_code: ClassVar[int] = 1011
    code: ClassVar[str] = "unavailable"
    detail: str = "Internal error"


class InvalidEvent(HubError):
    """The event is not a JSON object that every client can parse."""

    status = 422
    close_code = 1008
    detail = "Invalid event"


class EventTooLarge(InvalidEvent):
    """The encoded event is larger than `HUB_MAX_EVENT_BYTES`."""

    status = 413
    detail = "Event too large"


class InvalidCommand(HubError):
    """A command to a worker is not one of the allowed, or its arguments are not. The message reaches the
    client."""

    status = 422
    code = "invalid"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.detail = message


class CommandForbidden(HubError):
    """The caller may watch the job, and may not give it this command."""

    status = 403
    code = "forbidden"
    detail = "You may not give this command"


class NobodyListens(HubError):
    """No worker would hear the command: none has a lease on the job, and none listens."""

    status = 409
    code = "nobody"
    detail = "Nobody works on the job"


class TooManyCommands(HubError):
    """The worker has not handled the commands before, or the caller gives too many.

    `after`: the seconds after which another try may do better.
    """

    after: float = 1.0
    status = 429
    code = "too_many_commands"
    detail = "Too many commands"


class InvalidSettings(HubError):
    """A setting is missing or contradicts another."""


class JobNotFound(HubError):
    """Unknown job, another user's job, no or bad credentials: one error, so nobody can tell them apart."""

    status = 404
    close_code = 4404
    code = "not_found"
    detail = "Job not found"


class JobExists(HubError):
    """`create_job` was given an id that another job has."""

    status = 409
    detail = "Job exists"


class JobEnded(HubError):
    """The event was refused, because the job has had its terminal event and nothing may follow that."""

    status = 409
    close_code = 1000
    code = "ended"
    detail = "Job has ended"


class Overloaded(HubError):
    """A cap on viewers is reached. The new viewer is refused; none that is connected is evicted.

    `after`: the seconds after which another try may do better; 0 if nobody knows.
    """

    after: float = 0.0

    status = 503
    close_code = 4013
    code = "overloaded"
    detail = "Too many viewers"


class BrokerUnavailable(HubError):
    """Redis did not answer in time."""

    status = 503
    close_code = 4013
    detail = "Temporarily unavailable"


class KeysUnavailable(HubError):
    """The key set that verifies tokens was not fetched yet, so nobody can be recognised."""

    status = 503
    close_code = 4013
    detail = "Temporarily unavailable"
