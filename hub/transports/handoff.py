"""The hand-over of a socket: the seam between the ASGI server and the push engine."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol


@dataclass(frozen=True, slots=True)
class Detached:
    """A socket detached from the server: its transport, and uvicorn's set of connections.

    The new protocol must add itself to `connections`, so that uvicorn counts it and shuts it down.
    """

    transport: asyncio.Transport
    connections: set[Any]


class Handoff(Protocol):
    """The hub's entry in `scope["extensions"]`, one for each connection."""

    NAME: ClassVar[str] = "push_hub.handoff"

    @staticmethod
    def of(scope: Mapping[str, Any]) -> Handoff | None:
        """The entry in `scope`, or None if the server does not offer the hand-over."""
        found: Handoff | None = scope.get("extensions", {}).get(Handoff.NAME)
        return found

    def detach(self, last: bytes | None, /) -> Detached | None:
        """Detach the socket from the server and return it, or return None if the hand-over is not possible.

        `last` is the body object that was sent last (SSE only): a middleware that rewrites bodies would have
        sent another one.
        """

    @property
    def unsent(self) -> int:
        """The number of bytes that the kernel has not taken yet."""

    def cut(self) -> None:
        """Reset the connection. To close it would wait for a buffer that the client does not read."""


def is_plain(transport: asyncio.Transport) -> bool:
    """Returns True if `transport` is open and passes bytes to the kernel as they are, without TLS."""
    return not transport.is_closing() and transport.get_extra_info("ssl_object") is None


class _Gone(asyncio.Transport):
    """Replaces a lost or detached transport: every call does nothing, so callers need not check for one."""

    def close(self) -> None:
        """Does nothing."""

    def abort(self) -> None:
        """Does nothing."""

    def is_closing(self) -> bool:
        """Returns True."""
        return True

    def write(self, data: Any) -> None:
        """Drops the data."""

    def get_write_buffer_size(self) -> int:
        """Returns 0."""
        return 0


GONE = _Gone()
