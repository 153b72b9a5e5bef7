"""JSON pages of a log and the long poll, on the same cursor as the streams.

Invariant: `position` in the answer is the cursor after the last event in it, so asking again with it misses nothing.
"""

from __future__ import annotations

import asyncio

from starlette.types import Receive

from hub.ending import end_tasks
from hub.engine.hub import Hub
from hub.engine.view import View
from hub.fanout.audience import CHUNK
from hub.fanout.wire import Reason
from hub.job.event import EventId
from hub.job.frame import Frame
from hub.transports.websocket import encode


class _Nothing:
    """The `Format` of who only waits: the page reads the frames from the log."""

    def encode(self, frame: Frame) -> bytes:
        """Nothing."""
        return b""

    def join(self, parts: list[bytes]) -> bytes:
        """Nothing."""
        return b""


NOTHING = _Nothing()


class Bell:
    """A `Wire` that carries nothing and rings when there would be something to carry."""

    paused = False

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def write(self, payload: bytes) -> None:
        """There is an event."""
        self._rung.set()

    def beat(self, payload: bytes) -> None:
        """A long poll is over before a heartbeat would be due."""

    def finish(self, reason: Reason) -> None:
        """The job ended, or the hub drains: the page is made of what there is."""
        self._rung.set()

    async def wait(self, seconds: float, receive: Receive) -> None:
        """Return when it rings, after `seconds`, or when the client has left."""
        leaving = asyncio.create_task(_wait_until_left(receive))
        leaving.add_done_callback(lambda _: self._rung.set())
        try:
            async with asyncio.timeout(seconds):
                await self._rung.wait()
        except TimeoutError:
            pass
        finally:
            await end_tasks(leaving)


async def _wait_until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def read_page(hub: Hub, view: View, *, limit: int, wait: float, receive: Receive) -> bytes:
    """The JSON text of one page: at most `limit` events after the view's cursor; waits `wait` seconds for the first.

    `{"events": [...], "notices": [...], "position": "epoch-seq", "ended": bool}`: events as on a WebSocket; notices
    are `gap`, `resync` and `state` frames. Raises BrokerUnavailable.
    """
    page = _Page(view, limit)
    page.take(view.preamble)
    while frames := await hub.read_past(view):
        page.take(frames)
        if page.full:
            return page.text()
    page.read_window()
    if wait and not page.events and not view.log.closed:
        bell = Bell()
        view.share(bell, NOTHING, at=page.position)  # the view gives it back at its own end
        await bell.wait(wait, receive)
        page.read_window()
    return page.text()


class _Page:
    """Frames collected so far, and how far that is."""

    def __init__(self, view: View, limit: int) -> None:
        self.events: list[bytes] = []
        self.position = 0
        self._view = view
        self._limit = limit
        self._notices: list[bytes] = []
        self._seen: EventId = view.seen

    @property
    def full(self) -> bool:
        """Whether no more events fit."""
        return len(self.events) >= self._limit

    def take(self, frames: list[Frame]) -> int:
        """Take frames until the page is full; how many were looked at."""
        for count, frame in enumerate(frames):
            if self.full:
                return count
            if frame.name is None and frame.passes(self._view.wish.types):
                self.events.append(encode(frame))
            elif frame.name not in (None, "end"):
                self._notices.append(encode(frame))
            self._seen = frame.seen or self._seen
        return len(frames)

    def read_window(self) -> None:
        """Take what the window holds from the view's position on."""
        log = self._view.log
        self.position = max(self.position, self._view.position)
        while not self.full and self.position >= log.start and (frames := log.slice(self.position, CHUNK)):
            self.position += self.take(frames)

    def text(self) -> bytes:
        """The page as JSON."""
        log = self._view.log
        ended = b"true" if log.closed and self._seen == log.seen_at(log.end) else b"false"
        return b'{"events":[%b],"notices":[%b],"position":"%b","ended":%b}' % (
            b",".join(self.events),
            b",".join(self._notices),
            str(self._seen).encode(),
            ended,
        )
