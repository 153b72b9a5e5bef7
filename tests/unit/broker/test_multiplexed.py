"""One connection for the commands of everybody: order, errors, lost and frozen servers, cancelled callers, its end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import fakeredis
import pytest
from redis.asyncio import Redis
from redis.asyncio.connection import Connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from hub.broker import multiplexed
from hub.broker.connect import client_like, close, for_publishing, for_requests, multiplex
from hub.demo.embedded import EmbeddedServer


@pytest.fixture
async def client(real_redis: Redis) -> AsyncIterator[Redis]:
    """A client with such a connection."""
    made = client_like(real_redis)
    multiplex(made)
    yield made
    await close(made)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "hub-redis-commands"]


def no_pool(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on redis-py's own way fails."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection of the pool was taken")

    monkeypatch.setattr(client.connection_pool, "get_connection", refuse)


async def connections(redis: Redis) -> int:
    return len(await redis.client_list())


async def test_everybody_gets_their_own_answers(client, real_redis, monkeypatch):
    """A thousand callers at once, on one connection, each with several commands."""
    no_pool(client, monkeypatch)
    before = await connections(real_redis)

    async def one(n: int) -> list[Any]:
        commands = [("SET", f"k{n}", n), ("GET", f"k{n}"), ("ECHO", f"{n}")]
        return await multiplexed.ask(client, commands)

    answers = await asyncio.gather(*map(one, range(1000)))
    assert answers == [[b"OK", f"{n}".encode(), f"{n}".encode()] for n in range(1000)]
    assert await connections(real_redis) == before + 1


async def test_the_commands_of_a_turn_are_one_write(client, monkeypatch):
    """A hundred callers of one turn of the loop cost one system call."""
    await multiplexed.ask(client, [("PING",)])
    writes: list[bytes] = []
    monkeypatch.setattr(
        multiplexed.Replies, "write", lambda self, data: (writes.append(data), self._transport.write(data))
    )
    await asyncio.gather(*(multiplexed.ask(client, [("PING",)]) for _ in range(100)))
    assert len(writes) == 1


async def test_an_error_is_an_answer(client):
    """A command that Redis refuses is the caller's own, and nobody else's."""
    await multiplexed.ask(client, [("SET", "text", "x")])
    wrong, well = await asyncio.gather(
        multiplexed.ask(client, [("HGETALL", "text"), ("GET", "text")]),
        multiplexed.ask(client, [("GET", "text")]),
    )
    assert isinstance(wrong[0], ResponseError)
    assert str(wrong[0]).startswith("WRONGTYPE")
    assert wrong[1] == well[0] == b"x"


async def test_atomic_commands_have_the_answers_of_exec(client):
    """In a transaction an error of one command is its answer; a command that is none is everybody's."""
    await client.set("text", "x")
    first, second = await multiplexed.ask(client, [("HGETALL", "text"), ("GET", "text")], atomic=True)
    assert isinstance(first, ResponseError)
    assert second == b"x"
    with pytest.raises(ResponseError, match="unknown command"):
        await multiplexed.ask(client, [("NOSUCH",), ("GET", "text")], atomic=True)
    assert await multiplexed.ask(client, [("GET", "text")]) == [b"x"]


async def test_a_cancelled_caller_takes_nothing_from_the_others(client):
    """The answer of a caller that is gone is dropped, and the next one is the next caller's."""
    await multiplexed.ask(client, [("PING",)])
    gone = asyncio.create_task(multiplexed.ask(client, [("ECHO", "gone"), ("ECHO", "too")]))
    stays = asyncio.create_task(multiplexed.ask(client, [("ECHO", "stays")]))
    await asyncio.sleep(0)
    gone.cancel()
    assert await stays == [b"stays"]
    assert gone.cancelled()


async def test_a_caller_that_is_cancelled_while_it_connects_ends_no_other(client):
    """The attempt to connect is everybody's."""
    first = asyncio.create_task(multiplexed.ask(client, [("ECHO", "a")]))
    second = asyncio.create_task(multiplexed.ask(client, [("ECHO", "b")]))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == [b"b"]


async def test_a_lost_connection_is_made_again(client, real_redis, monkeypatch):
    """Kills between and during commands: each is tried again, as often as the pool says."""
    async with asyncio.timeout(10):  # a caller that nobody wakes would wait for ever
        no_pool(client, monkeypatch)
        for n in range(5):
            assert await multiplexed.ask(client, [("ECHO", f"{n}")]) == [f"{n}".encode()]
            await real_redis.client_kill_filter(_type="normal", skipme=True)
        asked = [asyncio.create_task(multiplexed.ask(client, [("ECHO", f"{n}")])) for n in range(50)]
        await asyncio.sleep(0)
        await real_redis.client_kill_filter(_type="normal", skipme=True)
        assert await asyncio.gather(*asked) == [[f"{n}".encode()] for n in range(50)]


async def test_without_a_server_everybody_gets_an_error():
    """A refused connection is the error of all who wait for it, and of no later caller."""
    with EmbeddedServer() as server:
        client = for_requests(server.url)
        assert isinstance(client, Redis)
        server.kill()
        ends = await asyncio.gather(
            *(multiplexed.ask(client, [("PING",)]) for _ in range(20)), return_exceptions=True
        )
        assert {type(end) for end in ends} == {RedisConnectionError}
        server.start()
        assert await multiplexed.ask(client, [("PING",)]) == [b"PONG"]
        await close(client)


async def test_a_frozen_server_is_given_up():
    """One that answers nothing for the pool's timeout: all who wait are told, and the next try is a new
    connection."""
    with EmbeddedServer() as server:
        client = for_requests(server.url.replace("/0", "/0?socket_timeout=0.1"))
        assert isinstance(client, Redis)
        await multiplexed.ask(client, [("PING",)])
        server.process.send_signal(signal.SIGSTOP)
        try:
            ends = await asyncio.gather(
                *(multiplexed.ask(client, [("PING",)]) for _ in range(20)), return_exceptions=True
            )
        finally:
            server.process.send_signal(signal.SIGCONT)
        assert all(isinstance(end, RedisTimeoutError | RedisConnectionError) for end in ends)
        assert await multiplexed.ask(client, [("PING",)]) == [b"PONG"]
        await close(client)


async def test_a_slow_answer_is_no_frozen_server(client, real_redis):
    """While answers come, nobody is given up: the age that counts is that of the oldest question."""
    await asyncio.gather(*(multiplexed.ask(client, [("PING",)]) for _ in range(100)))
    connection = multiplexed._of(client)
    assert connection is not None
    assert not connection._asked
    connection._look()  # the clock, with nobody waiting
    assert await multiplexed.ask(client, [("PING",)]) == [b"PONG"]


async def test_an_answer_that_nobody_asked_for_ends_the_connection(client, real_redis):
    """Nothing is guessed: the next command has a connection of its own order."""
    await multiplexed.ask(client, [("PING",)])
    connection = multiplexed._of(client)
    assert connection is not None
    assert connection._replies is not None
    connection._replies.write(b"*1\r\n$4\r\nPING\r\n")
    async with asyncio.timeout(10):
        while connection._replies is not None:
            await asyncio.sleep(0.001)
    assert await multiplexed.ask(client, [("ECHO", "mine")]) == [b"mine"]


async def test_closing_tells_whoever_waits(client):
    """A caller does not wait for an answer of a connection that is closed."""
    asked = asyncio.create_task(multiplexed.ask(client, [("BLPOP", "nothing", 0)]))
    while not (connection := multiplexed._of(client)) or not connection._asked:
        await asyncio.sleep(0)
    await close(client)
    with pytest.raises(RedisError):
        await asked


async def test_a_client_that_is_somebody_elses_has_none(real_redis):
    """It would be left open: whoever made the client does not know of it."""
    assert multiplexed._of(real_redis) is None
    assert await multiplexed.ask(real_redis, [("ECHO", "x"), ("NOSUCH",)])
    assert [task for task in asyncio.all_tasks() if task.get_name() == "hub-redis-commands"] == []


async def test_a_fake_redis_is_asked_by_redis_py(fake_redis):
    """Its connections have no socket."""
    multiplex(fake_redis)
    assert multiplexed._of(fake_redis) is None
    assert await multiplexed.ask(fake_redis, [("ECHO", "x")]) == [b"x"]


async def test_a_connection_of_another_shape_is_redis_pys(client, monkeypatch):
    """A redis-py that changed inside costs the old price, and loses nothing."""
    monkeypatch.setattr(multiplexed.Replies, "of", lambda *_: None)
    assert await multiplexed.ask(client, [("ECHO", "x")]) == [b"x"]
    assert multiplexed._of(client) is None


def test_each_loop_has_its_own(redis_server):
    """A worker calls `asyncio.run` again and again, with one publisher."""
    client = for_publishing(redis_server.url)
    assert isinstance(client, Redis)

    async def once() -> list[Any]:
        return await multiplexed.ask(client, [("ECHO", "x")])

    for _ in range(3):
        assert asyncio.run(once()) == [b"x"]


def test_the_kinds_of_connection_are_known():
    """The default kind of redis-py is one of them."""
    assert Connection in multiplexed._KNOWN
    assert fakeredis.aioredis.FakeConnection not in multiplexed._KNOWN
