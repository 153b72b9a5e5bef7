"""The position check: holds every watched job's hash against its feed, and its lease against the clock.

It finds what Pub/Sub silently dropped, also a terminal event, within `HUB_POSITION_CHECK` seconds, and a
worker that died with a lease. A pipeline reads a lot of the jobs that are due; with the jitter a thousand
jobs cost Redis forty reads a second.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable

from hub.broker.seam import Broker
from hub.errors import HubError
from hub.feed.feed import Feed
from hub.job.record import Job
from hub.quiet import quiet_log
from hub.settings import Settings
from hub.totals import Totals

logger = quiet_log("hub.check")

TICK = 1.0
"""Seconds between looks for what is due, or a quarter of the check's own period."""

LOT = 50
"""Jobs that are read and compared in one go, about 1 ms: a hub of thousands has events to deliver, too."""

SLACK = 0.2
"""Seconds after a lease's end: a question too early is asked twice."""


class PositionCheck:
    """Checks the jobs of `feeds()` while `run` runs."""

    def __init__(
        self, broker: Broker, settings: Settings, feeds: Callable[[], Iterable[Feed]], totals: Totals
    ) -> None:
        self._totals = totals
        self._broker = broker
        self._period = settings.position_check
        self._feeds = feeds
        self._loop = asyncio.get_running_loop()

    def plan(self, feed: Feed, job: Job) -> None:
        """Set when `feed` is due: jittered, and sooner when the job's lease ends before that."""
        wait = self._period * random.uniform(0.8, 1)
        if job.lease is not None:
            wait = min(wait, max(TICK, job.lease + SLACK))
        feed.due = self._loop.time() + wait

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            await asyncio.sleep(min(TICK, self._period / 4))
            now = self._loop.time()
            due = {feed.id: feed for feed in self._feeds() if feed.due <= now}
            groups = self._broker.groups(list(due)) if due else []
            if len(groups) == 1:
                await self._try(list(due.values()))
            else:
                await asyncio.gather(*(self._try([due[job] for job in group]) for group in groups))

    async def _try(self, due: list[Feed]) -> None:
        for feed in due:  # also when Redis does not answer: it is not asked in a spin
            feed.due = self._loop.time() + self._period
        try:
            for first in range(0, len(due), LOT):
                await self._check(due[first : first + LOT])
        except HubError as error:
            logger.warning("the position check failed: %s", error)
        except Exception:
            logger.exception("the position check failed")

    async def _check(self, due: list[Feed]) -> None:
        jobs = await self._broker.jobs([feed.id for feed in due])
        lapsed = []
        for feed, job in zip(due, jobs, strict=True):
            self._totals.checks_found += feed.compare(job)
            if job is not None:
                self.plan(feed, job)
                if job.lease is not None and job.lease < 0:
                    lapsed.append(feed)
        for feed in lapsed:
            await self._end_lost(feed)

    async def _end_lost(self, feed: Feed) -> None:
        try:
            ended = await self._broker.declare_lost(feed.id)
        except HubError as error:  # no rights to publish, no memory: nothing that a second would change
            logger.warning("job %s: its worker's lease has lapsed, and it was not ended: %s", feed.id, error)
            feed.due = self._loop.time() + self._period
            return
        if ended:
            self._totals.workers_lost += 1
            logger.warning("job %s: its worker's lease has lapsed, it is declared failed", feed.id)
