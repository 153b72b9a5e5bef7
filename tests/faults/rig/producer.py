"""Workers: publish by the script, retry until it is acknowledged, and tell the judge what they know."""

from __future__ import annotations

import asyncio
import json

from hub import JobStateMachine, Publisher, SyncPublisher
from hub.broker.connect import close, close_sync, for_publishing, for_publishing_sync
from hub.broker.script import Publication, Retention
from hub.errors import BrokerUnavailable
from hub.job.event import EventId, dumps
from tests.faults.rig.judge import Published
from tests.support.live import USER

PATIENCE = 60.0
"""Seconds for which a worker retries one event."""


class Worker:
    """The producer of some jobs on one Redis, which keeps `kept` events per job. An async context manager.

    `blocking`: it publishes by `SyncPublisher`, in a thread.
    """

    def __init__(self, url: str, *, kept: int = 1000, blocking: bool = False) -> None:
        self.url = url
        self.blocking = blocking
        self.publication = Publication(retention=Retention(events=kept))
        self.refused = 0  # publishes that failed, and were tried again
        self.over = False  # ends `stream`; a cancellation could be swallowed in the middle of a command

    async def __aenter__(self) -> Worker:
        self.client = for_publishing(self.url)
        self.publisher = Publisher(self.client, publication=self.publication, strict=True)
        self._sync_client = for_publishing_sync(self.url)
        self._sync = SyncPublisher(self._sync_client, publication=self.publication, strict=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await close(self.client)
        close_sync(self._sync_client)

    async def job(self, name: str) -> Published:
        """Create a new job."""
        await JobStateMachine(self.client).create_job(name, user_id=USER)
        return Published(name)

    async def emit(self, published: Published, **fields: object) -> EventId:
        """Publish one event of type `step`, and retry while Redis is away; the idempotency key makes that
        safe.
        """
        return await self._emit(published, "step", fields)

    async def end(self, published: Published, status: str = "ready") -> EventId:
        """Publish the job's terminal event."""
        kind = "build.stage.started"
        published.terminal = await self._emit(published, kind, {"stage": status, "status": status})
        return published.terminal

    async def _emit(self, published: Published, kind: str, fields: dict) -> EventId:
        body = dumps({"type": kind, **fields, "job_id": published.job})
        published.tried.add(body)
        once = f"{published.job}:{json.dumps(fields, sort_keys=True)}"
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    event_id = await self._publish(published.job, kind, fields, once)
                except BrokerUnavailable:
                    self.refused += 1
                    await asyncio.sleep(0.05)
                    continue
                assert event_id is not None, "a strict publisher raises"
                before = published.acknowledged.get(event_id, body)
                if before != body:
                    published.superseded.add((event_id, before))
                published.acknowledged[event_id] = body
                return event_id

    async def _publish(self, job: str, kind: str, fields: dict, once: str) -> EventId | None:
        if self.blocking:
            return await asyncio.to_thread(self._sync.emit, job, kind, fields, once=once)
        return await self.publisher.emit(job, kind, fields, once=once)

    async def stream(
        self, published: Published, number: int, *, rate: float, start: int = 0, fill: int = 0
    ) -> None:
        """Publish `number` events, about `rate` per second, each with its `n` and `fill` bytes of padding."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        for n in range(number):
            if self.over:
                return
            await self.emit(published, n=start + n, fill="x" * fill)
            ahead = began + (n + 1) / rate - loop.time()
            if ahead > 0:
                await asyncio.sleep(ahead)
