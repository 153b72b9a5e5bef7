"""The fast wire: a socket that was handed over, written to by the audience itself. No task, no queue, no timer.

Invariant: after `finish` or `connection_lost` nothing is written; while `paused` the transport holds a full buffer, and the
seat waits in the log. What one idle viewer costs is listed in docs/decisions.md.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from websockets.frames import Close, Frame, Opcode
from websockets.protocol import SERVER, State
from websockets.protocol import Protocol as Parser

from hub.engine.view import View
from hub.fanout.audience import Reason, Seat
from hub.fanout.blocked import Blocked
from hub.job.log import Format
from hub.transports.commands import MAX_BYTES, spend


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

    def finish(self, seat: Seat[Any] | None, reason: Reason) -> None:  # noqa: ARG002  # one seat
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

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
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
        self._view.drain_hub()


class SseWire(SocketWire[Side]):
    """An event stream on its own socket."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:  # noqa: ARG002  # asyncio's signature
        """Nobody speaks on an event stream: a second request behind an endless answer is a mistake."""
        self.transport.close()


class WebSocketWire(SocketWire[SpeakingSide]):
    """A WebSocket on its own socket. Client bytes go through the `websockets` library's parser, frame by frame.

    The parser is made when a whole frame is there and dropped when no message is half read, so an idle viewer has none.
    """

    __slots__ = ("_due", "_fragments", "_parser", "_rest", "_silent")

    def __init__(self, taken: Taken, view: View, fmt: Format[bytes], side: SpeakingSide) -> None:
        super().__init__(taken, view, fmt, side)
        self._parser: Parser | None = None
        self._fragments: list[bytes] | None = None
        self._rest = b""  # read and not parsed; bound: a read, or MAX_BYTES and a header
        self._silent = 0  # pings since the last sign of life
        self._due = 0.0  # when its budget of frames is full again; never, once it has said too much

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
        self._rest = self._rest + data if self._rest else data
        self._hear()

    def _hear(self) -> None:
        """Take whole frames, while there is room for the answers: one small command may ask for a megabyte."""
        data, position = self._rest, 0
        self._rest = b""
        while (self.finished or not self.paused) and not self.transport.is_closing():
            end = frame_end(data, position)
            if not end:
                break
            if not self._may_speak():
                self._stop_listening()
                return
            self._parse(data[position:end])
            position = end
        self._rest = data[position:]

    def _parse(self, data: bytes) -> None:
        """One frame."""
        parser = self._parser or Parser(SERVER, max_size=MAX_BYTES)
        if self.finished:  # what it would have noted itself
            parser.state, parser.close_sent = State.CLOSING, Close(1000, "")
        parser.receive_data(data)
        for frame in parser.events_received():
            assert isinstance(frame, Frame), "the handshake is over"
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
            self._unsaid = None
            self._side.blocked.add(self)
            self.transport.close()

    def _may_speak(self) -> bool:
        """Take one frame from its budget. Control frames too: a Pong that nobody asked for costs us a parser."""
        due = spend(self._due, asyncio.get_running_loop().time())
        self._due = math.inf if due is None else due
        return due is not None

    def _stop_listening(self) -> None:
        """It has said too much. `Blocked` ends it: looking for its Close would cost us a parser for each frame."""
        self.finish(None, Reason.FLOOD)
        self.transport.pause_reading()

    def _listen(self) -> None:
        """Read the client again, and first what it has said already."""
        if self._due < math.inf:
            super()._listen()
            self._hear()

    def _take(self, frame: Frame) -> None:
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT) or self.finished:
            return
        if self._fragments is None:
            self._fragments = []
        # A binary message is no command, whatever is in it.
        self._fragments.append(b"" if frame.opcode is Opcode.BINARY else bytes(frame.data))
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

    def close(self) -> None:
        """Wait for the client's Close; `Blocked` ends who never sends it (RFC 6455 section 7.1.1)."""


def frame_end(data: bytes, start: int) -> int:
    """Where the frame that begins at `start` ends, 0 when not all of it is there.

    A frame over the limit ends with the data: the parser is to refuse it.
    """
    there = len(data) - start
    if there < 2:
        return 0
    head = 2 + 4 * (data[start + 1] >> 7)
    length = data[start + 1] & 127
    if length >= 126:
        more = 2 if length == 126 else 8
        if there < 2 + more:
            return 0
        length = int.from_bytes(data[start + 2 : start + 2 + more], "big")
        head += more
    if length > MAX_BYTES:
        return len(data)
    return start + head + length if there >= head + length else 0


class _Gone(asyncio.Transport):
    """Stands where a transport was: nobody is there any more, and whoever still has something to do with it need not know."""

    def close(self) -> None:
        """Nothing."""

    def abort(self) -> None:
        """Nothing."""

    def is_closing(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any) -> None:
        """Nothing."""

    def get_write_buffer_size(self) -> int:
        """None."""
        return 0


GONE = _Gone()
