"""What can go wrong, as one tree; a transport maps a leaf by its attributes, never by its class.

    HubError
    |-- InvalidEvent        the producer's event cannot travel
    |   `-- EventTooLarge
    |-- InvalidSettings     the process must not start
    |-- JobNotFound         unknown, foreign, or no credentials: always the same answer
    |-- JobExists
    |-- JobEnded            a terminal event was the last word
    |-- Overloaded          a cap is reached; come back later
    `-- BrokerUnavailable   Redis does not answer; come back later

`status` is the HTTP status, `close_code` the WebSocket close code (RFC 6455 section 7.4; 4000-4999 are ours,
docs/protocol.md). Messages are for logs; only `detail` ever reaches a client.
"""

from __future__ import annotations

from typing import ClassVar


class HubError(Exception):
    """Everything this package raises on purpose."""

    status: ClassVar[int] = 500
    close_code: ClassVar[int] = 1011
    detail: ClassVar[str] = "Internal error"


class InvalidEvent(HubError):
    """The event is not a JSON object that every client can parse."""

    status = 422
    close_code = 1008
    detail = "Invalid event"


class EventTooLarge(InvalidEvent):
    """The encoded event is larger than `HUB_MAX_EVENT_BYTES`."""

    status = 413
    detail = "Event too large"


class InvalidSettings(HubError):
    """A setting is missing or contradicts another."""


class JobNotFound(HubError):
    """Unknown job, someone else's job, no or bad credentials. One error, so that nothing can tell them apart."""

    status = 404
    close_code = 4404
    detail = "Job not found"


class JobExists(HubError):
    """`create_job` with an id that is taken."""

    status = 409
    detail = "Job exists"


class JobEnded(HubError):
    """Nothing may follow a terminal event."""

    status = 409
    close_code = 1000
    detail = "Job has ended"


class Overloaded(HubError):
    """A cap on viewers is reached: the new one is refused, nobody is evicted."""

    status = 503
    close_code = 4013
    detail = "Too many viewers"


class BrokerUnavailable(HubError):
    """Redis did not answer in time."""

    status = 503
    close_code = 4013
    detail = "Temporarily unavailable"
