"""Producers: ours use the script, foreign ones a bare PUBLISH; and the faults that can happen to them."""

from __future__ import annotations

import itertools
import json
import time
from typing import Any

from redis.asyncio import Redis

from hub.job.event import EventId
from tests.support.keys import log_of, meta_of
from tests.support.live import USER, Live

_numbers = itertools.count(1)


def name(prefix: str = "job") -> str:
    """Returns a job id that no other test uses."""
    return f"{prefix}-{next(_numbers)}"


async def job(live: Live, *, events: int = 0, user: str = USER, **fields: str) -> str:
    """Create a job of ours whose log has `events` events of type `step` (n = 0, 1, 2...). Returns its id."""
    made = name()
    await live.jobs.create_job(made, user_id=user, **fields)
    await publish(live, made, events)
    return made


async def foreign_job(client: Redis, *, status: str = "code", user: str = USER) -> str:
    """Create a foreign producer's job, which has a hash and no log. Returns its id."""
    made = name("foreign")
    await client.hset(f"job:{made}", mapping={"status": status, "user_id": user, "project_id": "p"})
    return made


async def publish(live: Live, made: str, number: int, *, start: int = 0, kind: str = "step") -> list[EventId]:
    """Publish `number` events by the script. Returns their ids."""
    publisher = live.publisher
    return [await publisher.emit(made, kind, {"n": n}) for n in range(start, start + number)]


async def shout(client: Redis, made: str, *messages: Any) -> None:
    """PUBLISH each message, in one pipeline: bytes and text as they are, anything else as JSON."""
    async with client.pipeline(transaction=False) as pipe:
        for message in messages:
            data = message if isinstance(message, str | bytes) else json.dumps(message)
            pipe.publish(f"job:{made}:events", data)
        await pipe.execute()


async def whisper(client: Redis, made: str, fields: dict[str, Any]) -> str:
    """What the script does, but for the PUBLISH: an event that Pub/Sub never brings."""
    key = meta_of(made)
    epoch = (await client.hget(key, "epoch")).decode()
    event_id = (await client.xadd(log_of(made), {"data": json.dumps(fields)}, id=f"{epoch}-*")).decode()
    await client.hset(key, "position", event_id)
    await client.hdel(key, "digest")
    if "status" in fields:
        await client.hset(f"job:{made}", "status", fields["status"])
    return event_id


async def retain(client: Redis, made: str, number: int) -> None:
    """So many events `step` in the log, in one go; nobody is told."""
    key = meta_of(made)
    epoch = (await client.hget(key, "epoch")).decode()
    async with client.pipeline(transaction=False) as pipe:
        for n in range(number):
            pipe.xadd(log_of(made), {"data": json.dumps({"type": "step", "n": n})}, id=f"{epoch}-*")
        pipe.hset(key, "position", f"{epoch}-{number - 1}")
        await pipe.execute()


async def forget_epoch(client: Redis, made: str) -> None:
    """The log and its numbers are gone, as after an expiry."""
    await client.delete(log_of(made))
    await client.hset(meta_of(made), "epoch", int(time.time() * 1000) + 1)
    await client.hdel(meta_of(made), "position", "digest")


def ids(frames: list) -> list[str]:
    """Returns the ids of events, without control frames."""
    return [frame.id for frame in frames if not frame.control]


def numbers(frames: list) -> list[int]:
    """Returns the `n` of each `step` among the frames."""
    return [frame.fields["n"] for frame in frames if frame.name == "step"]


def contiguous(frames: list) -> bool:
    """Returns True if the events' ids are of one epoch and without holes."""
    parsed = [EventId.parse(text) for text in ids(frames)]
    return all(after == before.next for before, after in itertools.pairwise(parsed))
