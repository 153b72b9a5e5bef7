"""The `Broker` on Redis: a job's hash, its log, and the messages on its channel.

Invariant: the timeouts of the client bound every call, and every failure of Redis or the network raises
`BrokerUnavailable`. Live messages come through subscriber.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from hub.broker import multiplexed
from hub.broker.channels import SubscriberStatistics
from hub.broker.cluster import Cluster
from hub.broker.connect import OUTAGE, AsyncClient, at, client_like, groups, nodes_of, unavailable
from hub.broker.evalsha import script_on
from hub.broker.keys import CONTROL_CHANNEL, REVOKED
from hub.broker.mine import UserJobs
from hub.broker.presence import RedisCounts
from hub.broker.reading import entry_of, has, job_of, readable
from hub.broker.replies import Command
from hub.broker.script import COMMAND_SCRIPT, SCRIPT, Publication, interpret_command, is_published
from hub.broker.seam import Counts, Listener, Sink
from hub.broker.shards import ClusterSubscriber
from hub.broker.subscriber import Subscriber
from hub.errors import BrokerUnavailable
from hub.job.event import EventId, JobId
from hub.job.record import Entry, Job, Snapshot
from hub.job.revocation import Revocation

GRACE = 5.0
"""Seconds that Redis must have been connected before a worker counts as lost. During an outage workers cannot
renew their leases; they retry every second, so a live worker renews within this time."""

FIRST_READ = 20
"""Entries of a job that are read before their size is known: an event may be a megabyte."""

T = TypeVar("T")


class RedisBroker:
    """The Broker on a redis-py client, or on the nodes of a cluster; the caller closes them.

    `deadline` is how many seconds Redis may take to confirm a subscription. `bare`: on a cluster, listen also
    for what producers publish without our script.
    """

    def __init__(
        self, client: AsyncClient, publication: Publication, *, deadline: float = 5.0, bare: bool = True
    ) -> None:
        self.nodes = nodes = nodes_of(client)
        publication = publication.on(cluster=isinstance(nodes, Cluster))
        self.keys = publication.keys
        self._names = ["status", "user_id", *sorted(publication.fields - {"status", "user_id"})]
        self._publication = publication
        self._lost = script_on(nodes, SCRIPT)
        self._command = script_on(nodes, COMMAND_SCRIPT)
        self.subscriber = (
            ClusterSubscriber(nodes, self.keys.bare_of if bare else None)
            if isinstance(nodes, Cluster)
            else Subscriber(nodes.connection_pool)
        )
        self._deadline = deadline
        self._is_lone_node: bool | None = None  # of a cluster, on a client for one Redis; None: not asked yet

    @property
    def counts(self) -> Counts:
        """Viewers by hub. Made for each use: kept, the two would wait for the garbage collector."""
        return RedisCounts(self)

    @property
    def index(self) -> UserJobs:
        """The jobs of each user."""
        return UserJobs(self)

    def groups(self, jobs: Sequence[JobId]) -> list[list[JobId]]:
        """`jobs`, in groups whose members can be read although those of the others cannot."""
        found = groups(self.nodes, [self.keys.job(job) for job in jobs])
        return [[jobs[index] for index in group] for group in found]

    async def jobs(self, jobs: Sequence[JobId]) -> list[Job | None]:
        """Read the hashes of `jobs` in a round trip per Redis; None stands for a job that does not exist."""
        if not jobs:
            return []
        parts = self.groups(jobs)
        if len(parts) == 1:  # one Redis, or one job: no task is needed
            return [job for _, job in await self._jobs(list(jobs))]
        read = await asyncio.gather(*map(self._jobs, parts))
        found = {job: one for group in read for job, one in group}
        return [found[job] for job in jobs]

    async def _jobs(self, jobs: list[JobId]) -> list[tuple[JobId, Job | None]]:
        try:
            found = await self.at(self.keys.job(jobs[0]), lambda client: self._read_jobs(client, jobs))
        except BrokerUnavailable:
            if len(jobs) == 1 or len(self.groups(jobs)) == 1:
                raise
            return [(job, (await self.jobs([job]))[0]) for job in jobs]  # they have moved apart meanwhile
        return list(zip(jobs, found, strict=True))

    async def _read_jobs(self, client: Redis, jobs: Sequence[JobId]) -> list[Job | None]:
        asked: list[Command] = [("TIME",)]
        for job in jobs:
            asked += self._ask(job)
        time, *replies = await multiplexed.ask(client, asked)
        seconds, micros = map(int, readable(time))
        now = seconds + micros / 1e6
        pairs = zip(replies[::2], replies[1::2], strict=True)
        return [
            job_of(job, self._names, self._publication, *pair, now)
            for job, pair in zip(jobs, pairs, strict=True)
        ]

    async def latest(self, job: JobId, *, limit: int, size: int = 1 << 20) -> Snapshot:
        """Read the job's hash and its last retained events: `limit`, or fewer that have `size` bytes.

        The first events are read together with the hash. Those before them cannot change, they can only go.
        """
        snapshot = await self._snapshot(job, "XREVRANGE", "+", "-", min(limit, FIRST_READ))
        if snapshot.job is not None and len(snapshot.entries) >= min(limit, FIRST_READ):
            await self._extend(snapshot.job, snapshot.entries, snapshot.entries[0].id, limit=limit, size=size)
        if snapshot.job is not None and snapshot.job.stated not in (frozenset(), self._publication.ends):
            # Its publisher learns from the answer to its next event that this hub ends jobs with others.
            ends = ",".join(sorted(self._publication.ends))
            meta = self.keys.meta(job)
            await self.at(meta, lambda client: client.hset(meta, "hub_terminal", ends))
        return snapshot

    async def before(self, job: Job, first: EventId, *, limit: int, size: int) -> list[Entry]:
        """Read the last `limit` retained events before the id `first`, or fewer that have `size` bytes."""
        entries: list[Entry] = []
        await self._extend(job, entries, first, limit=limit, size=size)
        return entries

    async def _extend(self, job: Job, entries: list[Entry], first: EventId, *, limit: int, size: int) -> None:
        """Put what is before `first` in front of `entries`. As they, it cannot change, it can only go."""
        log = self.keys.log(job.id)
        while len(entries) < limit and (got := sum(len(entry.body) for entry in entries)) < size:
            fits = (size - got) * len(entries) // max(1, got) if entries else FIRST_READ
            more = min(limit - len(entries), max(1, fits))
            (rows,) = await self.ask(log, [("XREVRANGE", log, f"({first}", "-", "COUNT", more)])
            older = [entry for row in reversed(rows or []) if has(job, entry := entry_of(row))]
            entries[:0] = older
            if len(older) < more:
                return
            first = entries[0].id

    async def since(self, job: JobId, after: EventId, *, limit: int) -> Snapshot:
        """Read the job's hash and the first `limit` retained events after the id `after`."""
        return await self._snapshot(job, "XRANGE", str(after.next), "+", limit)

    async def subscribe(self, job: JobId, sink: Sink) -> None:
        """Send the job's messages to `sink`; returns when Redis has confirmed the subscription."""
        await self.subscriber.subscribe(self.keys.events(job), sink, deadline=self._deadline)

    def unsubscribe(self, job: JobId, sink: Sink) -> None:
        """Stop sending messages to `sink`. Does nothing if another sink has replaced it; does not wait."""
        self.subscriber.unsubscribe(self.keys.events(job), sink)

    async def declare_lost(self, job: JobId) -> bool:
        """Publish the terminal event of a job whose lease has lapsed; returns True if this call published it.

        Returns False if the lease is valid or another process was first, and for the first `GRACE` seconds of
        a connection, so that live workers can renew the leases that lapsed while Redis was away.
        """
        if self.subscriber.connected_for(self.keys.events(job)) < GRACE:
            return False
        keys, args = self._publication.prepare_lost(job)
        answer = await self.at(keys[0], lambda client: self._lost(keys=keys, args=args, client=client))
        return is_published(answer)

    async def command(self, job: Job, text: str, *, once: str | None) -> str:
        """Keep a command for the worker of `job`, as it was read. Returns the command's id.

        A second call with the key `once` returns the first id. Raises JobNotFound, JobEnded, NobodyListens,
        TooManyCommands.
        """
        keys, args = self._publication.prepare_command(job.id, job.user_id, text, once=once)
        answer = await self.at(keys[0], lambda client: self._command(keys=keys, args=args, client=client))
        return interpret_command(job.id, answer)

    def listen(self, control: Listener) -> None:
        """Send the messages of the control channel, and each new connection's `missed`, to `control`."""
        self.subscriber.control = control

    async def revocations(self) -> list[Revocation]:
        """Returns every revocation that concerns credentials that may still be valid."""
        await self._check_kind()
        rows: Any = await self.at(REVOKED, lambda client: client.zrange(REVOKED, 0, -1, withscores=True))
        found = [Revocation.of_member(member, at) for member, at in rows]
        return [one for one in found if one is not None]

    async def revoke(self, one: Revocation, *, valid: float) -> None:
        """Keep a revocation, and tell every hub. `valid`: the seconds
        that credentials are valid for at most.
        """

        async def write(client: Redis) -> None:
            async with client.pipeline(transaction=True) as pipe:
                pipe.zremrangebyscore(REVOKED, "-inf", one.at - valid)
                pipe.zadd(REVOKED, {one.member: one.at}, gt=True)
                pipe.publish(CONTROL_CHANNEL, one.message())
                await pipe.execute()

        await self.at(REVOKED, write)

    async def announce(self, message: bytes) -> int | None:
        """Tell every process of every hub, on the control channel. Returns how many there are; None on a
        cluster, where a process may hear a node on two connections.
        """
        heard = await self.at(CONTROL_CHANNEL, lambda client: client.publish(CONTROL_CHANNEL, message))
        return None if isinstance(self.nodes, Cluster) else int(heard)

    async def ping(self) -> None:
        """Raise BrokerUnavailable unless Redis answers, of a cluster most primaries."""
        await self._check_kind()
        async with available():
            await self.nodes.ping()

    async def at(self, key: str, ask: Callable[[Redis], Awaitable[T]]) -> T:
        """What `ask` returns for the client of the Redis that has `key`; it may be called again. Raises
        BrokerUnavailable.
        """
        try:
            return await at(self.nodes, key, ask)
        except OUTAGE as error:  # without `available`, which costs as much as the rest of a call
            raise unavailable(error) from error

    async def ask(self, key: str, commands: Sequence[Command]) -> list[Any]:
        """The answers of the Redis that has `key`, as `readable` has them. Raises BrokerUnavailable, and the
        first error among them."""
        answers = await self.at(key, lambda client: multiplexed.ask(client, commands))
        return [readable(answer) for answer in answers]

    async def _check_kind(self) -> None:
        """Raises BrokerUnavailable for a node of a cluster that is used as a single Redis: it has some
        jobs.
        """
        if isinstance(self.nodes, Cluster):
            return
        if self._is_lone_node is None:
            # on a connection of its own: on fakeredis a HELLO changes the protocol of the others
            async with available(), client_like(self.nodes, protocol=2) as client:
                try:
                    facts = await client.execute_command("HELLO")
                except ResponseError:  # an older server, or one that stands in for Redis
                    facts = []
            self._is_lone_node = b"cluster" in facts
        if self._is_lone_node:
            raise BrokerUnavailable(
                "expected a single Redis, got a node of a cluster: use redis+cluster:// in the URL"
            )

    async def aclose(self) -> None:
        """End the Pub/Sub connection, and those for commands that are not the client's own."""
        await self.subscriber.aclose()
        nodes = self.nodes
        for client in nodes.clients if isinstance(nodes, Cluster) else [nodes]:
            await multiplexed.close(client)

    def statistics(self) -> SubscriberStatistics:
        """Returns the numbers of the Pub/Sub connection."""
        return self.subscriber.statistics()

    async def _snapshot(self, job: JobId, command: str, first: str, last: str, limit: int) -> Snapshot:
        log = self.keys.log(job)

        async def read(client: Redis) -> tuple[Job | None, list[Entry]]:
            commands = [*self._ask(job), (command, log, first, last, "COUNT", limit)]
            fields, meta, rows = await multiplexed.ask(client, commands, atomic=True)
            return job_of(job, self._names, self._publication, fields, meta), [
                entry_of(row) for row in readable(rows) or []
            ]

        found, entries = await self.at(log, read)
        # Entries of another epoch are an earlier job's of this name, and not for this one's viewers.
        entries = [entry for entry in entries if has(found, entry)]
        if command == "XREVRANGE":
            entries.reverse()
        return Snapshot(found, entries)

    def _ask(self, job: JobId) -> list[Command]:
        """Two reads: the hash by name, for it is the application's and may hold megabytes, and all of the
        hub's own."""
        return [("HMGET", self.keys.job(job), *self._names), ("HGETALL", self.keys.meta(job))]


@asynccontextmanager
async def available() -> AsyncIterator[None]:
    """Raises BrokerUnavailable for what redis-py raises when Redis does not answer."""
    try:
        yield
    except OUTAGE as error:
        raise unavailable(error) from error
