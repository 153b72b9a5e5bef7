"""The fast wire: a socket that was handed over, written to by the audience itself. No task, no queue, no timer.

Invariant: after `finish` or `connection_lost` nothing is written; while `paused` the transport holds a full buffer, and the
seat waits in the log. What one idle viewer costs is listed in docs/decisions.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from websockets.frames import Close, Frame, Opcode
from websockets.protocol import SERVER, State
from websockets.protocol import Protocol as Parser

from hub.blocked import Blocked
from hub.log import Format
from hub.transports.commands import BURST, MAX_BYTES, spend
from hub.view import View
from hub.wire import Reason, Seat


@dataclass(frozen=True, slots=True)
class Taken:
    """A socket that is ours: its transport, and uvicorn's set of connections, in which the new protocol must stand."""

    transport: asyncio.Transport
    connections: set[Any]


class Handoff(Protocol):
    """The entry in `scope["extensions"]`."""

    NAME: ClassVar[str] = "push_hub.handoff"

    @staticmethod
    def of(scope: Mapping[str, Any]) -> Handoff | None:
        """The one of this connection, where the server below has it."""
        found: Handoff | None = scope.get("extensions", {}).get(Handoff.NAME)
        return found

    def take(self, last: bytes | None) -> Taken | None:
        """The socket, or None when it is not to be had. `last` is the very body object that was sent last (SSE)."""

    def cut(self) -> None:
        """Reset the connection: closing it would wait for a buffer that nobody reads."""


def is_plain(transport: asyncio.Transport) -> bool:
    """Whether what is written to `transport` goes to the kernel as it is."""
    return not transport.is_closing() and transport.get_extra_info("ssl_object") is None


MISSED_PONGS = 2
"""Heartbeats without a sign of life until a WebSocket counts as dead."""


class Side(Protocol):
    """What all sockets of one transport share, so that each holds one reference: who is blocked, and the last bytes."""

    @property
    def blocked(self) -> Blocked: ...

    def closing(self, reason: Reason) -> bytes: ...


class SpeakingSide(Side, Protocol):
    """The same where clients speak: the answer to a message, as bytes for the socket."""

    def answer(self, view: View, data: str) -> bytes: ...


S = TypeVar("S", bound=Side)


class SocketWire(asyncio.Protocol, Generic[S]):
    """A `Wire` on a transport."""

    __slots__ = ("_connections", "_side", "_view", "finished", "paused", "seat", "transport", "write")

    def __init__(self, taken: Taken, view: View, fmt: Format[bytes], side: S) -> None:
        self.transport = taken.transport
        self.write = taken.transport.write
        self.paused = False
        self.finished = False
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

    def finish(self, seat: Seat[Any] | None, reason: Reason) -> None:  # noqa: ARG002  # one seat
        """Write the last bytes and close. Who does not take them is cut off after the send timeout."""
        if self.finished:
            return
        blocked = self.paused
        self.finished = self.paused = True
        self._side.blocked.add(self)
        if not blocked:
            self.write(self._side.closing(reason))
            self.close(reason)

    def close(self, reason: Reason) -> None:  # noqa: ARG002  # a WebSocket's close is a conversation
        """The last bytes are written."""
        self.transport.close()

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
        if self.finished:
            return
        self._side.blocked.discard(self)
        self.paused = False
        self.transport.resume_reading()
        self.seat.catch_up()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """The socket is gone."""
        self.finished = self.paused = True
        self._connections.discard(self)
        self._side.blocked.discard(self)
        self._view.close()
        # They and this hold each other; apart they are freed at once and not by the garbage collector.
        del self.seat, self.transport, self.write

    def shutdown(self) -> None:
        """uvicorn calls this on every connection at SIGTERM, before it waits for anything: here the drain begins."""
        self._view.drain_hub()


class SseWire(SocketWire[Side]):
    """An event stream on its own socket."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:  # noqa: ARG002  # asyncio's signature
        """Nobody speaks on an event stream: a second request behind an endless answer is a mistake."""
        self.transport.close()


class WebSocketWire(SocketWire[SpeakingSide]):
    """A WebSocket on its own socket. Client bytes go through the `websockets` library's parser.

    The parser is made when a whole frame is there and dropped when no message is half read, so an idle viewer has none.
    """

    __slots__ = ("_due", "_fragments", "_parser", "_rest", "_silent")

    def __init__(self, taken: Taken, view: View, fmt: Format[bytes], side: SpeakingSide) -> None:
        super().__init__(taken, view, fmt, side)
        self._parser: Parser | None = None
        self._fragments: list[bytes] | None = None
        self._rest = b""  # the beginning of a frame; bound: MAX_BYTES and a header
        self._silent = 0  # pings since the last sign of life
        self._due = 0.0  # when its budget of frames is full again

    def beat(self, payload: bytes) -> None:
        """There is a Ping in it; too many without a sign of life and the peer is dead."""
        if self._silent >= MISSED_PONGS:
            self.transport.abort()
            return
        self._silent += 1
        self.write(payload)

    def data_received(self, data: bytes) -> None:
        """Bytes from the client: pongs mostly, sometimes a command."""
        self._silent = 0
        data = self._rest + data if self._rest else data
        end = whole_frames(data)
        self._rest = data[end:]
        if not end:
            return
        parser = self._parser or Parser(SERVER, max_size=MAX_BYTES)
        if self.finished:  # what it would have noted itself
            parser.state, parser.close_sent = State.CLOSING, Close(1000, "")
        parser.receive_data(data[:end])
        for frame in parser.events_received():
            assert isinstance(frame, Frame), "the handshake is over"
            if not self._may_speak():
                self.finish(None, Reason.FLOOD)
                self._rest = b""
                self.transport.pause_reading()  # `Blocked` ends it: looking for its Close would cost us a parser
                break
            self._take(frame)
        self._parser = parser if self._fragments is not None else None
        self._flush(parser)

    def _flush(self, parser: Parser) -> None:
        """What the parser wants to say: pongs, the echo of a close, a close for a protocol error."""
        output = b"".join(parser.data_to_send())
        if output and not self.finished:
            self.write(output)
        if parser.close_rcvd is not None or parser.parser_exc is not None:
            self.finished = self.paused = True
            self._side.blocked.add(self)
            self.transport.close()

    def _may_speak(self) -> bool:
        """Take one frame from its budget. Control frames too: a Pong that nobody asked for costs us a parser."""
        due = spend(self._due, asyncio.get_running_loop().time())
        self._due = self._due if due is None else due
        return due is not None

    def _take(self, frame: Frame) -> None:
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT) or self.finished:
            return
        if self._fragments is None:
            self._fragments = []
        self._fragments.append(bytes(frame.data))
        if frame.fin:
            whole, self._fragments = b"".join(self._fragments), None
            self._execute(whole)

    def _execute(self, data: bytes) -> None:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            self.finish(None, Reason.NOT_TEXT)
            return
        self.write(self._side.answer(self._view, text))

    def close(self, reason: Reason) -> None:
        """Wait for the client's Close; `Blocked` ends who never sends it (RFC 6455 section 7.1.1)."""


def whole_frames(data: bytes) -> int:
    """Where the last whole frame in `data` ends. A frame over the limit counts as whole: the parser is to refuse it.

    Or where it has more than anybody may send at once: one read can bring 40,000, half a second of parsing.
    """
    position = 0
    for _ in range(2 * BURST):
        if len(data) - position < 2:
            break
        head = 2 + 4 * (data[position + 1] >> 7)
        length = data[position + 1] & 127
        if length >= 126:
            more = 2 if length == 126 else 8
            if len(data) - position < 2 + more:
                break
            length = int.from_bytes(data[position + 2 : position + 2 + more], "big")
            head += more
        if length > MAX_BYTES:
            return len(data)
        if len(data) - position < head + length:
            break
        position += head + length
    return position
