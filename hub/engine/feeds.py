"""The watched jobs of one process.

Invariant: every watched job has one feed with one subscription, however many viewers it has and on whatever
transport. A feed ends `linger` seconds after its last viewer left; nothing of it is left then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from hub.broker.seam import Broker
from hub.engine.check import PositionCheck
from hub.engine.memory import COPIES, held
from hub.fanout.audience import Audience
from hub.fanout.pace import Pace
from hub.feed.feed import Feed
from hub.feed.pump import Pump
from hub.job.cursor import Wish, depth
from hub.job.event import JobId
from hub.job.record import Job
from hub.settings import Settings
from hub.totals import Totals


class Feeds:
    """The feeds by job. `closing`: the tasks of those that are ending."""

    def __init__(self, broker: Broker, settings: Settings, totals: Totals) -> None:
        self.watched: dict[JobId, Feed] = {}
        self.closing: set[asyncio.Task[None]] = set()
        self.check = PositionCheck(broker, settings, lambda: list(self.watched.values()), totals)
        self.pace = Pace(settings.heartbeat)
        self._pump = Pump(totals.timings)
        self._broker = broker
        self._settings = settings
        self._totals = totals
        self._loop = asyncio.get_running_loop()
        self._lingering: dict[JobId, asyncio.TimerHandle] = {}
        self._freed = 0  # bytes of feeds that are ending

    def audiences(self) -> Iterator[Audience[Any]]:
        """All audiences of all jobs."""
        for feed in list(self.watched.values()):
            yield from feed.audiences

    def of(self, job: Job, wish: Wish) -> Feed:
        """The feed of `job`, as just read. A new one reads what a viewer with this wish needs."""
        if (timer := self._lingering.pop(job.id, None)) is not None:
            timer.cancel()
        feed = self.watched.get(job.id)
        if feed is None or feed.failed or feed.is_outdated(job):
            if feed is not None:
                self._replace(feed)
            feed = Feed(
                job,
                self._broker,
                self._settings,
                self._totals,
                self._idle,
                self._pump,
                self.pace,
                depth=depth(wish, job.position),
            )
            self.watched[job.id] = feed
            self.check.plan(feed, job)
        feed.note(job)
        return feed

    def make_room(self, memory: int) -> bool:
        """Let go of jobs that nobody watches, the longest first, while events take `memory` bytes or more.

        Returns True if they take less then.
        """
        for job in list(self._lingering):
            if self._held() < memory:
                return True
            self._end(self.watched[job])
        return self._held() < memory

    def _held(self) -> int:
        return held(self._totals) - self._freed

    def notice(self, job: JobId, found: Job | None) -> None:
        """The job was read for a viewer: its feed learns if it changed hands, was deleted or begun again."""
        feed = self.watched.get(job)
        if feed is None or not feed.ready or feed.log.closed:
            return
        if found is None or (found.user_id, found.epoch) != (feed.job.user_id, feed.job.epoch):
            feed.compare(found)

    def end(self) -> None:
        """End all feeds. Their tasks are in `closing` until they have ended."""
        for timer in self._lingering.values():
            timer.cancel()
        for feed in list(self.watched.values()):
            self._end(feed)

    def _replace(self, feed: Feed) -> None:
        """Another feed takes the place of one that failed, or whose job was begun again or changed hands."""
        if not feed.log.closed and not feed.failed:
            feed.expel()
        # a viewer may still read the log of an attempt that is over
        if not feed.log.closed or not feed.is_held:
            self._end(feed)

    def _idle(self, feed: Feed) -> None:
        if self.watched.get(feed.id) is not feed or feed.failed:
            self._end(feed)
            return
        self._lingering[feed.id] = self._loop.call_later(self._settings.linger, self._end, feed)

    def _end(self, feed: Feed) -> None:
        if self.watched.get(feed.id) is feed:
            del self.watched[feed.id]
            self._lingering.pop(feed.id, None)
        if not feed.closing:
            feed.closing = True
            task = asyncio.create_task(feed.aclose(), name=f"hub-feed-end-{feed.id}")
            self.closing.add(task)
            self._freed += (size := COPIES * feed.log.size)
            task.add_done_callback(lambda done: self._ended(done, size))

    def _ended(self, task: asyncio.Task[None], size: int) -> None:
        self.closing.discard(task)
        self._freed -= size
