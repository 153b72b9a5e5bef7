"""Asks again whether viewers that do not own their job may still watch it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from hub.broker.seam import Broker
from hub.engine.view import View
from hub.errors import HubError
from hub.fanout.wire import Reason
from hub.job.event import JobId
from hub.job.record import Job
from hub.quiet import quiet_log

logger = quiet_log("hub.access")

INTERVAL = 60.0
"""Seconds between two questions about one user and job."""

AT_ONCE = 20
"""Questions that are asked at the same time: an application's database has few connections."""


class GuestCheck:
    """Looks at the guests among `views()` while `run` runs."""

    def __init__(self, broker: Broker, views: Callable[[], Iterable[View]]) -> None:
        self._broker = broker
        self._views = views

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            await self.look()

    async def look(self) -> None:
        """Ask once for each user and job, and end the streams of those who may not watch any more."""
        pairs: dict[tuple[str, JobId], list[View]] = {}
        for view in list(self._views()):
            if view.guest is not None:
                pairs.setdefault((view.user, view.job_id), []).append(view)
        groups = list(pairs.values())
        for first in range(0, len(groups), AT_ONCE):
            some = groups[first : first + AT_ONCE]
            try:
                found = await self._broker.jobs([group[0].job_id for group in some])
            except HubError as error:
                logger.warning("the check of guests failed: %s", error)
                return
            await asyncio.gather(*(_ask(group, job) for group, job in zip(some, found, strict=True)))


async def _ask(views: list[View], job: Job | None) -> None:
    guest = views[0].guest
    assert guest is not None, "the look asks about guests only"
    try:
        may = await guest.may_watch(views[0].job_id, job)
    except HubError:
        return  # an application that does not answer takes nothing away
    if not may:
        for view in views:
            view.expel(Reason.NOT_FOUND)
