"""Several processes on one port: each accepts on a socket of its own, is replaced when it dies, and ends with the others.

Invariant: the parent only supervises. It keeps every listening socket open, so while a worker is being replaced its new
connections wait in the kernel and none is refused. SO_REUSEPORT spreads connections by their address, which evens out
long-lived ones; a shared socket gives them to whoever is awake.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

log = logging.getLogger("hub.workers")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

YOUNG = 1.0
"""Seconds: a worker that dies younger is replaced only after as long, so that a broken start does not spin."""

Work = Callable[[int, socket.socket], None]
"""What one worker does, given its number and its listening socket; returns when it was told to end."""


class Workers:
    """One worker per socket. `run` returns when all have ended after SIGTERM or SIGINT."""

    def __init__(self, sockets: list[socket.socket], work: Work) -> None:
        self._sockets = sockets
        self._work = work
        self._born: dict[int, tuple[int, float]] = {}  # process id -> number, monotonic time
        self._ending = False

    def run(self) -> None:
        """Start all, replace who dies, forward signals. The second signal ends at once, as in one process."""
        before = {sig: signal.signal(sig, self._forward) for sig in _SIGNALS}
        try:
            for number in range(len(self._sockets)):
                self._start(number)
            while self._born:
                self._wait()
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)

    def _wait(self) -> None:
        pid, status = os.waitpid(-1, 0)
        number, born = self._born.pop(pid, (None, 0.0))
        if number is None or self._ending:
            return
        log.error(
            "worker %d (process %d) ended with %d, replacing it",
            number,
            pid,
            os.waitstatus_to_exitcode(status),
        )
        if time.monotonic() - born < YOUNG:
            time.sleep(YOUNG)
        if not self._ending:
            self._start(number)

    def _start(self, number: int) -> None:
        # A signal between the fork and our note of it would never reach the child.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        pid = os.fork()
        if pid:
            self._born[pid] = number, time.monotonic()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            return
        self._become(number)

    def _become(self, number: int) -> NoReturn:
        """In the child: do the work, and never come back into the parent's code."""
        code = 1
        try:
            for sig in _SIGNALS:
                signal.signal(sig, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            for other, sock in enumerate(self._sockets):
                if other != number:
                    sock.close()
            self._work(number, self._sockets[number])
            code = 0
        except BaseException:  # whatever it was, this process ends here
            log.exception("worker %d failed", number)
        finally:
            logging.shutdown()
            sys.stderr.flush()
            os._exit(code)

    def _forward(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # a signal handler's signature
        self._ending = True
        # Nobody is replaced any more, so what would be accepted by nobody is to be refused.
        for sock in self._sockets:
            sock.close()
        for pid in list(self._born):
            try:
                os.kill(pid, sig)
            except ProcessLookupError:
                continue
