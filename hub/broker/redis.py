"""The `Broker` on Redis: a job's hash, its log, and the messages on its channel.

Invariant: the timeouts of the client bound every call, and every failure of Redis or the network raises
`BrokerUnavailable`. Live messages come through subscriber.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from hub.broker.connect import OUTAGE, unavailable
from hub.broker.keys import CONTROL_CHANNEL, REVOKED
from hub.broker.script import SCRIPT, Publication, is_published
from hub.broker.seam import Sink
from hub.broker.subscriber import Subscriber, SubscriberStatistics
from hub.job.event import EventId, JobId, UserId
from hub.job.record import Entry, Job, Snapshot
from hub.job.revocation import Revocation

GRACE = 5.0
"""Seconds that Redis must have been connected before a worker counts as lost. During an outage workers cannot
renew their leases; they retry every second, so a live worker renews within this time."""

FIRST_READ = 20
"""Entries of a job that are read before their size is known: an event may be a megabyte."""

MAX_DIGITS = 20
"""Largest number of digits of a number in a hash: 64 bits. `int` raises ValueError for more than 4,300
digits, and an application can write any text there."""


class RedisBroker:
    """The Broker on a redis-py client, which the caller closes.

    `deadline` is how many seconds Redis may take to confirm a subscription.
    """

    def __init__(self, client: Redis, publication: Publication, *, deadline: float = 5.0) -> None:
        self.client = client
        self.keys = publication.keys
        self._names = ["status", "user_id", *sorted(publication.fields - {"status", "user_id"})]
        self._publication = publication
        self._lost = client.register_script(SCRIPT)
        self.subscriber = Subscriber(client.connection_pool)
        self._deadline = deadline

    async def jobs(self, jobs: Sequence[JobId]) -> list[Job | None]:
        """Read the hashes of `jobs` in one round trip; None stands for a job that does not exist."""
        async with available(), self.client.pipeline(transaction=False) as pipe:
            pipe.time()
            for job in jobs:
                self._ask(pipe, job)
            time, *replies = await pipe.execute(raise_on_error=False)
            seconds, micros = _readable(time)
            now = seconds + micros / 1e6
            pairs = zip(replies[::2], replies[1::2], strict=True)
            return [self._job(job, *pair, now) for job, pair in zip(jobs, pairs, strict=True)]

    async def latest(self, job: JobId, *, limit: int, size: int = 1 << 20) -> Snapshot:
        """Read the job's hash and its last retained events: `limit`, or fewer that have `size` bytes.

        The first events are read together with the hash. Those before them cannot change, they can only go.
        """
        snapshot = await self._snapshot(job, "XREVRANGE", "+", "-", min(limit, FIRST_READ))
        await self._read_older(job, snapshot, limit=limit, size=size)
        if snapshot.job is not None and snapshot.job.stated not in (frozenset(), self._publication.ends):
            # Its publisher learns from the answer to its next event that this hub ends jobs with others.
            async with available():
                ends = ",".join(sorted(self._publication.ends))
                await self.client.hset(self.keys.meta(job), "hub_terminal", ends)
        return snapshot

    async def _read_older(self, job: JobId, snapshot: Snapshot, *, limit: int, size: int) -> None:
        entries = snapshot.entries
        count = FIRST_READ
        while len(entries) >= count and len(entries) < limit:
            got = sum(len(entry.body) for entry in entries)
            if got >= size:
                return
            more = min(limit - len(entries), max(1, (size - got) * len(entries) // max(1, got)))
            async with available():
                rows: Any = await self.client.xrevrange(
                    self.keys.log(job), max=f"({entries[0].id}", min="-", count=more
                )
            older = [entry for row in reversed(rows) if _has(snapshot.job, entry := _entry(row))]
            entries[:0] = older
            if len(older) < more:
                return

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
        if self.subscriber.connected_for() < GRACE:
            return False
        keys, args = self._publication.prepare_lost(job)
        async with available():
            answer = await self._lost(keys=keys, args=args)
        return is_published(answer)

    def listen(self, control: Sink) -> None:
        """Send the messages of the control channel, and each new connection's `missed`, to `control`."""
        self.subscriber.control = control

    async def revocations(self) -> list[Revocation]:
        """Returns every revocation that concerns credentials that may still be valid."""
        async with available():
            rows: Any = await self.client.zrange(REVOKED, 0, -1, withscores=True)
        found = [Revocation.of_member(member, at) for member, at in rows]
        return [one for one in found if one is not None]

    async def revoke(self, one: Revocation, *, valid: float) -> None:
        """Keep a revocation, and tell every hub. `valid`: the seconds that credentials are valid for at most."""
        async with available(), self.client.pipeline(transaction=True) as pipe:
            pipe.zremrangebyscore(REVOKED, "-inf", one.at - valid)
            pipe.zadd(REVOKED, {one.member: one.at}, gt=True)
            pipe.publish(CONTROL_CHANNEL, one.message())
            await pipe.execute()

    async def ping(self) -> None:
        """Raise BrokerUnavailable unless Redis answers."""
        async with available():
            await self.client.ping()

    async def aclose(self) -> None:
        """End the Pub/Sub connection."""
        await self.subscriber.aclose()

    def statistics(self) -> SubscriberStatistics:
        """Returns the numbers of the Pub/Sub connection."""
        return self.subscriber.statistics()

    async def _snapshot(self, job: JobId, command: str, first: str, last: str, limit: int) -> Snapshot:
        async with available(), self.client.pipeline(transaction=True) as pipe:
            self._ask(pipe, job)
            pipe.execute_command(command, self.keys.log(job), first, last, "COUNT", limit)
            fields, meta, rows = await pipe.execute(raise_on_error=False)
            found = self._job(job, fields, meta)
            entries = [_entry(row) for row in _readable(rows) or []]
            # Entries of another epoch are an earlier job's of this name, and not for this one's viewers.
            entries = [entry for entry in entries if _has(found, entry)]
        if command == "XREVRANGE":
            entries.reverse()
        return Snapshot(found, entries)

    def _ask(self, pipe: Any, job: JobId) -> None:
        """Two reads: the hash by name, for it is the application's and may hold megabytes, and all of the
        hub's own."""
        pipe.hmget(self.keys.job(job), self._names)
        pipe.hgetall(self.keys.meta(job))

    def _job(self, job: JobId, reply: Any, meta: Any, now: float | None = None) -> Job | None:
        values = _readable(reply) or []
        fields = {
            name: _text(value) for name, value in zip(self._names, values, strict=False) if value is not None
        }
        ours = {_text(name): _text(value) for name, value in (_readable(meta) or {}).items()}
        if not fields and not ours:
            return None
        owner = _owner(values[1]) if values else ""
        if owner and ours.get("owner", owner) != owner:
            ours = {}  # the log is of another owner's job of this name
        lease = _number(ours.get("lease", ""))
        stated = frozenset(filter(None, ours.get("terminal", "").split(",")))
        return Job(
            id=job,
            status=fields.get("status", ""),
            user_id=UserId(owner),
            epoch=_number(ours.get("epoch", "")),
            position=EventId.parse(ours.get("position", "")),
            lease=None if lease is None or now is None else lease / 1000 - now,
            fields=fields,
            ended=EventId.parse(ours.get("ended", "")),
            log_owner=ours.get("owner", ""),
            attempt=_number(ours.get("attempt", "")) or 1,
            digest=ours.get("digest", ""),
            exists=bool(fields),
            terminal=self._publication.terminal | stated,
            stated=stated,
        )


@asynccontextmanager
async def available() -> AsyncIterator[None]:
    """Raises BrokerUnavailable for what redis-py raises when Redis does not answer."""
    try:
        yield
    except OUTAGE as error:
        raise unavailable(error) from error


def _readable(reply: Any) -> Any:
    """The reply, or None if the key has another type than the hub's. Raises every other error in a reply.

    Only WRONGTYPE may mean "no such job". A Redis that is loading its data, or that has revoked the hub's
    rights, returns an error for every job, and a viewer that gets a 404 does not reconnect.
    """
    if isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE"):
        return None
    if isinstance(reply, Exception):
        raise reply
    return reply


def _has(job: Job | None, entry: Entry) -> bool:
    """Returns False for an entry of an earlier epoch, and of a job whose hash was deleted: it is nobody's to
    see."""
    if job is None or entry.id.epoch != job.epoch:
        return False
    return job.exists or not job.log_owner


def _owner(value: bytes | str | None) -> str:
    """The owner in a hash, "" for none. Bytes that are not UTF-8 are nobody: replaced, they would equal
    another name."""
    try:
        return value.decode() if isinstance(value, bytes) else value or ""
    except UnicodeDecodeError:
        return ""


def _entry(row: Any) -> Entry:
    """Read a stream row: (id, {field: value}) or (id, [field, value, ...]), as redis-py's protocol has it."""
    row_id, values = row
    body = next(iter(values.values())) if isinstance(values, dict) else values[1]
    event_id = EventId.parse(_text(row_id))
    assert event_id is not None, "a stream's ids are two unsigned integers"
    return Entry(event_id, body if isinstance(body, bytes) else body.encode())


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS else None
