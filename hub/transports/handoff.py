"""The hand-over of a socket: the seam between the ASGI server below and the push engine."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol


@dataclass(frozen=True, slots=True)
class Taken:
    """A socket that is ours: its transport, and uvicorn's set of connections, in which the new protocol must stand."""

    transport: asyncio.Transport
    connections: set[Any]


class Handoff(Protocol):
    """The entry in `scope["extensions"]`."""

    NAME: ClassVar[str] = "push_hub.handoff"

    @staticmethod
    def of(scope: Mapping[str, Any]) -> Handoff | None:
        """The one of this connection, where the server below has it."""
        found: Handoff | None = scope.get("extensions", {}).get(Handoff.NAME)
        return found

    def take(self, last: bytes | None) -> Taken | None:
        """The socket, or None when it is not to be had. `last` is the very body object that was sent last (SSE)."""

    def cut(self) -> None:
        """Reset the connection: closing it would wait for a buffer that nobody reads."""


def is_plain(transport: asyncio.Transport) -> bool:
    """Whether what is written to `transport` goes to the kernel as it is."""
    return not transport.is_closing() and transport.get_extra_info("ssl_object") is None


class _Gone(asyncio.Transport):
    """Stands where a transport was: nobody is there any more, and whoever still has something to do with it need not know."""

    def close(self) -> None:
        """Nothing."""

    def abort(self) -> None:
        """Nothing."""

    def is_closing(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any) -> None:
        """Nothing."""

    def get_write_buffer_size(self) -> int:
        """None."""
        return 0


GONE = _Gone()
