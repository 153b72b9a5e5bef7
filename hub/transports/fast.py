"""The fast wire: a socket that was handed over, written to by the audience itself. No task, no queue, no timer.

Invariant: after `finish` or `connection_lost` nothing is written; while `paused` the transport holds a full buffer, and the
seat waits in the log. What one idle viewer costs is listed in docs/decisions.md.
"""

from __future__ import annotations

import asyncio
from typing import Generic, Protocol, TypeVar

from hub.engine.hub import Hub
from hub.engine.view import View
from hub.fanout.audience import Seat
from hub.fanout.blocked import Blocked
from hub.fanout.wire import Reason
from hub.job.frame import Format
from hub.transports.handoff import GONE, Taken


class Side(Protocol):
    """What all sockets of one transport share, so that each holds one reference: who is blocked, and the last bytes."""

    @property
    def hub(self) -> Hub: ...

    @property
    def blocked(self) -> Blocked: ...

    def closing(self, reason: Reason) -> bytes: ...


S = TypeVar("S", bound=Side)


class SocketWire(asyncio.Protocol, Generic[S]):
    """A `Wire` on a transport."""

    __slots__ = (
        "_connections",
        "_side",
        "_unsaid",
        "_view",
        "finished",
        "paused",
        "seat",
        "transport",
        "write",
    )

    def __init__(self, taken: Taken, view: View, fmt: Format[bytes], side: S) -> None:
        self.transport = taken.transport
        self.write = taken.transport.write
        self.paused = False
        self.finished = False
        self._unsaid: Reason | None = None  # why it ends, until there is room to say so
        self.seat: Seat[bytes] = view.seat(self, fmt)
        self._view = view
        self._connections = taken.connections
        self._side = side

    def begin(self) -> None:
        """Take the transport over, and catch up."""
        self._connections.add(self)  # uvicorn counts it, and calls shutdown() on it
        self.transport.set_protocol(self)
        self._view.settle()
        self.seat.catch_up()

    def beat(self, payload: bytes) -> None:
        """Nobody answers on an event stream; TCP_USER_TIMEOUT tells who is gone."""
        self.write(payload)

    def finish(self, reason: Reason) -> None:
        """Write the last bytes and close, now or when there is room. Who does not take them is cut off after the send timeout."""
        if self.finished:
            return
        has_room = not self.paused
        self.finished = self.paused = True  # nobody else writes any more
        self._side.blocked.add(self)
        if has_room:
            self._say_goodbye(reason)
        else:
            self._unsaid = reason

    def _say_goodbye(self, reason: Reason) -> None:
        self.write(self._side.closing(reason))
        self.close()

    def close(self) -> None:
        """The last bytes are written."""
        self.transport.close()

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self.transport.get_write_buffer_size()

    def abort(self) -> None:
        """End it hard; what is in its buffer is lost, and the viewer resumes."""
        self.transport.abort()

    def pause_writing(self) -> None:
        """The transport's buffer is over its high-water mark (64 KiB)."""
        self.paused = True
        self._side.blocked.add(self)
        self.transport.pause_reading()  # who does not read us is not read either

    def resume_writing(self) -> None:
        """It is below the low-water mark."""
        # Not in this call: asyncio's selector transport loses the connection twice when it is closed from in here.
        asyncio.get_running_loop().call_soon(self._resume)

    def _resume(self) -> None:
        if self.transport.is_closing():
            return
        if self._unsaid is not None:
            reason, self._unsaid = self._unsaid, None
            self._say_goodbye(reason)
        elif not self.finished:
            self._side.blocked.discard(self)
            self.paused = False
            self.seat.catch_up()
        self._listen()

    def _listen(self) -> None:
        """Read the client again."""
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self.finished = self.paused = True
        self._connections.discard(self)
        self._side.blocked.discard(self)
        self._view.close()
        # They and this hold each other; apart they are freed at once and not by the garbage collector.
        del self.seat
        self.transport = GONE
        self.write = GONE.write

    def shutdown(self) -> None:
        """uvicorn calls this on every connection at SIGTERM, before it waits for anything: here the drain begins."""
        self._side.hub.begin_drain()


class SseWire(SocketWire[Side]):
    """An event stream on its own socket."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        """Nobody speaks on an event stream: a second request behind an endless answer is a mistake."""
        self.transport.close()
