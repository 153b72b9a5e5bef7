"""The process's one Pub/Sub connection, owned by one task.

Invariant: after `subscribe` returned, every message on the channel reaches its sink, or the sink is told `missed()`.
It is told when a connection was lost, which is the only thing Redis Pub/Sub can do about it.

We drive redis-py's `Connection` and not its `PubSub`: that one reconnects silently inside a read (what passed in
between is gone without a sign but a second confirmation), must not be touched by two tasks, and does not notice a
frozen server. Here one supervisor task connects; below it one coroutine only reads, one only writes and one asks the Sentinels,
if there are any; when one fails all end and the supervisor begins again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from hub.broker.keys import CONTROL_CHANNEL
from hub.broker.seam import Sink
from hub.broker.sentinel import has_moved
from hub.ending import end_tasks
from hub.errors import BrokerUnavailable
from hub.quiet import quiet_log

log = quiet_log("hub.redis")

PING_INTERVAL = 3.0
"""Seconds between PINGs: with the silence limit a dead or frozen Redis is noticed within 8 s."""

SILENCE = 5.0
"""Seconds after a PING without a byte from Redis until the connection counts as dead."""

BACKOFF = (0.1, 2.0)
"""Seconds before reconnecting, first and largest, doubled in between and jittered: no spin, and no long wait."""

_CHANNELS_PER_COMMAND = 500  # a SUBSCRIBE of about 25 KB


@dataclass(frozen=True, slots=True)
class SubscriberStatistics:
    """`connected` now; `channels` wanted now; `messages` and `reconnects` since the start."""

    connected: bool
    channels: int
    messages: int
    reconnects: int


class _Lost(Exception):
    """The connection is of no use any more."""


class Subscriber:
    """Channels and their sinks. Starts its task with the first `subscribe` or `start`; ended by `aclose`."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._sinks: dict[str, Sink] = {}
        self._waiting: dict[str, asyncio.Future[None]] = {}  # subscriptions without a confirmation
        self._commands: deque[tuple[str, str]] = deque()  # bound: two per channel in `_sinks` and its leavers
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._serving = False  # there is a connection that takes commands
        self._connected = False
        self._heard = 0.0  # loop time of the last byte from Redis
        self._messages = 0
        self._reconnects = 0
        self._down: float | None = None  # since when, in loop time
        self._up = 0.0  # the same

    @property
    def connected(self) -> bool:
        """Whether Redis confirmed the control channel on the present connection."""
        return self._connected

    def connected_for(self) -> float:
        """Seconds since it did, 0 while it has not."""
        return asyncio.get_running_loop().time() - self._up if self._connected else 0.0

    def start(self) -> None:
        """Connect in the background, and stay connected."""
        if self._task is None:
            self._task = asyncio.create_task(self._supervise(), name="hub-subscriber")

    async def aclose(self) -> None:
        """End the task and the connection. Cancel-safe."""
        task, self._task = self._task, None
        if task is not None:
            await end_tasks(task)

    async def subscribe(self, channel: str, sink: Sink, *, deadline: float) -> None:
        """Send what `channel` brings to `sink`; returns once Redis has confirmed.

        Raises BrokerUnavailable after `deadline` seconds. Cancel-safe: on any exception nothing is subscribed.
        """
        self.start()  # a sink that is on its way out may still stand there; this one takes its place
        confirmed = asyncio.get_running_loop().create_future()
        self._sinks[channel] = sink
        self._waiting[channel] = confirmed
        self._command("SUBSCRIBE", channel)
        try:
            async with asyncio.timeout(deadline):
                await confirmed
        except BaseException as error:
            self.unsubscribe(channel, sink)
            if isinstance(error, TimeoutError):
                raise BrokerUnavailable(f"expected a confirmation within {deadline} s, got none") from error
            raise

    def unsubscribe(self, channel: str, sink: Sink) -> None:
        """Stop, if it is still `sink` that the channel goes to; does not wait."""
        if self._sinks.get(channel) is sink:
            del self._sinks[channel]
            self._waiting.pop(channel, None)
            self._command("UNSUBSCRIBE", channel)

    def statistics(self) -> SubscriberStatistics:
        """What the connection holds and has seen."""
        return SubscriberStatistics(self._connected, len(self._sinks), self._messages, self._reconnects)

    def _command(self, verb: str, channel: str) -> None:
        if self._serving:  # otherwise the next connection subscribes to all that is wanted then
            self._commands.append((verb, channel))
            self._wake.set()

    async def _supervise(self) -> None:
        delay = BACKOFF[0]
        while True:
            connection: AbstractConnection | None = None
            try:
                connection = self._connection()
                await self._serve(connection)
            except (RedisError, OSError, TimeoutError, _Lost) as error:
                words = str(error) or type(error).__name__
                log.warning("no subscription connection to Redis, trying again: %s", words)
            except Exception:
                log.exception("the subscription connection failed, trying again")
            finally:
                was_connected = self._connected
                self._connected = self._serving = False
                with contextlib.suppress(RedisError, OSError):
                    if connection is not None:
                        await connection.disconnect(nowait=True)
            self._reconnects += 1
            self._down = self._down or asyncio.get_running_loop().time()
            delay = BACKOFF[0] if was_connected else min(delay * 2, BACKOFF[1])
            await asyncio.sleep(delay * random.uniform(0.5, 1))

    def _connection(self) -> AbstractConnection:
        # The caller's own connection settings (address, TLS, password), with the retries and timeouts off that
        # would hide a loss from us; RESP2, so that a message is a plain list.
        settings: dict[str, Any] = {
            **self._pool.connection_kwargs,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": None,
            "health_check_interval": 0,
            "protocol": 2,
            "decode_responses": False,
        }
        return self._pool.connection_class(**settings)

    async def _serve(self, connection: AbstractConnection) -> None:
        async with asyncio.timeout(SILENCE):
            await connection.connect()
        self._heard = asyncio.get_running_loop().time()
        self._commands.clear()
        self._serving = True  # from here on who subscribes is queued behind the list that is made now
        for command in list(_in_bulk("SUBSCRIBE", [CONTROL_CHANNEL, *self._sinks])):
            await self._send(connection, *command)
        parts = [
            asyncio.create_task(part(connection)) for part in (self._read, self._write, self._watch_primary)
        ]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end_tasks(*parts)
        for task in done:
            task.result()

    async def _read(self, connection: AbstractConnection) -> None:
        # Who ends this wait: the writer, whose PING deadline fails and takes us down with it.
        loop = asyncio.get_running_loop()
        sinks = self._sinks
        while True:
            reply = await connection.read_response(disconnect_on_error=False)
            self._heard = loop.time()
            if reply is None:
                raise _Lost("closed by Redis")
            if reply[0] == b"message":
                self._messages += 1
                sink = sinks.get(reply[1].decode("utf-8", "replace"))
                if sink is not None:  # else it left; its UNSUBSCRIBE is on its way
                    sink.receive(reply[2])
            elif reply[0] == b"subscribe":
                self._confirm(reply[1].decode("utf-8", "replace"))

    def _confirm(self, channel: str) -> None:
        if channel == CONTROL_CHANNEL:
            self._connected = True
            self._up = asyncio.get_running_loop().time()
            if self._down is not None:
                log.warning("Redis is back after %.1f s", asyncio.get_running_loop().time() - self._down)
                self._down = None
        confirmed = self._waiting.pop(channel, None)
        if confirmed is None:
            if channel in self._sinks:  # confirmed before, so this is a new connection: there was a hole
                self._sinks[channel].missed()
        elif not confirmed.done():
            confirmed.set_result(None)

    async def _write(self, connection: AbstractConnection) -> None:
        loop = asyncio.get_running_loop()
        next_ping = loop.time() + PING_INTERVAL
        pinged = 0.0  # loop time of the oldest PING without an answer
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(next_ping):
                    await self._wake.wait()
            self._wake.clear()
            for command in _grouped(self._commands):
                await self._send(connection, *command)
            now = loop.time()
            if pinged and self._heard < pinged and now - pinged >= SILENCE:
                raise _Lost(f"no answer to PING for {SILENCE:.0f} s")
            if now >= next_ping:
                if not pinged or self._heard >= pinged:
                    await self._send(connection, "PING")
                    pinged = now
                    next_ping = now + PING_INTERVAL
                else:
                    next_ping = pinged + SILENCE

    async def _watch_primary(self, connection: AbstractConnection) -> None:
        while True:
            await asyncio.sleep(PING_INTERVAL)
            if await has_moved(self._pool, connection):
                raise _Lost("the Sentinels name another primary")

    async def _send(self, connection: AbstractConnection, *command: str) -> None:
        async with asyncio.timeout(SILENCE):
            await connection.send_command(*command, check_health=False)


def _in_bulk(verb: str, channels: list[str]) -> Iterator[tuple[str, ...]]:
    for first in range(0, len(channels), _CHANNELS_PER_COMMAND):
        yield (verb, *channels[first : first + _CHANNELS_PER_COMMAND])


def _grouped(commands: deque[tuple[str, str]]) -> Iterator[tuple[str, ...]]:
    """Empty `commands`: neighbours with the same verb become one command, order is kept."""
    while commands:
        verb, channel = commands.popleft()
        channels = [channel]
        while commands and commands[0][0] == verb and len(channels) < _CHANNELS_PER_COMMAND:
            channels.append(commands.popleft()[1])
        yield (verb, *channels)
