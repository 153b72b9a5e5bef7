"""JSON pages of a log, and the long poll, with the cursors of the streams.

Invariant: `position` in a page is the cursor after the page's last event, so a request with that cursor
misses nothing.
"""

from __future__ import annotations

import asyncio

from starlette.types import Receive

from hub.ending import end_tasks
from hub.engine.hub import Hub
from hub.engine.view import View
from hub.errors import JobNotFound
from hub.fanout.audience import CHUNK
from hub.fanout.wire import Reason
from hub.job.event import EventId
from hub.job.frame import Frame
from hub.transports.websocket import encode

MAX_PAGE = 256 * 1024
"""Bytes of events after which a page is full: it is in memory as a whole, and its reader may be slow."""


class _Nothing:
    """The `Format` of a long poll, which writes nothing: the page reads its frames from the log."""

    transport = "poll"

    def encode(self, _frame: Frame) -> bytes:
        """Returns no bytes."""
        return b""

    def join(self, _parts: list[bytes]) -> bytes:
        """Returns no bytes."""
        return b""


NOTHING = _Nothing()


class Bell:
    """A `Wire` that writes nothing, and wakes the long poll when another wire would write."""

    paused = False

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def write(self, _payload: bytes) -> None:
        """Ring: there is an event."""
        self._rung.set()

    def beat(self, payload: bytes) -> None:
        """Does nothing: a long poll needs no heartbeat, the client expects no bytes before the page."""

    def finish(self, _reason: Reason) -> None:
        """Ring: the job has ended or the hub drains, so the page has what the log holds now."""
        self._rung.set()

    async def wait(self, seconds: float, receive: Receive) -> None:
        """Return when the bell rings, when `seconds` have passed, or when the client has left."""
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
    """Read one page: at most `limit` events after the view's cursor, as JSON text.

    If there is no event yet, waits up to `wait` seconds for one. The page is `{"events": [...], "notices":
    [...], "position": "epoch-seq", "ended": bool}`. Events look as on a WebSocket; notices are `gap`,
    `resync` and `state` frames. Raises BrokerUnavailable, and JobNotFound if the caller may not watch any
    more.
    """
    page = _Page(view, limit)
    page.add(view.preamble)
    while frames := await hub.read_past(view):
        page.add(frames)
        if page.full:
            return page.text()
    page.read_window()
    if wait and not page.events and not view.log.closed:
        assert page.position is not None, "the window was read"
        bell = Bell()
        view.share(bell, NOTHING, at=page.position)  # closing the view removes this seat
        await bell.wait(wait, receive)
        page.read_window()
    if view.expelled:
        raise JobNotFound("expected a caller that may still watch")
    return page.text()


class _Page:
    """The frames collected so far, and the cursor after them."""

    def __init__(self, view: View, limit: int) -> None:
        self.events: list[bytes] = []
        self.position: int | None = None  # in the window, once it was read
        self._size = 0
        self._view = view
        self._limit = limit
        self._notices: list[bytes] = []
        self._seen: EventId = view.seen

    @property
    def full(self) -> bool:
        """Returns True if the page has `limit` events, or `MAX_PAGE` bytes of them."""
        return len(self.events) >= self._limit or self._size >= MAX_PAGE

    def add(self, frames: list[Frame]) -> int:
        """Add frames until the page is full. Returns how many of them are done, including those not shown."""
        for count, frame in enumerate(frames):
            if self.full:
                return count
            if frame.name is None and frame.passes(self._view.wish.types):
                self.events.append(encode(frame))
                self._size += len(self.events[-1])
            elif frame.name not in (None, "end"):
                self._notices.append(encode(frame))
            self._seen = frame.seen or self._seen
        return len(frames)

    def read_window(self) -> None:
        """Add the frames of the window from the view's position on."""
        log = self._view.log
        if self.position is None:
            self.position = self._view.position
        while not self.full and self.position >= log.start and (frames := log.slice(self.position, CHUNK)):
            self.position += self.add(frames)

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
