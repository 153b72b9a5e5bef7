"""What one subscription connection and the many of a cluster have in common: the connection, commands,
confirmations, numbers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import MovedError

from hub.broker.topology import slot_of
from hub.errors import BrokerUnavailable
from hub.timings import Histogram

CHANNELS_PER_COMMAND = 500
"""Most channels in one SUBSCRIBE, which is then about 25 KB."""

_SHARDED = ("SSUBSCRIBE", "SUNSUBSCRIBE")

Command = tuple[str, ...]
Waiting = dict[str, asyncio.Future[None]]
"""Subscriptions that Redis has not confirmed."""


@dataclass(frozen=True, slots=True)
class SubscriberStatistics:
    """`connected` now; `channels` that have a sink now; `messages` and `reconnects` since the start. Of a
    cluster `shards` are its primaries, and `shards_connected` those whose connection is up. `answers`: the
    seconds from a PING to its answer.
    """

    connected: bool
    channels: int
    messages: int
    reconnects: int
    shards: int = 1
    shards_connected: int = 0
    answers: Histogram = field(default_factory=Histogram)


class Shards(Protocol):
    """Who hears from a line of sharded channels that something has moved. No method may block."""

    def moved(self, line: Any, error: MovedError) -> None:
        """The node of `line` does not have the slot."""

    def kicked(self, channel: str) -> None:
        """Its node has ended a subscription that has a sink."""

    def refused(self, line: Any) -> None:
        """Nobody serves the slot of a channel that was asked for; the others of `line` are well."""

    def lost(self) -> None:
        """The connection of a line is lost."""


def dedicated(kind: type[AbstractConnection], arguments: Mapping[str, Any]) -> AbstractConnection:
    """A connection as a pool makes them (address, TLS, password), which is not of the pool. It has no retries
    and no timeouts, which would hide that it was lost; RESP2, because there a message is a plain list.
    """
    settings: dict[str, Any] = {
        **arguments,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": None,
        "health_check_interval": 0,
        "protocol": 2,
        "decode_responses": False,
    }
    return kind(**settings)


async def confirmation(confirmed: asyncio.Future[None], deadline: float) -> None:
    """Wait for one. Raises BrokerUnavailable after `deadline` seconds."""
    try:
        async with asyncio.timeout(deadline):
            await confirmed
    except TimeoutError as error:
        raise BrokerUnavailable(f"expected a confirmation within {deadline} s, got none") from error


def grouped(commands: deque[tuple[str, str]]) -> Iterator[Command]:
    """Empty `commands`. Consecutive commands with the same verb become one command, sharded ones only
    within a slot; the order is kept.
    """
    while commands:
        verb, channel = commands.popleft()
        channels = [channel]
        slot = slot_of(channel) if verb in _SHARDED else None
        while commands and commands[0][0] == verb and len(channels) < CHANNELS_PER_COMMAND:
            if slot is not None and slot_of(commands[0][1]) != slot:
                break
            channels.append(commands.popleft()[1])
        yield (verb, *channels)
