"""Sockets that take no bytes, or were closed and are not gone: reset when their time is over.

Invariant: a viewer that takes nothing costs one write buffer and one entry here, for `HUB_SEND_TIMEOUT`
seconds at most. A viewer that takes a little at a time is slow and stays; its position in the log tells when
it is too far behind.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from hub.quiet import quiet_log
from hub.totals import Totals

logger = quiet_log("hub.blocked")


TOOK_NOTHING = "took no bytes"
UNANSWERED = "did not answer pings"
"""Why a viewer went that was cut off here."""


class Blockable(Protocol):
    """A wire on a socket. `finished`: its last words are written, and only the client's goodbye is missing.

    `unsent`: bytes that the kernel has not taken yet, 0 where that is not known. `whose`: the job and the
    user; no job for a dashboard.
    """

    @property
    def whose(self) -> tuple[str, str]: ...

    @property
    def finished(self) -> bool: ...

    @property
    def unsent(self) -> int: ...

    def abort(self) -> None: ...


class Blocked:
    """The blocked sockets of one hub. The heartbeats call `abort`."""

    def __init__(self, timeout: float, totals: Totals) -> None:
        self._totals = totals
        self._timeout = timeout
        self._since: dict[
            Blockable, tuple[float, int]
        ] = {}  # loop time since when it has had that many bytes unsent

    def __len__(self) -> int:
        return len(self._since)

    def add(self, wire: Blockable) -> None:
        """The socket takes nothing, as of now."""
        if wire not in self._since:
            self._since[wire] = asyncio.get_running_loop().time(), wire.unsent

    def discard(self, wire: Blockable) -> None:
        """The socket takes bytes again, or is gone."""
        self._since.pop(wire, None)

    def abort(self, now: float) -> None:
        """Reset the sockets whose time is over. `close` would wait for
        the buffer for ever; a viewer resumes.
        """
        for wire, (since, before) in list(self._since.items()):
            unsent = wire.unsent
            if unsent != before:  # more of it: a send was taken, and the next one waits
                self._since[wire] = now, unsent
            elif now - since > self._timeout:
                # Or the other transport's heartbeat would count it again before it is gone.
                del self._since[wire]
                if not wire.finished:
                    self._totals.blocked += 1
                    _say(wire, now - since)
                wire.abort()

    def abort_all(self) -> None:
        """Reset all of them: the process ends."""
        for wire in list(self._since):
            wire.abort()


def _say(wire: Blockable, seconds: float) -> None:
    job, user = wire.whose
    if job:
        words = "a viewer of job %s, user %s, took no bytes for %.0f s and is cut off"
        logger.warning(words, job, user, seconds)
    else:
        logger.warning("a dashboard of user %s took no bytes for %.0f s and is cut off", user, seconds)
