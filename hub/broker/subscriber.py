"""A Pub/Sub connection, owned by one task. One Redis needs one for the process, a cluster one per primary.

Invariant: after `subscribe` has returned, every message on the channel reaches its sink, or the sink's
`missed` is called. It is called after each reconnect, because Redis does not keep Pub/Sub messages for a lost
connection. What is missed on a sharded channel is in the log, so there it is `doubt`.

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
from typing import Any

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import ClusterDownError, MovedError, RedisError

from hub.broker.channels import (
    Command,
    Shards,
    SubscriberStatistics,
    Waiting,
    confirmation,
    dedicated,
    grouped,
)
from hub.broker.keys import CONTROL_CHANNEL
from hub.broker.replies import Replies, packed
from hub.broker.seam import Listener, Sink
from hub.broker.sentinel import MOVED, has_moved
from hub.broker.topology import slot_of
from hub.ending import end_tasks
from hub.quiet import quiet_log
from hub.timings import Histogram

logger = quiet_log("hub.redis")

PING_INTERVAL = 3.0
"""Seconds between PINGs. Together with `SILENCE`, a dead or frozen Redis is noticed within 8 s."""

SILENCE = 5.0
"""Seconds without a byte from Redis after a PING until the connection counts as dead."""

BACKOFF = (0.1, 2.0)
"""The first and the largest delay in seconds before a reconnect. The delay doubles and is jittered: short
enough for viewers, long enough not to busy a Redis that refuses connections."""

CLOSED = "closed by Redis"


class _Lost(Exception):
    """The connection does not work any more; the text says why."""


class Subscriber:
    """Channels and their sinks, sharded ones with `shards`. Starts with `subscribe` or `start`, ends with
    `aclose`. Lines that share `waiting` confirm each other's subscriptions."""

    def __init__(
        self, pool: ConnectionPool, *, shards: Shards | None = None, waiting: Waiting | None = None
    ) -> None:
        self.pool = self._used = pool  # where the next connection goes, and where the present one does
        self.control: Listener | None = None  # of the control channel
        self._shards = shards
        sharded = "" if shards is None else "S"
        self._verb, self._undo = sharded + "SUBSCRIBE", sharded + "UNSUBSCRIBE"
        self._sinks: dict[str, Sink] = {}
        self._asked: set[str] = set()  # channels of `_sinks` that are not confirmed on this connection
        self._waiting: Waiting = {} if waiting is None else waiting
        # Bound: what `subscribe` and `unsubscribe` add while a write is under way; SILENCE limits each write.
        self._commands: deque[tuple[str, str]] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._line: Replies | None = None  # the connection, if its bytes come here
        self._serving = False  # True while a connection accepts commands
        self.connected = False  # Redis has confirmed the control channel on the present connection
        self._replies = 0  # of Redis, over all connections
        self._pinged = 0.0  # loop time of the oldest PING without an answer
        self._answers = Histogram()
        self._messages = 0
        self._reconnects = 0
        self._down: float | None = None  # loop time at which the connection was lost, None while connected
        self._up = 0.0  # loop time at which it was last confirmed

    def connected_for(self, channel: str) -> float:
        """Seconds for which the connection of `channel` has been up; 0 if it, or the channel, is not yet."""
        is_up = self.connected and channel not in self._asked
        return asyncio.get_running_loop().time() - self._up if is_up else 0.0

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
        """Send the messages of `channel` to `sink`; returns when Redis has confirmed the subscription. Raises
        BrokerUnavailable after `deadline` seconds. Cancel-safe: on any exception nothing is subscribed.
        """
        self.start()
        self._waiting[channel] = asyncio.get_running_loop().create_future()
        self.add(channel, sink)
        try:
            await confirmation(self._waiting[channel], deadline)
        except BaseException:
            self.unsubscribe(channel, sink)
            raise

    def unsubscribe(self, channel: str, sink: Sink) -> None:
        """Stop sending `channel` to `sink`. Does nothing if it has another sink; does not wait."""
        if self._sinks.get(channel) is sink:
            self._waiting.pop(channel, None)
            self.drop(channel)

    def add(self, channel: str, sink: Sink) -> None:
        """Ask for `channel` without waiting. `sink` replaces that of a feed that is just ending."""
        self._sinks[channel] = sink
        self._asked.add(channel)
        self._command(self._verb, channel)

    def drop(self, channel: str) -> None:
        """The pair of `add`; who waits for a confirmation goes on waiting."""
        del self._sinks[channel]
        self._asked.discard(channel)
        self._command(self._undo, channel)

    def repeat(self) -> None:
        """Ask once more for every channel that is not confirmed."""
        for channel in self._asked:
            self._command(self._verb, channel)

    def statistics(self) -> SubscriberStatistics:
        """Returns what the connection holds now and has counted so far."""
        counted = self.connected, len(self._sinks), self._messages, self._reconnects
        return SubscriberStatistics(*counted, shards_connected=int(self.connected), answers=self._answers)

    def _command(self, verb: str, channel: str) -> None:
        if self._serving:  # otherwise the next connection subscribes to every channel in `_sinks`
            self._commands.append((verb, channel))
            self._wake.set()

    async def _supervise(self) -> None:
        delay = BACKOFF[0]
        while True:
            connection: AbstractConnection | None = None
            try:
                self._used = pool = self.pool
                connection = dedicated(pool.connection_class, pool.connection_kwargs)
                await self._serve(connection)
            except (RedisError, OSError, TimeoutError, _Lost) as error:
                words = str(error) or type(error).__name__
                logger.warning("no subscription connection to Redis, reconnecting: %s", words)
            except Exception:
                logger.exception("the subscription connection failed, reconnecting")
            finally:
                was_connected = self.connected
                self.connected, self._serving, self._line = False, False, None
                with contextlib.suppress(RedisError, OSError):
                    if connection is not None:
                        await connection.disconnect(nowait=True)
            self._reconnects += 1
            if self._shards is not None:
                self._shards.lost()
            self._down = self._down or asyncio.get_running_loop().time()
            delay = BACKOFF[0] if was_connected else min(delay * 2, BACKOFF[1])
            await asyncio.sleep(delay * random.uniform(0.5, 1))

    async def _serve(self, connection: AbstractConnection) -> None:
        async with asyncio.timeout(SILENCE):
            await connection.connect()
        self._line = replies = Replies.of(connection, self._take)
        self._commands.clear()
        self._serving = True  # from here on, commands queue up behind the SUBSCRIBEs of the next lines
        self._asked = set(self._sinks)
        self._commands.append(("SUBSCRIBE", CONTROL_CHANNEL))
        channels = self._sinks if self._shards is None else sorted(self._sinks, key=slot_of)
        self._commands.extend((self._verb, channel) for channel in channels)
        await self._send(connection)
        reading = self._read(connection) if replies is None else replies.ended()
        works = reading, self._write(connection), self._watch_primary(connection)
        parts = [asyncio.create_task(work) for work in works]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end_tasks(*parts)
        for task in done:
            task.result()
        raise _Lost(CLOSED)

    async def _read(self, connection: AbstractConnection) -> None:
        """Where `Replies` does not know the connection, redis-py reads."""
        # This read has no timeout. If Redis is silent, `_write` raises and the supervisor ends this task.
        while True:
            try:
                self._take(await connection.read_response(disconnect_on_error=False))
            except (MovedError, ClusterDownError) as error:
                self._take(error)

    def _take(self, reply: Any) -> None:
        self._replies += 1
        if isinstance(reply, Exception):
            self._redirected(reply)
            return
        if reply is None:
            raise _Lost(CLOSED)
        kind = reply[0]
        if kind in (b"message", b"smessage"):
            self._messages += 1
            channel = reply[1].decode("utf-8", "replace")
            sink = self._sinks.get(channel) if channel != CONTROL_CHANNEL else self.control
            if sink is not None:  # None if the sink has left and the UNSUBSCRIBE is still on its way
                sink.receive(reply[2])
        elif kind == b"pong":
            self._answers.observe(asyncio.get_running_loop().time() - self._pinged)
        elif kind in (b"subscribe", b"ssubscribe"):
            self._confirm(reply[1].decode("utf-8", "replace"))
        elif kind == b"sunsubscribe" and self._shards is not None and reply[1] is not None:
            channel = reply[1].decode("utf-8", "replace")
            if channel in self._sinks:
                self._asked.add(channel)
                self._shards.kicked(channel)

    def _redirected(self, error: Exception) -> None:
        if self._shards is not None and isinstance(error, MovedError):
            self._shards.moved(self, error)
        elif self._shards is not None and isinstance(error, ClusterDownError):
            self._shards.refused(self)
        else:
            raise error

    def _confirm(self, channel: str) -> None:
        if channel == CONTROL_CHANNEL:
            self.connected = True
            self._up = asyncio.get_running_loop().time()
            if self._down is not None:
                logger.warning("Redis is back after %.1f s", asyncio.get_running_loop().time() - self._down)
                self._down = None
            if self.control is not None:
                self.control.missed()
        sink = self._sinks.get(channel)
        if sink is None:
            return
        self._asked.discard(channel)
        confirmed = self._waiting.pop(channel, None)
        if confirmed is None:  # a second confirmation means a reconnect or a move, so messages may be lost
            if self._shards is None:
                sink.missed()
            else:
                sink.doubt()
        elif not confirmed.done():
            confirmed.set_result(None)

    async def _write(self, connection: AbstractConnection) -> None:
        loop = asyncio.get_running_loop()
        next_ping = loop.time() + PING_INTERVAL
        replies = -1  # when the oldest PING without an answer was sent
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(next_ping):
                    await self._wake.wait()
            self._wake.clear()
            await self._send(connection)
            now = loop.time()
            is_silent = self._replies == replies
            if is_silent and now - self._pinged >= SILENCE:
                raise _Lost(f"no answer to PING for {SILENCE:.0f} s")
            if now >= next_ping:
                if not is_silent:
                    await self._send(connection, ("PING",))
                    self._pinged, replies = now, self._replies
                    next_ping = now + PING_INTERVAL
                else:
                    next_ping = self._pinged + SILENCE

    async def _watch_primary(self, connection: AbstractConnection) -> None:
        while True:
            await asyncio.sleep(PING_INTERVAL)
            if self.pool is not self._used or await has_moved(self.pool, connection):
                raise _Lost(MOVED)

    async def _send(self, connection: AbstractConnection, *commands: Command) -> None:
        """Send `commands`, or those that wait."""
        found = commands or list(grouped(self._commands))
        if found and self._line is not None:
            self._line.write(b"".join(map(packed, found)))
        elif found:
            async with asyncio.timeout(SILENCE):
                await connection.send_packed_command(connection.pack_commands(found), check_health=False)
