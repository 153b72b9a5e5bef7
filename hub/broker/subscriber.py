"""The process's one Pub/Sub connection, owned by one task.

Invariant: after `subscribe` has returned, every message on the channel reaches its sink, or the sink's
`missed` is called. It is called after each reconnect, because Redis does not keep Pub/Sub messages for a lost
connection.

This module drives redis-py's `Connection` and not its `PubSub`. `PubSub` reconnects silently inside a read
(messages of that time are lost, and a second subscribe confirmation is the only sign), must not be used by
two tasks, and does not notice a frozen server. Here one supervisor task connects and runs three tasks: one
only reads, one only writes, and one asks the Sentinels, if there are any, for the primary. If one of them
fails, the supervisor ends all three and reconnects.
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

logger = quiet_log("hub.redis")

PING_INTERVAL = 3.0
"""Seconds between PINGs. Together with `SILENCE`, a dead or frozen Redis is noticed within 8 s."""

SILENCE = 5.0
"""Seconds without a byte from Redis after a PING until the connection counts as dead."""

BACKOFF = (0.1, 2.0)
"""The first and the largest delay in seconds before a reconnect. The delay doubles and is jittered: short
enough for viewers, long enough not to busy a Redis that refuses connections."""

_CHANNELS_PER_COMMAND = 500  # a SUBSCRIBE of about 25 KB


@dataclass(frozen=True, slots=True)
class SubscriberStatistics:
    """`connected` now; `channels` that have a sink now; `messages` and `reconnects` since the start."""

    connected: bool
    channels: int
    messages: int
    reconnects: int


class _Lost(Exception):
    """The connection does not work any more; the text says why."""


class Subscriber:
    """Channels and their sinks. The first `subscribe` or `start` starts the task, `aclose` ends it."""

    def __init__(self, pool: ConnectionPool) -> None:
        self.control: Sink | None = None  # of the control channel
        self._pool = pool
        self._sinks: dict[str, Sink] = {}
        self._waiting: dict[str, asyncio.Future[None]] = {}  # subscriptions that Redis has not confirmed
        # Bound: what `subscribe` and `unsubscribe` add while a write is under way; SILENCE limits each write.
        self._commands: deque[tuple[str, str]] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._serving = False  # True while a connection accepts commands
        self._connected = False
        self._heard = 0.0  # loop time of the last byte from Redis
        self._messages = 0
        self._reconnects = 0
        self._down: float | None = None  # loop time at which the connection was lost, None while connected
        self._up = 0.0  # loop time at which it was last confirmed

    @property
    def connected(self) -> bool:
        """Returns True if Redis has confirmed the control channel on the present connection."""
        return self._connected

    def connected_for(self) -> float:
        """Seconds for which `connected` has been True; 0 if it is False."""
        return asyncio.get_running_loop().time() - self._up if self._connected else 0.0

    def start(self) -> None:
        """Connect in the background, and reconnect whenever the connection is lost."""
        if self._task is None:
            self._task = asyncio.create_task(self._supervise(), name="hub-subscriber")

    async def aclose(self) -> None:
        """End the task and the connection. Cancel-safe."""
        task, self._task = self._task, None
        if task is not None:
            await end_tasks(task)

    async def subscribe(self, channel: str, sink: Sink, *, deadline: float) -> None:
        """Send the messages of `channel` to `sink`; returns when Redis has confirmed the subscription.

        Raises BrokerUnavailable after `deadline` seconds. Cancel-safe: on any exception nothing is
        subscribed.
        """
        self.start()
        confirmed = asyncio.get_running_loop().create_future()
        self._sinks[channel] = sink  # replaces the sink of a feed that is just ending
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
        """Stop sending `channel` to `sink`. Does nothing if `channel` has another sink; does not wait."""
        if self._sinks.get(channel) is sink:
            del self._sinks[channel]
            self._waiting.pop(channel, None)
            self._command("UNSUBSCRIBE", channel)

    def statistics(self) -> SubscriberStatistics:
        """Returns what the connection holds now and has counted so far."""
        return SubscriberStatistics(self._connected, len(self._sinks), self._messages, self._reconnects)

    def _command(self, verb: str, channel: str) -> None:
        if self._serving:  # otherwise the next connection subscribes to every channel in `_sinks`
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
                logger.warning("no subscription connection to Redis, reconnecting: %s", words)
            except Exception:
                logger.exception("the subscription connection failed, reconnecting")
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
        # The caller's connection settings (address, TLS, password), without the retries and timeouts that
        # would hide a lost connection. RESP2, because there a message is a plain list.
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
        self._serving = True  # from here on, commands queue up behind the SUBSCRIBEs of the next line
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
        # This read has no timeout. If Redis is silent, `_write` raises and the supervisor ends this task.
        loop = asyncio.get_running_loop()
        sinks = self._sinks
        while True:
            reply = await connection.read_response(disconnect_on_error=False)
            self._heard = loop.time()
            if reply is None:
                raise _Lost("closed by Redis")
            if reply[0] == b"message":
                self._messages += 1
                channel = reply[1].decode("utf-8", "replace")
                sink = self.control if channel == CONTROL_CHANNEL else sinks.get(channel)
                if sink is not None:  # None if the sink has left and the UNSUBSCRIBE is still on its way
                    sink.receive(reply[2])
            elif reply[0] == b"subscribe":
                self._confirm(reply[1].decode("utf-8", "replace"))

    def _confirm(self, channel: str) -> None:
        if channel == CONTROL_CHANNEL:
            self._connected = True
            self._up = asyncio.get_running_loop().time()
            if self._down is not None:
                logger.warning("Redis is back after %.1f s", asyncio.get_running_loop().time() - self._down)
                self._down = None
            if self.control is not None:
                self.control.missed()
        confirmed = self._waiting.pop(channel, None)
        if confirmed is None:
            if channel in self._sinks:  # a second confirmation means a reconnect, so messages may be lost
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
    """Empty `commands`. Consecutive commands with the same verb become one command; the order is kept."""
    while commands:
        verb, channel = commands.popleft()
        channels = [channel]
        while commands and commands[0][0] == verb and len(channels) < _CHANNELS_PER_COMMAND:
            channels.append(commands.popleft()[1])
        yield (verb, *channels)
