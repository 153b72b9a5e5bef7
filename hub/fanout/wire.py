"""The seam between the fan-out and a connection: what a `Wire` can do, and why a stream ends (`Reason`)."""

from __future__ import annotations

import enum
from typing import Protocol, TypeVar

P_contra = TypeVar("P_contra", contravariant=True)


class Reason(enum.Enum):
    """Why the hub ends a viewer's stream: WebSocket close code, and words for the close frame."""

    ENDED = (1000, "job ended")
    RESTART = (1012, "server restarts, resume")
    AGED = (1012, "stream is old, resume")
    EXPIRED = (4401, "expired")
    REVOKED = (4401, "revoked")
    TOO_SLOW = (4008, "too slow, resume")
    NOT_FOUND = (4404, "job not found")
    GAP = (4010, "gap, resume")
    OVERLOADED = (4013, "overloaded, come back later")
    FLOOD = (1008, "too many commands")
    NOT_TEXT = (1007, "expected UTF-8")
    TOO_BIG = (1009, "message too big")
    FAILED = (1011, "internal error")
    LEFT = (1000, "client left")

    def __init__(self, close_code: int, words: str) -> None:
        self.close_code = close_code
        self.words = words


class Wire(Protocol[P_contra]):
    """One connection. `write` takes one payload and never blocks; after it `paused` may be true.

    While `paused`, nothing is written. When the wire can take more it calls `catch_up` on its seat. `beat`
    writes a heartbeat, and may count that it wants an answer. `finish` says that nothing follows; the wire
    then closes with its last words.
    """

    @property
    def paused(self) -> bool: ...

    def write(self, payload: P_contra, /) -> None: ...

    def beat(self, payload: P_contra, /) -> None: ...

    def finish(self, reason: Reason, /) -> None: ...
