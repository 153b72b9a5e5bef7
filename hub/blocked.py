"""Sockets that take no bytes, or were closed and are not gone: ended hard when their time is over.

Invariant: a viewer that does not read costs one write buffer and one entry here, for `HUB_SEND_TIMEOUT` seconds at most.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from hub.quiet import quiet_log

log = quiet_log("hub.blocked")


class Blockable(Protocol):
    """A wire on a socket. `finished`: it had its last words, and only the goodbye is missing."""

    @property
    def finished(self) -> bool: ...

    def abort(self) -> None: ...


class Blocked:
    """The blocked sockets of one hub; the heartbeats call `abort`. `aborted` counts viewers that were cut off."""

    def __init__(self, timeout: float) -> None:
        self.aborted = 0
        self._timeout = timeout
        self._since: dict[Blockable, float] = {}

    def __len__(self) -> int:
        return len(self._since)

    def add(self, wire: Blockable) -> None:
        """It takes nothing, as of now."""
        self._since.setdefault(wire, asyncio.get_running_loop().time())

    def discard(self, wire: Blockable) -> None:
        """It does again, or is gone."""
        self._since.pop(wire, None)

    def abort(self, now: float) -> None:
        """`close` would wait for the buffer for ever, so end them hard; a viewer resumes from its cursor."""
        for wire, since in list(self._since.items()):
            if now - since > self._timeout:
                # Or the other transport's heartbeat would count it again before it is gone.
                del self._since[wire]
                if not wire.finished:
                    self.aborted += 1
                    log.warning("a viewer took no bytes for %.0f s and is cut off", now - since)
                wire.abort()

    def abort_all(self) -> None:
        """The process ends."""
        for wire in list(self._since):
            wire.abort()
