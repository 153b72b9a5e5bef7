"""Sockets that take no bytes, or were closed and are not gone: ended hard when their time is over.

Invariant: a viewer that takes nothing costs one write buffer and one entry here, for `HUB_SEND_TIMEOUT` seconds at most. One that
takes a little at a time is slow and stays; its place in the log tells when it has fallen too far behind.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from hub.quiet import quiet_log

log = quiet_log("hub.blocked")


class Blockable(Protocol):
    """A wire on a socket. `finished`: it had its last words, and only the goodbye is missing.

    `unsent`: bytes that the kernel has not taken yet, 0 where nobody knows.
    """

    @property
    def finished(self) -> bool: ...

    @property
    def unsent(self) -> int: ...

    def abort(self) -> None: ...


class Blocked:
    """The blocked sockets of one hub; the heartbeats call `abort`. `aborted` counts viewers that were cut off."""

    def __init__(self, timeout: float) -> None:
        self.aborted = 0
        self._timeout = timeout
        self._since: dict[Blockable, tuple[float, int]] = {}  # since when it has so much unsent

    def __len__(self) -> int:
        return len(self._since)

    def add(self, wire: Blockable) -> None:
        """It takes nothing, as of now."""
        if wire not in self._since:
            self._since[wire] = asyncio.get_running_loop().time(), wire.unsent

    def discard(self, wire: Blockable) -> None:
        """It does again, or is gone."""
        self._since.pop(wire, None)

    def abort(self, now: float) -> None:
        """`close` would wait for the buffer for ever, so end them hard; a viewer resumes from its cursor."""
        for wire, (since, before) in list(self._since.items()):
            unsent = wire.unsent
            if unsent < before:
                self._since[wire] = now, unsent
            elif now - since > self._timeout:
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
