"""The parser of a Pub/Sub connection: what redis-py connected is taken over, and every end is told."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis
from redis.exceptions import InvalidResponse, MovedError, ResponseError

from hub.broker.replies import Replies


class Server:
    """Says what it is told to."""

    def __init__(self) -> None:
        self.writers: list[asyncio.StreamWriter] = []
        self.heard = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        while data := await reader.read(1 << 16):
            self.heard += data
            if b"GREETING" in data:
                writer.write(b"+OK\r\n:1\r\n")

    async def say(self, data: bytes) -> None:
        self.writers[-1].write(data)
        await self.writers[-1].drain()


@pytest.fixture
async def server():
    made = Server()
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = listening.sockets[0].getsockname()[1]
    yield made
    listening.close()
    for writer in made.writers:
        writer.close()


async def connected(server: Server):
    """A connection of redis-py that says nothing by itself."""
    client = Redis(port=server.port, protocol=2, driver_info=None)
    connection = client.connection_pool.connection_class(**client.connection_pool.connection_kwargs)
    await connection.connect()
    await until(lambda: server.writers)
    return connection


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def test_every_reply_is_taken_whatever_pieces_it_comes_in(server):
    connection = await connected(server)
    got: list[object] = []
    replies = Replies.of(connection, got.append)
    assert replies is not None
    message = b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$5\r\nhello\r\n"
    for data in (message * 3, message[:9], message[9:30], message[30:] + message[:1], message[1:]):
        await server.say(data)
        await asyncio.sleep(0.005)
    await until(lambda: len(got) == 5)
    assert got == [[b"message", b"a", b"hello"]] * 5
    await connection.disconnect()
    await replies.ended()


async def test_errors_of_redis_are_replies_of_their_class(server):
    connection = await connected(server)
    got: list[object] = []
    Replies.of(connection, got.append)
    await server.say(b"-MOVED 7 127.0.0.1:7001\r\n-NOPERM no\r\n+OK\r\n")
    await until(lambda: len(got) == 3)
    moved, refused, _ = got
    assert isinstance(moved, MovedError)
    assert (moved.slot_id, moved.port) == (7, 7001)
    assert isinstance(refused, ResponseError)
    await connection.disconnect()


async def test_redis_may_close_it(server):
    connection = await connected(server)
    replies = Replies.of(connection, lambda _: None)
    server.writers[-1].close()
    async with asyncio.timeout(5):
        await replies.ended()
    await connection.disconnect(nowait=True)


@pytest.mark.parametrize(("data", "error"), [(b"?what\r\n", InvalidResponse), (b"+x\r\n", ZeroDivisionError)])
async def test_what_cannot_be_taken_ends_it(server, data, error):
    """A byte that is no reply, and an error of ours. Nothing that follows is taken."""
    connection = await connected(server)
    taken: list[object] = []

    def take(reply: object) -> None:
        taken.append(reply)
        raise ZeroDivisionError

    replies = Replies.of(connection, take)
    await server.say(data * 3)
    with pytest.raises(error):
        async with asyncio.timeout(5):
            await replies.ended()
    assert len(taken) <= 1
    await connection.disconnect(nowait=True)


async def test_who_waits_may_be_cancelled(server):
    connection = await connected(server)
    replies = Replies.of(connection, lambda _: None)
    waiting = asyncio.create_task(replies.ended())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await connection.disconnect()
    await replies.ended()


async def test_redis_py_goes_on_writing(server):
    connection = await connected(server)
    got: list[object] = []
    Replies.of(connection, got.append)
    await connection.send_packed_command(connection.pack_command("GREETING"), check_health=False)
    await until(lambda: got == [b"OK", 1])
    await connection.disconnect()


async def test_a_connection_with_something_under_way_or_of_another_kind_is_left_to_redis_py(
    server, fake_redis
):
    connection = await connected(server)
    await server.say(b"+early\r\n")
    await until(lambda: connection._reader._buffer)
    assert Replies.of(connection, lambda _: None) is None
    assert await connection.read_response() == b"early"
    await connection.disconnect()
    fake = fake_redis.connection_pool.make_connection()
    await fake.connect()
    assert Replies.of(fake, lambda _: None) is None
    await fake.disconnect()
