"""How many viewers a job has, over all hubs.

Invariant: a count is right within `INTERVAL` seconds while Redis answers. That of a hub that was killed is
gone when its key is (`LIFE` in `hub/broker/presence.py`).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress

from hub.broker.presence import KEPT
from hub.broker.seam import Broker
from hub.engine.admission import Admission
from hub.errors import BrokerUnavailable
from hub.job.event import JobId
from hub.quiet import quiet_log

logger = quiet_log("hub.presence")

INTERVAL = 5.0
"""Seconds between two rounds, which say what has changed and tell who asked."""

GOODBYE = 0.5
"""Seconds that a hub that ends may take to say so; otherwise its key expires."""

Tell = Callable[[int], None]


class Presence:
    """Says the counts of one process while `run` runs, and knows those of all."""

    def __init__(self, broker: Broker, admission: Admission) -> None:
        self._broker = broker
        self._admission = admission
        self._hub = secrets.token_hex(6)
        self._said: dict[JobId, int] = {}  # what Redis has of this hub
        self._all_due = 0.0  # loop time at which all of it is said again
        self._asking: dict[
            JobId, dict[Tell, int | None]
        ] = {}  # who wants to be told, and the last they heard

    async def of(self, job: JobId) -> int | None:
        """The viewers of a job at all hubs. None if Redis does not answer."""
        try:
            return self._sum(job, (await self._broker.counts.of([job])).get(job))
        except BrokerUnavailable:
            return None

    def ask(self, job: JobId, tell: Tell) -> None:
        """Call `tell` with the count of viewers of `job` within `INTERVAL` seconds, then when it changes."""
        self._asking.setdefault(job, {})[tell] = None

    def forget(self, job: JobId, tell: Tell) -> None:
        """The pair of `ask`; does nothing if there was none."""
        asking = self._asking.get(job, {})
        asking.pop(tell, None)
        if not asking:
            self._asking.pop(job, None)

    async def run(self) -> None:
        """Say and tell until cancelled; then this hub is gone for the others."""
        try:
            while True:
                await asyncio.sleep(INTERVAL)
                try:
                    await self._say()
                    await self._tell()
                except BrokerUnavailable as error:
                    logger.warning("the count of viewers was not exchanged: %s", error)
        finally:
            with suppress(BrokerUnavailable, TimeoutError):
                async with asyncio.timeout(GOODBYE):
                    await self._broker.counts.leave(self._hub)

    async def _say(self) -> None:
        now = asyncio.get_running_loop().time()
        was_there = await self._broker.counts.renew(self._hub)
        changed = self._admission.take_changed()
        if not was_there or now >= self._all_due:
            self._all_due = now + KEPT / 2
            changed |= self._said.keys()
            self._said = dict.fromkeys(self._said, -1)
        counts = {job: self._admission.viewers_of(job) for job in changed}
        news = {job: count for job, count in counts.items() if count != self._said.get(job, 0)}
        left = set(news)  # what is not written is news in the next round
        try:
            for job in await self._broker.counts.say(self._hub, news) if news else ():
                left.discard(job)
                self._said[job] = news[job]
                if not news[job]:
                    del self._said[job]
        finally:
            self._admission.changed |= left

    async def _tell(self) -> None:
        if not self._asking:
            return
        for job, row in (await self._broker.counts.of(list(self._asking))).items():
            count = self._sum(job, row)
            asking = self._asking.get(job, {})
            for tell, last in list(asking.items()):
                if count is not None and count != last:
                    asking[tell] = count
                    tell(count)

    def _sum(self, job: JobId, row: dict[str, int] | None) -> int | None:
        if row is None:
            return None
        others = sum(count for hub, count in row.items() if hub != self._hub)
        return others + self._admission.viewers_of(job)
