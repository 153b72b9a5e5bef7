"""How many viewers a job has at each hub, in Redis, for the other hubs and for workers.

Invariant: the counts of a hub that is gone do not count. A hub has a key that lives for `LIFE` seconds, and
renews it. So a job that stays as it is costs nothing: no count has to be renewed in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from hub.broker.keys import Keys
from hub.broker.replies import Command
from hub.errors import BrokerUnavailable
from hub.job.event import JobId

if TYPE_CHECKING:
    from redis.asyncio import Redis  # a blocking worker does not load it

T = TypeVar("T")

LIFE = 25
"""Seconds after which a hub that has not renewed its key is gone."""

KEPT = 3600
"""Seconds that a job's counts are kept without a change; a hub says its own again in half of that."""


class Reach(Protocol):
    """What of the broker is needed to write and read."""

    keys: Keys

    async def at(self, key: str, ask: Callable[[Redis], Awaitable[T]]) -> T: ...

    async def ask(self, key: str, commands: Sequence[Command]) -> list[Any]: ...

    def groups(self, jobs: Sequence[JobId]) -> list[list[JobId]]: ...


class RedisCounts:
    """`seam.Counts` in Redis: a hash per job, hub -> viewers."""

    def __init__(self, broker: Reach) -> None:
        self._broker = broker

    async def renew(self, hub: str) -> bool:
        """The hub is there. Returns False if it was gone: then Redis may have lost its counts, too."""
        key = hub_key(hub)
        return bool(await self._broker.at(key, lambda client: client.set(key, 1, ex=LIFE, get=True)))

    async def leave(self, hub: str) -> None:
        """The hub is gone, and with it all that it said."""
        key = hub_key(hub)
        await self._broker.at(key, lambda client: client.delete(key))

    async def say(self, hub: str, counts: Mapping[JobId, int]) -> list[JobId]:
        """Say how many viewers the hub has of these jobs. Returns those that were written: on a cluster,
        those of the primaries that answer. Raises BrokerUnavailable if none does.
        """

        async def write(group: list[JobId]) -> list[JobId]:
            commands: list[Command] = []
            for job in group:
                key = self._broker.keys.viewers(job)
                if counts[job]:
                    commands += [("HSET", key, hub, str(counts[job])), ("EXPIRE", key, KEPT)]
                else:
                    commands.append(("HDEL", key, hub))
            await self._broker.ask(self._broker.keys.viewers(group[0]), commands)
            return group

        return [job for group in await self._each(list(counts), write) for job in group]

    async def of(self, jobs: Sequence[JobId]) -> dict[JobId, dict[str, int]]:
        """Viewers by hub, of the hubs that are there. A job whose primary does not answer is not in it.
        Raises BrokerUnavailable if none answers.
        """

        async def read(group: list[JobId]) -> dict[JobId, dict[str, int]]:
            async def ask(client: Redis) -> list[Any]:
                async with client.pipeline(transaction=False) as pipe:
                    for job in group:
                        pipe.hgetall(self._broker.keys.viewers(job))
                    return list(await pipe.execute())

            rows = await self._broker.at(self._broker.keys.viewers(group[0]), ask)
            return {job: counts_of(row) for job, row in zip(group, rows, strict=True)}

        found = {job: row for group in await self._each(jobs, read) for job, row in group.items()}
        hubs = {hub for row in found.values() for hub in row}
        there = {hub: await self._is_there(hub) for hub in hubs}
        return {job: {hub: n for hub, n in row.items() if there[hub]} for job, row in found.items()}

    async def _is_there(self, hub: str) -> bool:
        return bool(await self._broker.at(hub_key(hub), is_there(hub)))

    async def _each(self, jobs: Sequence[JobId], do: Callable[[list[JobId]], Awaitable[T]]) -> list[T]:
        """What `do` returns for each group that can be reached."""
        groups = self._broker.groups(jobs)
        if len(groups) == 1:
            return [await do(groups[0])]
        done = await asyncio.gather(*map(do, groups), return_exceptions=True)
        wrong = [one for one in done if isinstance(one, BaseException)]
        for error in wrong:
            if len(wrong) == len(done) or not isinstance(error, BrokerUnavailable):
                raise error
        return [one for one in done if not isinstance(one, BaseException)]


def hub_key(hub: str) -> str:
    """A hub's own key."""
    return f"push-hub:hub:{hub}"


def is_there(hub: str) -> Callable[[Any], Any]:
    """Asks a client, async or blocking, for the hub's key."""
    key = hub_key(hub)
    return lambda client: client.exists(key)


def counts_of(row: Mapping[Any, Any]) -> dict[str, int]:
    """Viewers by hub, from the answer to HGETALL."""
    return {_text(hub): int(count) for hub, count in row.items()}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
