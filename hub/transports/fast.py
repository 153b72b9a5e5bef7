"""The fast wire: a detached socket that audiences write to directly. It has no task, no queue and no timer.

Invariant: after `finish` has written the last bytes, and after `connection_lost`, nothing is written. While
the wire is `paused`, the transport's buffer is full and the seat keeps its position in the log.
docs/decisions.md lists what an idle viewer costs.
"""

from __future__ import annotations

import asyncio
from typing import Generic, Protocol, TypeVar

from hub.engine.hub import Hub
from hub.engine.view import View
from hub.fanout.audience import Seat
from hub.fanout.blocked import TOOK_NOTHING, Blocked
from hub.fanout.wire import Reason
from hub.job.frame import Format
from hub.transports.handoff import GONE, Detached
from hub.transports.tcp import acknowledged


class Side(Protocol):
    """What all sockets of one transport share; each socket holds one reference to it.

    `blocked` has the sockets that take no bytes. `closing` makes the last bytes of a socket.
    """

    @property
    def hub(self) -> Hub: ...

    @property
    def blocked(self) -> Blocked: ...

    def closing(self, reason: Reason) -> bytes: ...


S = TypeVar("S", bound=Side)


class SocketWire(asyncio.Protocol, Generic[S]):
    """A `Wire` on an asyncio transport."""

    __slots__ = (
        "_connections",
        "_side",
        "_unsaid",
        "_view",
        "finished",
        "paused",
        "seat",
        "transport",
    )

    def __init__(self, detached: Detached, view: View, fmt: Format[bytes], side: S) -> None:
        self.transport = detached.transport
        self.paused = False
        self.finished = False
        self._unsaid: Reason | None = None  # why it ends, while the full buffer keeps `finish` from saying so
        self.seat: Seat[bytes] = view.seat(self, fmt)
        self._view = view
        self._connections = detached.connections
        self._side = side

    def start(self, first: bytes = b"") -> None:
        """Become the transport's protocol; write `first`, and what the log has."""
        self._connections.add(self)  # uvicorn counts these protocols, and calls shutdown() on each at SIGTERM
        self.transport.set_protocol(self)
        if first:
            self.write(first)
        self._view.settle()
        self.seat.catch_up()

    def write(self, payload: bytes) -> None:
        """Write to the kernel; the transport keeps what it does not take."""
        self.transport.write(payload)

    def beat(self, payload: bytes) -> None:
        """Write a heartbeat. The client does not answer it; TCP_USER_TIMEOUT finds dead connections."""
        self.write(payload)

    def finish(self, reason: Reason) -> None:
        """Write the last bytes and close, now or when the buffer has room.

        A client that does not take them is cut off after the send timeout.
        """
        if self.finished:
            return
        self._view.why = reason.words
        has_room = not self.paused
        self.finished = self.paused = True  # stops every other writer
        self._side.blocked.add(self)
        if has_room:
            self._say_goodbye(reason)
        else:
            self._unsaid = reason

    def _say_goodbye(self, reason: Reason) -> None:
        self.write(self._side.closing(reason))
        self.close()

    def close(self) -> None:
        """Close the transport; the last bytes are written."""
        self.transport.close()

    @property
    def whose(self) -> tuple[str, str]:
        """The job and the user."""
        return self._view.job_id, self._view.user

    @property
    def unsent(self) -> int:
        """The number of bytes that the kernel has not taken yet."""
        return self.transport.get_write_buffer_size()

    @property
    def acknowledged(self) -> int | None:
        """The bytes that the client has acknowledged; None where only the loop knows the socket."""
        descriptor = getattr(self.transport, "descriptor", None)
        return None if descriptor is None else acknowledged(descriptor)

    def abort(self) -> None:
        """Reset the connection. The bytes in its buffer are lost; the viewer resumes from its cursor."""
        self._view.why = self._view.why or TOOK_NOTHING
        self.transport.abort()

    def pause_writing(self) -> None:
        """asyncio calls this when the transport's buffer is over its high-water mark (64 KiB)."""
        self.paused = True
        self._side.blocked.add(self)
        self.transport.pause_reading()  # backpressure: answers to this client would grow the buffer

    def resume_writing(self) -> None:
        """asyncio calls this when the transport's buffer is below its low-water mark."""
        # Resume later: if a protocol closes asyncio's selector transport inside this call, `connection_lost`
        # is called twice.
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
        self._resume_reading()

    def _resume_reading(self) -> None:
        """Read from the client again."""
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def connection_lost(self, _exc: Exception | None) -> None:
        """The socket is gone: leave the audience, the blocked sockets and uvicorn's connections."""
        self.finished = self.paused = True
        self._connections.discard(self)
        self._side.blocked.discard(self)
        self._view.close()
        # Seat and transport refer to this wire and it to them. Without the cycles, reference counting frees
        # all three at once and the garbage collector has no work.
        del self.seat
        self.transport = GONE

    def shutdown(self) -> None:
        """Begin the drain. uvicorn calls this on every connection at SIGTERM, before any waiting."""
        self._side.hub.begin_drain()


class SseWire(SocketWire[Side]):
    """An event stream on its own socket."""

    __slots__ = ()

    def data_received(self, _data: bytes) -> None:
        """Close the connection: a request pipelined behind an event stream would never be answered."""
        self.transport.close()
