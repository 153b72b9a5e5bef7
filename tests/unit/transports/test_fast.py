"""The WebSocket on the fast wire against RFC 6455: what clients may send, in any fragmentation."""

from __future__ import annotations

import asyncio
import random
import struct

import pytest
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import CLIENT
from websockets.protocol import Protocol as Parser

from hub.fanout.blocked import Blocked
from hub.fanout.wire import Reason
from hub.totals import Totals
from hub.transports.commands import BURST, MAX_BYTES
from hub.transports.fast_websocket import WebSocketWire, frame_end
from hub.transports.handoff import Detached
from hub.transports.websocket import wire_frame


class Transport:
    """An asyncio transport, as far as the wire uses one."""

    def __init__(self):
        self.written = bytearray()
        self.closed = self.aborted = self.reading_paused = False
        self.unsent = 0

    def write(self, data):
        assert not self.closed, "nothing is written after the close"
        self.written += data

    def close(self):
        self.closed = True

    def abort(self):
        self.closed = self.aborted = True

    def is_closing(self):
        return self.closed

    def get_write_buffer_size(self):
        return self.unsent

    def set_protocol(self, protocol):
        self.protocol = protocol

    def pause_reading(self):
        self.reading_paused = True

    def resume_reading(self):
        self.reading_paused = False


class Seat:
    """A seat that has caught up."""

    def catch_up(self):
        pass


class View:
    """A view that counts its closings."""

    why = ""
    job_id, user = "a", "ada"

    def __init__(self):
        self.closings = 0

    def seat(self, wire, fmt):
        return Seat()

    def settle(self):
        pass

    def close(self):
        self.closings += 1


class Client:
    """The client: sends masked frames, and reads the wire's bytes with the `websockets` library."""

    def __init__(self):
        self.transport = Transport()
        self.view = View()
        self.said: list[str] = []
        self.connections: set = set()
        self.blocked = Blocked(10, Totals())
        self.wire = WebSocketWire(Detached(self.transport, self.connections), self.view, None, self)
        self.wire.start()

    def closing(self, reason: Reason) -> bytes:
        return wire_frame(Close(reason.close_code, reason.words).serialize(), Opcode.CLOSE)

    def answer(self, wire, view, text: str) -> bytes:
        self.said.append(text)
        return wire_frame(text.encode())

    def send(self, opcode: Opcode, data: bytes = b"", *, fin: bool = True, mask: bool = True) -> None:
        self.wire.data_received(Frame(opcode, data, fin).serialize(mask=mask))

    def received(self) -> list[Frame]:
        parser = Parser(CLIENT)
        parser.receive_data(bytes(self.transport.written))
        assert parser.parser_exc is None
        return parser.events_received()

    @property
    def close_code(self) -> int | None:
        closes = [frame for frame in self.received() if frame.opcode is Opcode.CLOSE]
        return Close.parse(closes[-1].data).code if closes else None


@pytest.fixture
async def client() -> Client:
    return Client()


async def test_text_is_answered(client):
    """A message in one frame is answered."""
    client.send(Opcode.TEXT, "grüße 日本".encode())
    assert client.said == ["grüße 日本"]


async def test_fragments_are_one_message_and_control_frames_may_stand_between(client):
    """RFC 6455, section 5.4: fragments form one message, and control frames may come between them."""
    client.send(Opcode.TEXT, "gr\u00fc".encode()[:3], fin=False)
    client.send(Opcode.PING, b"now")
    client.send(Opcode.CONT, "gr\u00fc".encode()[3:] + b"-", fin=False)
    client.send(Opcode.CONT, b"end")
    assert client.said == ["grü-end"]
    assert [frame.opcode for frame in client.received()] == [Opcode.PONG, Opcode.TEXT]


async def test_a_ping_is_answered_with_its_payload(client):
    """RFC 6455, section 5.5.3: the Pong has the payload of the Ping."""
    client.send(Opcode.PING, b"x" * 125)
    (pong,) = client.received()
    assert (pong.opcode, pong.data) == (Opcode.PONG, b"x" * 125)


async def test_an_idle_client_costs_no_parser(client):
    """The parser is made when bytes arrive, and dropped when no message is incomplete."""
    client.send(Opcode.PONG, b"")
    client.send(Opcode.TEXT, b"hello")
    assert client.wire._parser is None
    assert client.wire._rest == b""


@pytest.mark.parametrize("seed", range(20))
async def test_any_cutting_gives_the_same_messages(client, seed):
    """Frames of all lengths, read in random pieces down to single bytes, give the same messages."""
    rng = random.Random(seed)
    texts = ["x" * rng.choice([0, 1, 125, 126, 127, 4000, 65535, MAX_BYTES]) for _ in range(6)]
    data = b"".join(Frame(Opcode.TEXT, text.encode()).serialize(mask=True) for text in texts)
    while data:
        cut = rng.choice([1, 2, 3, 7, 100, 5000, 70000])
        client.wire.data_received(data[:cut])
        data = data[cut:]
    assert client.said == texts
    assert client.close_code is None


@pytest.mark.parametrize(
    ("bytes_", "code"),
    [
        pytest.param(Frame(Opcode.TEXT, b"hi").serialize(mask=False), 1002, id="not masked"),
        pytest.param(b"\x83\x80\0\0\0\0", 1002, id="reserved data opcode"),
        pytest.param(b"\x8b\x80\0\0\0\0", 1002, id="reserved control opcode"),
        pytest.param(b"\xc1\x80\0\0\0\0", 1002, id="reserved bit without an extension"),
        pytest.param(b"\x09\x80\0\0\0\0", 1002, id="fragmented ping"),
        pytest.param(b"\x89\xfe\x00\x7e\0\0\0\0" + b"x" * 126, 1002, id="ping of 126 bytes"),
        pytest.param(b"\x80\x80\0\0\0\0", 1002, id="continuation of nothing"),
        pytest.param(b"\x01\x80\0\0\0\0" + b"\x81\x80\0\0\0\0", 1002, id="a new message in a message"),
        pytest.param(b"\x88\x81\0\0\0\0x", 1002, id="close with one byte"),
        pytest.param(b"\x88\x82\0\0\0\0" + struct.pack("!H", 999), 1002, id="close code 999"),
        pytest.param(b"\x88\x82\0\0\0\0" + struct.pack("!H", 1005), 1002, id="close code 1005"),
        pytest.param(
            b"\x88\x84\0\0\0\0" + struct.pack("!H", 1000) + b"\xff\xff", 1007, id="close reason not UTF-8"
        ),
        pytest.param(b"\x81\x82\0\0\0\0\xff\xff", 1007, id="text not UTF-8"),
        pytest.param(b"\x81\xff" + (MAX_BYTES + 1).to_bytes(8, "big") + b"\0" * 4, 1009, id="over the limit"),
        pytest.param(b"\x81\xff" + (2**63 - 1).to_bytes(8, "big") + b"\0" * 4, 1009, id="2^63 - 1"),
    ],
)
async def test_what_is_against_the_rules_is_closed_with_its_code(client, bytes_, code):
    """RFC 6455, section 7.4.1 has the codes; later messages are not executed."""
    client.wire.data_received(bytes_)
    assert client.close_code == code
    client.said.clear()
    client.send(Opcode.TEXT, b"more")
    assert client.said == []


async def test_fragments_over_the_limit_are_closed(client):
    """The limit is for the whole message, not for one frame."""
    for _ in range(3):
        client.send(Opcode.TEXT if not client.wire._fragments else Opcode.CONT, b"x" * 30_000, fin=False)
    assert client.close_code == 1009


async def test_a_close_is_echoed_and_the_socket_closed(client):
    """RFC 6455, section 5.5.1: a Close is echoed, then the socket is closed."""
    client.send(Opcode.CLOSE, Close(1001, "going").serialize())
    assert client.close_code == 1001
    assert client.transport.closed


async def test_our_close_waits_for_theirs(client):
    """The socket is closed when the client's Close arrives; Pongs before it change nothing."""
    client.wire.finish(Reason.RESTART)
    assert client.close_code == 1012
    assert not client.transport.closed
    client.send(Opcode.PONG, b"")
    client.send(Opcode.CLOSE, Close(1012, "").serialize())
    assert client.transport.closed


async def test_a_client_that_never_answers_a_close_is_cut_off(client):
    """A client that never answers is cut off after the send timeout; `close` would wait for ever."""
    client.wire.finish(Reason.ENDED)
    now = asyncio.get_running_loop().time()
    client.blocked.abort(now + 9)
    assert not client.transport.aborted
    client.blocked.abort(now + 11)
    assert client.transport.aborted


async def test_two_pings_without_a_sign_of_life_are_the_end(client):
    """Two unanswered Pings abort the socket; any byte from the client counts as an answer."""
    for _ in range(2):
        client.wire.beat(b"")
    client.send(Opcode.PONG, b"")
    for _ in range(2):
        client.wire.beat(b"")
    assert not client.transport.aborted
    client.wire.beat(b"")
    assert client.transport.aborted


async def test_a_flood_of_commands_is_closed(client):
    """A flood is closed with 1008, and its remaining commands are not executed."""
    client.wire.data_received(
        b"".join(Frame(Opcode.TEXT, b"x").serialize(mask=True) for _ in range(BURST + 50))
    )
    assert client.close_code == 1008
    assert len(client.said) <= BURST + 1


async def test_a_full_buffer_stops_the_reading(client):
    """The hub stops reading from a client that floods Pings and reads no Pongs, and cuts it off."""
    client.wire.pause_writing()
    assert client.transport.reading_paused
    assert len(client.blocked) == 1
    client.wire.resume_writing()
    await asyncio.sleep(0)
    assert not client.transport.reading_paused
    assert len(client.blocked) == 0


async def test_a_lost_connection_gives_everything_back(client):
    """The wire leaves the view, uvicorn's set of connections and the blocked sockets."""
    assert client.connections == {client.wire}
    client.wire.pause_writing()
    client.wire.connection_lost(None)
    assert not client.connections
    assert len(client.blocked) == 0
    assert client.view.closings == 1


def test_a_frame_is_whole_when_all_of_it_is_there():
    """`frame_end` finds the end of a frame only if all its bytes are there."""
    frames = [Frame(Opcode.TEXT, b"x" * size).serialize(mask=True) for size in (0, 5, 126, 65535)]
    data = b"".join(frames)
    ends = {sum(map(len, frames[:count])) for count in range(5)}
    for cut in [*range(150), *range(len(data) - 50, len(data) + 1)]:
        found = 0
        while end := frame_end(data[:cut], found):
            found = end
        assert found == max(end for end in ends if end <= cut)


async def test_a_binary_message_is_no_command(client):
    """A binary message is answered with the error for text that is not JSON, as on the portable wire."""
    client.send(Opcode.BINARY, b'{"op":"ping"}')
    assert client.said == [""]


async def test_last_words_wait_for_room(client):
    """If the client reads a moment later, it still gets the reason and is not cut off."""
    client.wire.pause_writing()
    client.wire.finish(Reason.RESTART)
    assert not client.transport.written
    client.wire.resume_writing()
    await asyncio.sleep(0)
    assert client.close_code == 1012


async def test_commands_wait_for_room(client):
    """A command with a large answer may come a hundred times in one read, so the rest must wait."""
    client.wire.pause_writing()
    client.send(Opcode.TEXT, b"a")
    client.send(Opcode.TEXT, b"b")
    assert client.said == []
    client.wire.resume_writing()
    await asyncio.sleep(0)
    assert client.said == ["a", "b"]


async def test_a_client_that_takes_a_little_at_a_time_is_slow_and_not_blocked(client):
    """A client is cut off only if it takes no bytes for the whole timeout."""
    now = asyncio.get_running_loop().time()
    client.transport.unsent = 100_000
    client.wire.pause_writing()
    for later in range(1, 5):
        client.transport.unsent -= 1
        client.blocked.abort(now + later * 8)
    assert not client.transport.aborted
    client.blocked.abort(now + 4 * 8 + 11)
    assert client.transport.aborted
    assert client.blocked._totals.blocked == 1


async def test_a_client_that_says_close_and_does_not_read_is_cut_off(client):
    """The echo stays in the buffer, and without the timeout the transport would wait for ever."""
    client.send(Opcode.CLOSE, Close(1001, "going").serialize())
    client.blocked.abort(asyncio.get_running_loop().time() + 11)
    assert client.transport.aborted
