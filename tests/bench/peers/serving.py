"""The common part of the Python peers: a tuned uvicorn, and one Redis subscription for all viewers."""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis.asyncio
import uvicorn
from fastapi import FastAPI

REDIS_URL = sys.argv[2]

QUEUE = 1000
"""Events by which a viewer may lag. Above that it loses some, which the benchmark would report."""


class Room:
    """A queue per viewer, filled by one subscription to all jobs."""

    def __init__(self) -> None:
        self.queues: dict[str, set[asyncio.Queue[str]]] = defaultdict(set)

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        client = redis.asyncio.Redis.from_url(REDIS_URL, socket_timeout=None)
        task = asyncio.create_task(self._read(client))
        yield
        task.cancel()

    async def _read(self, client: redis.asyncio.Redis) -> None:
        pubsub = client.pubsub(ignore_subscribe_messages=True)
        await pubsub.psubscribe("job:*:events")
        async for message in pubsub.listen():
            body = message["data"].decode()
            for queue in self.queues[message["channel"].split(b":")[1].decode()]:
                if not queue.full():
                    queue.put_nowait(body)

    @asynccontextmanager
    async def queue(self, job: str) -> AsyncIterator[asyncio.Queue[str]]:
        mine: asyncio.Queue[str] = asyncio.Queue(QUEUE)
        self.queues[job].add(mine)
        try:
            yield mine
        finally:
            self.queues[job].discard(mine)


def serve(app: FastAPI) -> None:
    """`python PEER.py PORT REDIS_URL`: the hub's uvicorn, without the hub's protocol classes."""
    uvicorn.run(
        app,
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        access_log=False,
        log_level="warning",
        backlog=4096,
        timeout_graceful_shutdown=1,
    )
