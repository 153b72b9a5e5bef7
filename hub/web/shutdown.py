"""Notices that the server is told to stop, while streams are still open.

An ASGI server tells an application of its shutdown when all requests have ended. A stream ends when its job
does, so a server with an open stream would never stop. The signal is the one thing that comes first, on every
server.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def on_shutdown(notice: Callable[[], None]) -> Iterator[None]:
    """Call `notice` on the running loop at SIGTERM or SIGINT, as long as the block runs.

    The server's own handler is called too. Where there is none, nothing is changed: the process would end
    at once, and must go on doing so. Signals reach the main thread only; in another one this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {sig: handler for sig in SIGNALS if callable(handler := signal.getsignal(sig))}

    def handle(sig: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(notice)
        before[signal.Signals(sig)](sig, frame)

    for sig in before:
        signal.signal(sig, handle)
    try:
        yield
    finally:
        for sig, handler in before.items():
            if signal.getsignal(sig) is handle:  # else somebody has put another one in its place
                signal.signal(sig, handler)
