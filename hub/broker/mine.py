"""Which jobs a user has: an index of ours, for the application's hashes are found by their ids only.

Invariant: the index is a hint. What it names is read and judged before anybody sees it; what it lacks comes
in when its owner watches it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from hub.broker.keys import CONTROL_CHANNEL
from hub.job.begun import JobBegun
from hub.job.event import JobId
from hub.job.event import job_id as parse_job_id

if TYPE_CHECKING:
    from redis.asyncio import Redis

T = TypeVar("T")

MOST = 1000
"""Jobs that the index of a user keeps, the newest."""

KEPT = 37 * 24 * 3600
"""Seconds that the index lives after its last change, as long as the hub's hash of a job."""


class Reach(Protocol):
    """What of the broker is needed to write and read."""

    async def at(self, key: str, ask: Callable[[Redis], Awaitable[T]]) -> T: ...


def key_of(user: str) -> str:
    """The index: a sorted set of job ids, by the seconds since 1970 at which each was first seen."""
    return f"push-hub:{{user:{user}}}:jobs"


class UserJobs:
    """The indexes in one Redis. Every call raises BrokerUnavailable if it does not answer."""

    def __init__(self, broker: Reach) -> None:
        self._broker = broker

    async def add(self, user: str, jobs: Mapping[JobId, float]) -> None:
        """Note that `user` owns these jobs, with the times at which they began. One that is known keeps its
        place."""
        key = key_of(user)

        async def write(client: Redis) -> None:
            async with client.pipeline(transaction=False) as pipe:
                pipe.zadd(key, {str(job): at for job, at in jobs.items()}, nx=True)
                pipe.zremrangebyrank(key, 0, -MOST - 1)
                pipe.expire(key, KEPT)
                await pipe.execute()

        await self._broker.at(key, write)

    async def begin(self, user: str, job: JobId) -> None:
        """The same for a job that was made now, and tell every hub."""
        key = key_of(user)
        await self.add(user, {job: time.time()})
        await self._broker.at(
            key, lambda client: client.publish(CONTROL_CHANNEL, JobBegun(job, user).message())
        )

    async def of(self, user: str) -> list[tuple[JobId, float]]:
        """The jobs of a user with their times, the newest first."""
        key = key_of(user)
        rows: Any = await self._broker.at(
            key, lambda client: client.zrevrange(key, 0, MOST - 1, withscores=True)
        )
        found = [(parse_job_id(_text(name)), float(at)) for name, at in rows]
        return [(job, at) for job, at in found if job is not None]

    async def remove(self, user: str, jobs: Sequence[JobId]) -> None:
        """Forget jobs that are not this user's, or not there any more."""
        key = key_of(user)
        await self._broker.at(key, lambda client: client.zrem(key, *jobs))


def _text(name: bytes | str) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name
