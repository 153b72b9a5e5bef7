"""One connection for the commands of everybody: those of a turn of the loop are written together, and the
answers come in the same order.

redis-py takes a connection of its pool for each command, and about 100 us of Python. Here a command is a
future and its share of a write. redis-py connects, authenticates and makes the exceptions. Where its
connection is not one that is known (fakeredis; Sentinels, which want every answer doubted), its own pipeline
does the work.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from redis.asyncio import Redis
from redis.asyncio.connection import (
    Connection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from hub.broker.channels import dedicated
from hub.broker.replies import CAN_READ, Command, Replies, packed
from hub.ending import end_tasks

TIMEOUT = 2.0
"""Seconds that an answer may take, where the pool does not say."""

_KNOWN = (Connection, SSLConnection, UnixDomainSocketConnection)

LOST = "the connection was lost"
CLOSED = "the connection was closed"


class _Unknown(Exception):
    """redis-py's connection has another shape than the one that is known."""


class Multiplexed:
    """A connection as a pool makes them. It is opened when it is first needed, and again after it was lost.

    Invariant: `_asked` are the commands whose answers are due, in the order in which they were written.
    """

    def __init__(self, pool: ConnectionPool) -> None:
        # Not the pool itself: it is the key of this one, and the two end together.
        self._make = partial(dedicated, pool.connection_class, pool.connection_kwargs)
        self._timeout: float = pool.connection_kwargs.get("socket_timeout") or TIMEOUT
        # Once more at least: whether a connection is still there shows in a write, a pool looks before it.
        self._retry: Retry = pool.connection_kwargs.get("retry") or Retry(NoBackoff(), 1)
        self.loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None  # lives as long as a connection
        self._is_up: asyncio.Future[None] | None = None  # of the connection that is being made
        self._is_closed = False
        self._replies: Replies | None = None  # None while there is no connection
        self._why: Exception = RedisConnectionError(LOST)  # it ends
        self._asked: deque[_Asked] = deque()
        self._unsent: list[bytes] = []
        self._clock: asyncio.TimerHandle | None = None  # looks at the age of the oldest

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """The answers; an error of Redis is among them. Raises RedisError after the pool's retries.
        Cancel-safe."""
        data = [packed(command) for command in commands]
        return await self._retry.call_with_retry(partial(self._ask, data), _ignore)

    async def _ask(self, data: list[bytes]) -> list[Any]:
        if self._replies is None:
            await self._connected()
            if self._replies is None:
                raise RedisConnectionError(LOST)
        asked = _Asked(self.loop.create_future(), len(data), self.loop.time())
        self._asked.append(asked)
        if self._clock is None:
            self._clock = self.loop.call_later(self._timeout, self._look)
        if not self._unsent:
            self.loop.call_soon(self._send)
        self._unsent += data
        return await asked.done

    def _send(self) -> None:
        """Write the commands of this turn of the loop."""
        unsent, self._unsent = self._unsent, []
        if self._replies is not None:  # else nobody waits for them any more
            self._replies.write(b"".join(unsent))

    def _take(self, reply: Any) -> None:
        if not self._asked:
            raise RedisConnectionError(f"expected no answer that nobody asked for, got {reply!r:.200}")
        asked = self._asked[0]
        asked.answers.append(reply)
        if len(asked.answers) < asked.count:
            return
        self._asked.popleft()
        if asked.done.done():  # whoever asked was cancelled
            return
        for answer in asked.answers:
            if isinstance(answer, RedisConnectionError):  # it is loading its data: another try may help
                asked.done.set_exception(answer)
                return
        asked.done.set_result(asked.answers)

    def _look(self) -> None:
        """A Redis that answers nothing for so long is as good as gone, for all who wait."""
        self._clock = None
        if not self._asked:
            return
        due = self._asked[0].since + self._timeout
        if due > self.loop.time():
            self._clock = self.loop.call_at(due, self._look)
        else:
            self._why = RedisTimeoutError(f"no answer within {self._timeout} s")
            if self._replies is not None:
                self._replies.abort()  # and the task does the rest

    # --- the connection

    async def _connected(self) -> None:
        """Return when there is a connection. All who need one share the attempt. Raises RedisError."""
        if self._is_closed:
            raise RedisConnectionError(CLOSED)
        if self._is_up is None:
            self._is_up = self.loop.create_future()
            self._task = asyncio.create_task(self._serve(self._is_up), name="hub-redis-commands")
        is_up = self._is_up
        await asyncio.wait([is_up])
        if (error := is_up.exception()) is not None:
            raise _anew(error)

    async def _serve(self, is_up: asyncio.Future[None]) -> None:
        connection = self._make()
        self._why = RedisConnectionError(LOST)
        try:
            async with asyncio.timeout(self._timeout):
                await connection.connect()
            await self._live(Replies.of(connection, self._take), is_up)
        except TimeoutError:
            self._why = RedisTimeoutError(f"no connection within {self._timeout} s")
        except (_Unknown, RedisError, OSError) as error:
            self._why = error
        finally:
            self._replies = self._is_up = self._task = None
            if not is_up.done():
                is_up.set_exception(self._why)
                is_up.exception()  # retrieved, for nobody may wait any more
            self._lose()
            with contextlib.suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)

    async def _live(self, replies: Replies | None, is_up: asyncio.Future[None]) -> None:
        if replies is None:
            raise _Unknown
        self._replies, self._is_up = replies, None
        is_up.set_result(None)
        await replies.ended()

    def _lose(self) -> None:
        """Everybody who waits asks again, or gives up."""
        waiting, self._asked, self._unsent = self._asked, deque(), []
        for asked in waiting:
            if not asked.done.done():
                asked.done.set_exception(_anew(self._why))

    async def aclose(self) -> None:
        """Close the connection, for good. Whoever waits gets an error. Cancel-safe."""
        self._is_closed = True
        if self._clock is not None:
            self._clock.cancel()
        if self._task is not None:
            await end_tasks(self._task)


class _Asked:
    """Commands that were written together: their answers so far, and whoever waits for all of them."""

    __slots__ = ("answers", "count", "done", "since")

    def __init__(self, done: asyncio.Future[list[Any]], count: int, since: float) -> None:
        self.done = done
        self.count = count
        self.since = since
        self.answers: list[Any] = []


def _anew(error: BaseException) -> BaseException:
    """One for each who waits: raised again and again, a single one would collect all their frames."""
    return type(error)(*error.args)


async def _ignore(_error: Exception) -> None:
    """The retry wants to tell somebody."""


_BY_POOL: WeakKeyDictionary[ConnectionPool, Multiplexed | None] = WeakKeyDictionary()
"""None: enabled, and not needed yet."""


def enable(client: Redis) -> None:
    """Give `client` a connection for everybody. Whoever enables it closes it."""
    pool = client.connection_pool
    if CAN_READ and pool.connection_class in _KNOWN:
        _BY_POOL.setdefault(pool, None)


def _of(client: Redis) -> Multiplexed | None:
    """The connection beside the pool of `client`; None where redis-py does it all."""
    pool = client.connection_pool
    if pool not in _BY_POOL:
        return None
    found = _BY_POOL[pool]
    if found is None or found.loop.is_closed():
        found = _BY_POOL[pool] = Multiplexed(pool)
    return found if found.loop is asyncio.get_running_loop() else None


async def ask(client: Redis, commands: Sequence[Command], *, atomic: bool = False) -> list[Any]:
    """The answers to `commands`, sent in one go; an error of Redis is among them. `atomic`: nothing happens
    between them. Raises RedisError. Cancel-safe."""
    if (connection := _of(client)) is not None:
        try:
            if not atomic:
                return await connection.ask(commands)
            return _executed(await connection.ask([("MULTI",), *commands, ("EXEC",)]))
        except _Unknown:
            del _BY_POOL[client.connection_pool]
    async with client.pipeline(transaction=atomic) as pipe:
        for command in commands:
            pipe.execute_command(*command)
        answers: list[Any] = await pipe.execute(raise_on_error=False)
    return answers


def _executed(answers: list[Any]) -> list[Any]:
    """What EXEC answered; the first error, if Redis refused a command before it."""
    executed = answers[-1]
    if isinstance(executed, list):
        return executed
    raise next((one for one in answers if isinstance(one, Exception)), ResponseError(f"got {executed!r}"))


async def close(client: Redis) -> None:
    """Close the connection beside the pool of `client`, if there is one."""
    connection = _BY_POOL.pop(client.connection_pool, None)
    if connection is not None:
        await connection.aclose()
