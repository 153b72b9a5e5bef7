"""The fast wire of a WebSocket: frames in both directions on a detached socket."""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

from websockets.frames import Close, Frame, Opcode
from websockets.protocol import SERVER, State
from websockets.protocol import Protocol as Parser

from hub.engine.view import View
from hub.fanout.blocked import UNANSWERED
from hub.fanout.wire import Reason
from hub.job.frame import Format
from hub.transports.commands import MAX_BYTES, charge, spend
from hub.transports.fast import Side, SocketWire
from hub.transports.handoff import Detached

MISSED_PONGS = 2
"""Heartbeats without a byte from the client until a WebSocket counts as dead."""


class SpeakingSide(Side, Protocol):
    """What all sockets share on a transport whose clients send messages.

    `answer` makes the answer to one message, as bytes for the socket; b"" if it is written later.
    """

    def answer(self, wire: WebSocketWire, view: View, data: str) -> bytes: ...


class WebSocketWire(SocketWire[SpeakingSide]):
    """A WebSocket on a detached socket. The `websockets` library parses what the client sends, frame by
    frame.

    A parser is made when a whole frame has arrived and dropped when no message is incomplete, so an idle
    viewer has none.
    """

    __slots__ = ("_due", "_fragments", "_late", "_parser", "_rest", "_silent")

    def __init__(
        self, detached: Detached, view: View, fmt: Format[bytes], side: SpeakingSide, *, late: float = 0.0
    ) -> None:
        super().__init__(detached, view, fmt, side)
        self._late = late  # seconds until the close of a job that was over on arrival
        self._parser: Parser | None = None
        self._fragments: list[bytes] | None = None  # of the incomplete message, if there is one
        self._rest = b""  # read but not parsed; bound: one read, or MAX_BYTES and a header
        self._silent = 0  # Pings since the last byte from the client
        self._due = 0.0  # loop time at which the client's budget is full again; infinite after a flood

    def beat(self, payload: bytes) -> None:
        """Write a heartbeat, which has a Ping in it; abort if the client did not answer the last ones."""
        if self._silent >= MISSED_PONGS:
            self._view.why = UNANSWERED
            self.transport.abort()
            return
        self._silent += 1
        self.write(payload)

    def finish(self, reason: Reason) -> None:
        """Write the last bytes and close; later, if the job was over on arrival (see `ARRIVED_LATE`)."""
        late, self._late = self._late, 0.0
        if late and reason is Reason.ENDED:
            asyncio.get_running_loop().call_later(late, super().finish, reason)
        else:
            super().finish(reason)

    def data_received(self, data: bytes) -> None:
        """Read bytes from the client: mostly Pongs, sometimes a command."""
        self._silent = 0
        self._rest = self._rest + data if self._rest else data
        self._parse_waiting()

    def _parse_waiting(self) -> None:
        """Parse whole frames while there is room for answers: a short command may ask for a megabyte."""
        data, position = self._rest, 0
        self._rest = b""
        while (self.finished or not self.paused) and not self.transport.is_closing():
            end = frame_end(data, position)
            if not end:
                break
            if not self._within_budget():
                self._refuse_flood()
                return
            self._parse(data[position:end])
            position = end
        self._rest = data[position:]

    def _parse(self, data: bytes) -> None:
        """Parse one frame."""
        parser = self._parser or Parser(SERVER, max_size=MAX_BYTES)
        if self.finished:  # `finish` wrote the Close frame itself, so the parser does not know of it
            parser.state, parser.close_sent = State.CLOSING, Close(1000, "")
        parser.receive_data(data)
        for frame in parser.events_received():
            assert isinstance(frame, Frame), "the handshake is over"
            self._collect(frame)
        self._parser = parser if self._fragments is not None else None
        self._flush(parser)

    def _flush(self, parser: Parser) -> None:
        """Write what the parser has to send: Pongs, the echo of a Close, the Close after a protocol error."""
        output = b"".join(parser.data_to_send())
        if output and not self.finished:
            self.write(output)
        if parser.close_rcvd is not None or parser.parser_exc is not None:
            self.finished = self.paused = True
            self._unsaid = None
            self._side.blocked.add(self)
            self.transport.close()

    def _within_budget(self) -> bool:
        """Spend one frame of the client's budget. Control frames count too: each one needs a parser."""
        due = spend(self._due, asyncio.get_running_loop().time())
        self._due = math.inf if due is None else due
        return due is not None

    def _refuse_flood(self) -> None:
        """End the socket and stop reading.

        `Blocked` closes it later: waiting for the client's Close would mean to parse each further frame.
        """
        self.finish(Reason.FLOOD)
        self.transport.pause_reading()

    def _resume_reading(self) -> None:
        """Read from the client again, and parse what has already been read."""
        if self._due < math.inf:
            super()._resume_reading()
            self._parse_waiting()

    def _collect(self, frame: Frame) -> None:
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT) or self.finished:
            return
        if self._fragments is None:
            self._fragments = []
        # A binary message is not a command, so its content is dropped.
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
        if answer := self._side.answer(self, self._view, text):
            self.answer(answer)

    def answer(self, data: bytes) -> None:
        """Write the answer to a command, for which the client is charged."""
        self._due = charge(self._due, len(data))
        self.write(data)

    def close(self) -> None:
        """Do not close yet: the client's Close ends the socket, or `Blocked` does (RFC 6455, 7.1.1)."""


def frame_end(data: bytes, start: int) -> int:
    """The index after the frame that begins at `start`, or 0 if the frame is incomplete.

    For a frame longer than `MAX_BYTES` this is the end of the data, so that the parser gets its header and
    refuses it.
    """
    available = len(data) - start
    if available < 2:
        return 0
    head = 2 + 4 * (data[start + 1] >> 7)
    length = data[start + 1] & 127
    if length >= 126:
        more = 2 if length == 126 else 8
        if available < 2 + more:
            return 0
        length = int.from_bytes(data[start + 2 : start + 2 + more], "big")
        head += more
    if length > MAX_BYTES:
        return len(data)
    return start + head + length if available >= head + length else 0
