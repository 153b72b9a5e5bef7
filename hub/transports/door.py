"""The door: a viewer with a plain request comes in without ASGI, on a server that can hand its sockets over.

Invariant: the door lets viewers in and refuses none. A viewer that is not let in, and every unusual request,
goes through the application, which gets what was found out at the door and does not ask again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from hub.transports.handoff import Detached

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case, and values."""

DOOR = "push_hub_door"
"""The attribute of an application's `state` that is its `Door`."""

VISIT = "push_hub.visit"
"""Entry of a scope: the visit that was at the door first."""


class Visit(Protocol):
    """A viewer at the door."""

    async def ask(self) -> bool:
        """Find out whether the viewer may come in. Returns True if it can be let in here, by `enter`."""

    def enter(self, detached: Detached, headers: Headers, /) -> asyncio.Protocol:
        """Write the head of the answer, with the server's `headers`, and begin the stream. Returns its
        protocol."""

    def close(self) -> None:
        """Give back what `ask` found, unless the viewer came in. May be called twice."""


class Door(Protocol):
    """What an application offers to the server."""

    def visit(self, url: bytes, headers: Headers, /, *, upgrade: bool) -> Visit | None:
        """Returns the viewer that makes this request, or None if it is not for the door."""


def lines(headers: Headers) -> bytes:
    """The headers as lines of a head."""
    return b"".join(b"%b: %b\r\n" % header for header in headers)


def door_of(app: Any) -> Door | None:
    """The door of an application, if it has one."""
    found: Door | None = getattr(getattr(app, "state", None), DOOR, None)
    return found
