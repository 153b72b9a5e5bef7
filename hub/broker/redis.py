"""Redis, as the hub sees it: a job's hash, its log, and messages on its channel.

Invariant: every call is bounded in time by the client it was given; connection trouble of any kind is
`BrokerUnavailable`. Live messages come through subscriber.py. A second broker is one more file like this one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from hub.broker.connect import OUTAGE, unavailable
from hub.broker.script import SCRIPT, Publication, is_published
from hub.broker.seam import Sink
from hub.broker.subscriber import Subscriber, SubscriberStatistics
from hub.job.event import EventId, JobId, UserId
from hub.job.record import Entry, Job, Snapshot

GRACE = 5.0
"""Seconds that Redis must have been there before a worker counts as lost; one that could not renew tries again each second."""

MAX_DIGITS = 20
"""Of a number in a hash: 64 bits. Anybody who may write there could write more than Python likes to read."""


class RedisBroker:
    """The Broker on a redis-py client, which stays the caller's to close. `deadline`: seconds for a confirmation."""

    def __init__(self, client: Redis, publication: Publication, *, deadline: float = 5.0) -> None:
        self.client = client
        self.keys = publication.keys
        self._names = ["status", "user_id", *sorted(publication.fields - {"status", "user_id"})]
        self._publication = publication
        self._lost = client.register_script(SCRIPT)
        self.subscriber = Subscriber(client.connection_pool)
        self._deadline = deadline

    async def jobs(self, jobs: Sequence[JobId]) -> list[Job | None]:
        """The hashes of `jobs`, in one round trip; None for a job that does not exist."""
        async with _available(), self.client.pipeline(transaction=False) as pipe:
            pipe.time()
            for job in jobs:
                self._ask(pipe, job)
            time, *replies = await pipe.execute(raise_on_error=False)
            seconds, micros = _readable(time)
            now = seconds + micros / 1e6
            pairs = zip(replies[::2], replies[1::2], strict=True)
            return [self._job(job, *pair, now) for job, pair in zip(jobs, pairs, strict=True)]

    async def latest(self, job: JobId, *, limit: int) -> Snapshot:
        """The hash and the last `limit` retained events."""
        return await self._snapshot(job, "XREVRANGE", "+", "-", limit)

    async def since(self, job: JobId, after: EventId, *, limit: int) -> Snapshot:
        """The hash and at most `limit` retained events that follow `after`."""
        return await self._snapshot(job, "XRANGE", str(after.next), "+", limit)

    async def subscribe(self, job: JobId, sink: Sink) -> None:
        """Send the job's messages to `sink` from now on; returns when Redis has confirmed it."""
        await self.subscriber.subscribe(self.keys.events(job), sink, deadline=self._deadline)

    def unsubscribe(self, job: JobId, sink: Sink) -> None:
        """Stop that, unless another sink has taken its place; does not wait."""
        self.subscriber.unsubscribe(self.keys.events(job), sink)

    async def declare_lost(self, job: JobId) -> bool:
        """Publish the terminal event of a job whose lease has lapsed. False when it has not, or another process was first.

        Also for `GRACE` seconds after Redis was away: workers that live could not renew, and need a moment to say so.
        """
        if self.subscriber.connected_for() < GRACE:
            return False
        keys, args = self._publication.prepare_lost(job)
        async with _available():
            answer = await self._lost(keys=keys, args=args)
        return is_published(answer)

    async def ping(self) -> None:
        """Raise BrokerUnavailable unless Redis answers."""
        async with _available():
            await self.client.ping()

    async def aclose(self) -> None:
        """End the Pub/Sub connection."""
        await self.subscriber.aclose()

    def statistics(self) -> SubscriberStatistics:
        """What the Pub/Sub connection holds."""
        return self.subscriber.statistics()

    async def _snapshot(self, job: JobId, command: str, first: str, last: str, limit: int) -> Snapshot:
        async with _available(), self.client.pipeline(transaction=True) as pipe:
            self._ask(pipe, job)
            pipe.execute_command(command, self.keys.log(job), first, last, "COUNT", limit)
            fields, meta, rows = await pipe.execute(raise_on_error=False)
            found = self._job(job, fields, meta)
            entries = [_entry(row) for row in _readable(rows) or []]
            # Entries of another epoch are an earlier job's of this name, and not for this one's viewers.
            entries = [entry for entry in entries if found is not None and entry.id.epoch == found.epoch]
        if command == "XREVRANGE":
            entries.reverse()
        return Snapshot(found, entries)

    def _ask(self, pipe: Any, job: JobId) -> None:
        """Two reads: the hash by name, for it is the application's and may hold megabytes, and all of the hub's own."""
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
            terminal=self._publication.terminal.union(filter(None, ours.get("terminal", "").split(","))),
        )


@asynccontextmanager
async def _available() -> AsyncIterator[None]:
    try:
        yield
    except OUTAGE as error:
        raise unavailable(error) from error


def _readable(reply: Any) -> Any:
    """The reply; None where a key of another type stands, which is not ours to read. Raises any other error in a reply.

    Not every error may pass for "there is no such job": a Redis that is loading its data, or has revoked our rights,
    answers for every job, and a viewer who is told 404 never comes back.
    """
    if isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE"):
        return None
    if isinstance(reply, Exception):
        raise reply
    return reply


def _owner(value: bytes | str | None) -> str:
    """The owner in a hash, "" for none. Bytes that are not UTF-8 are nobody: replaced, they would equal another name."""
    try:
        return value.decode() if isinstance(value, bytes) else value or ""
    except UnicodeDecodeError:
        return ""


def _entry(row: Any) -> Entry:
    """`row` is (id, {field: value}) or (id, [field, value, ...]), as redis-py's protocol version has it."""
    row_id, values = row
    body = next(iter(values.values())) if isinstance(values, dict) else values[1]
    event_id = EventId.parse(_text(row_id))
    assert event_id is not None, "a stream's ids are two unsigned integers"
    return Entry(event_id, body if isinstance(body, bytes) else body.encode())


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS else None
