"""Several worker processes on one port. A worker that dies is replaced; a signal ends all of them.

Invariant: the parent only supervises. It keeps every listening socket open, so while a worker is being
replaced, new connections to its socket wait in the kernel and none is refused. Each worker has its own socket
(SO_REUSEPORT): the kernel spreads connections by a hash of their addresses, which evens out long-lived ones.
A socket shared by all workers would give each connection to whichever worker wakes first.
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

logger = logging.getLogger("hub.workers")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

YOUNG = 1.0
"""Seconds: a worker that dies younger is replaced after this pause, so that a broken start does not spin."""

Work = Callable[[int], None]
"""The work of a worker, called with its number; it closes the sockets of
the others, and returns after a signal.
"""


class Workers:
    """`count` worker processes. `sockets` are those of all of them."""

    def __init__(self, count: int, work: Work, sockets: list[socket.socket]) -> None:
        self._count = count
        self._sockets = sockets
        self._work = work
        self._born: dict[int, tuple[int, float]] = {}  # process id -> number, monotonic time
        self._ending = False

    def run(self) -> None:
        """Start the workers, replace those that die, forward signals. Returns when a signal has ended all."""
        before = {sig: signal.signal(sig, self._forward) for sig in _SIGNALS}
        try:
            for number in range(self._count):
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
        logger.error(
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
        # Blocked until the child's id is stored: a signal in between would not be forwarded to the child.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        pid = os.fork()
        if pid:
            self._born[pid] = number, time.monotonic()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            return
        self._become(number)

    def _become(self, number: int) -> NoReturn:
        """Do the work in the child, then exit, so that the child never returns into the parent's code."""
        code = 1
        try:
            for sig in _SIGNALS:
                signal.signal(sig, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            self._work(number)
            code = 0
        except BaseException:  # the process ends here, whatever was raised
            logger.exception("worker %d failed", number)
        finally:
            logging.shutdown()
            sys.stderr.flush()
            os._exit(code)

    def _forward(self, sig: int, _frame: FrameType | None) -> None:
        self._ending = True
        # Workers are not replaced any more. Closed sockets refuse connections that nobody would accept.
        for sock in self._sockets:
            sock.close()
        for pid in list(self._born):
            try:
                os.kill(pid, sig)
            except ProcessLookupError:
                continue
