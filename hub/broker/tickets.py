"""Tickets in Redis, by their hash: whoever reads there has no ticket that works."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from hub.broker.evalsha import script_on
from hub.broker.redis import RedisBroker
from hub.job.event import JobId, UserId

# In one step: two clients must not have the last use both, and a late use must not make the key anew.
_USE = """
local ticket = redis.call('HMGET', KEYS[1], 'job', 'user', 'issued', 'expires', 'shared', 'uses')
if not ticket[1] or (ARGV[1] ~= '' and ARGV[1] ~= ticket[1]) then return false end
if ticket[6] ~= '' and redis.call('HINCRBY', KEYS[1], 'uses', -1) <= 0 then redis.call('DEL', KEYS[1]) end
return ticket
"""


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a ticket stands for: one job, and whose it is. `issued` and `expires`, in seconds since 1970, are
    those of the streams that it opens; `shared` is as in `Caller`.
    """

    job: JobId
    user: UserId
    issued: float
    expires: float
    shared: Mapping[str, str]


class Tickets:
    """The tickets in the Redis of `broker`. Every call raises BrokerUnavailable if it does not answer."""

    def __init__(self, broker: RedisBroker) -> None:
        self._broker = broker
        self._use = script_on(broker.nodes, _USE)

    async def put(self, secret: str, ticket: Ticket, *, until: float, uses: int | None) -> None:
        """Keep a ticket until `until` (seconds since 1970). `uses` None: it can be used without a limit."""
        key = _key(secret)
        fields: Mapping[Any, str] = {
            "job": ticket.job,
            "user": ticket.user,
            "issued": repr(ticket.issued),
            "expires": repr(ticket.expires),
            "shared": json.dumps(dict(ticket.shared)),
            "uses": "" if uses is None else str(uses),
        }

        async def write(client: Redis) -> None:
            async with client.pipeline(transaction=True) as pipe:
                pipe.hset(key, mapping=fields)
                pipe.pexpireat(key, int(until * 1000))
                await pipe.execute()

        await self._broker.at(key, write)

    async def use(self, secret: str, job: str) -> Ticket | None:
        """Use a ticket of `job` ("" for that of any) once. Returns None for
        one that is used up, late or another's.
        """
        key = _key(secret)
        found = await self._broker.at(key, lambda client: self._use(keys=[key], args=[job], client=client))
        if found is None:
            return None
        name, user, issued, expires, shared = (
            one if isinstance(one, str) else one.decode() for one in found[:5]
        )
        return Ticket(JobId(name), UserId(user), float(issued), float(expires), json.loads(shared))


def _key(secret: str) -> str:
    return "push-hub:ticket:" + hashlib.sha256(secret.encode()).hexdigest()
