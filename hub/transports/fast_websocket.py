"""The fast wire of a WebSocket: frames in both directions on a socket that was handed over."""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

from websockets.frames import Close, Frame, Opcode
from websockets.protocol import SERVER, State
from websockets.protocol import Protocol as Parser

from hub.engine.view import View
from hub.fanout.wire import Reason
from hub.job.frame import Format
from hub.transports.commands import MAX_BYTES, spend
from hub.transports.fast import Side, SocketWire
from hub.transports.handoff import Taken

MISSED_PONGS = 2
"""Heartbeats without a sign of life until a WebSocket counts as dead."""


class SpeakingSide(Side, Protocol):
    """The same where clients speak: the answer to a message, as bytes for the socket."""

    def answer(self, view: View, data: str) -> bytes: ...


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
        self.finish(Reason.FLOOD)
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
            self.finish(Reason.NOT_TEXT)
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
