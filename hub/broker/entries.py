"""Waits until a stream has an entry."""

from __future__ import annotations

import asyncio
from typing import Any

from redis import Redis as SyncRedis
from redis.asyncio import Redis as AsyncRedis

WAIT = 2.0
"""Most seconds that Redis waits before it answers; less than the timeout of the publishers' own clients."""

FAKE_WAIT = 0.05
"""Seconds between two looks at a fakeredis."""


async def wait_for_entry(client: AsyncRedis, key: str) -> None:
    """Return when the stream `key` has an entry, and after `WAIT` seconds in any case."""
    if "server" in client.connection_pool.connection_kwargs:  # fakeredis, which would hold the event loop
        await asyncio.sleep(FAKE_WAIT)
        return
    await client.xread({key: "0-0"}, count=1, block=_milliseconds(client, WAIT))


def wait_for_entry_sync(client: SyncRedis, key: str, seconds: float) -> None:
    """The same for blocking code, after at most `seconds`."""
    client.xread({key: "0-0"}, count=1, block=_milliseconds(client, min(seconds, WAIT)))


def _milliseconds(client: Any, seconds: float) -> int:
    """An application's client may have a shorter timeout, and would take the wait for an outage."""
    timeout = client.connection_pool.connection_kwargs.get("socket_timeout")
    return max(1, int(1000 * min(seconds, timeout / 2 if timeout else seconds)))
