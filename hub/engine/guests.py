"""Asks again whether viewers that do not own their job may still watch it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

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
        of_job: dict[JobId, list[list[View]]] = {}
        for (_, job), views in pairs.items():
            of_job.setdefault(job, []).append(views)
        for group in self._broker.groups(list(of_job)):
            for first in range(0, len(group), AT_ONCE):
                await self._look(group[first : first + AT_ONCE], of_job)

    async def _look(self, jobs: list[JobId], of_job: Mapping[JobId, list[list[View]]]) -> None:
        try:
            found = await self._broker.jobs(jobs)
        except HubError as error:
            logger.warning("the check of guests failed: %s", error)
            return
        pairs = [(views, job) for job_id, job in zip(jobs, found, strict=True) for views in of_job[job_id]]
        for first in range(0, len(pairs), AT_ONCE):
            await asyncio.gather(*(_ask(*pair) for pair in pairs[first : first + AT_ONCE]))


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
