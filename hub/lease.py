"""A worker's promise to be heard of: while it holds a job's lease, silence means that the worker is lost.

Invariant: whoever watches a job with a lease learns of its end, from the worker or, when the lease has lapsed, from whichever
hub process notices it first: one `failed` with `reason` `producer_lost`, published by the script, so once. A block that is left
in order gives the lease back; one that is left by an exception lets it lapse, unless a retry takes it over.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from hub.ending import end_tasks
from hub.errors import HubError, JobEnded, JobNotFound
from hub.quiet import quiet_log

log = quiet_log("hub.lease")

TTL = 30.0
"""Seconds: three renewals may fail, or a worker may be away for collecting garbage, before it counts as lost."""

RENEWALS = 3
"""Renewals within a lease's time."""

RETRY = 1.0
"""Seconds until the next try after a renewal that failed, or a tenth of the lease: an outage that ends in time costs nothing."""


class Lease:
    """The lease of one job. `lost` is true once the job has ended without this worker's doing: it may stop."""

    def __init__(self, job: str, ttl: float) -> None:
        if ttl < 1:
            raise ValueError(f"expected a lease of at least 1 s, got {ttl}")
        self.job = job
        self.ttl = ttl
        self.lost = False

    @property
    def pause(self) -> float:
        """Seconds between two renewals."""
        return self.ttl / RENEWALS

    @property
    def retry(self) -> float:
        """Seconds between two tries."""
        return min(RETRY, self.ttl / 10)

    def failed(self, error: HubError | TimeoutError) -> None:
        """Take note of a renewal that failed: the job is over, or Redis is away and the next one may do."""
        if isinstance(error, JobEnded | JobNotFound):
            self.lost = True
            log.warning("the lease of job %s is over: %s", self.job, error)
        else:
            log.warning("the lease of job %s was not renewed, trying again: %s", self.job, error)


@asynccontextmanager
async def held(
    lease: Lease, renew: Callable[[float], Awaitable[None]], *, strict: bool
) -> AsyncIterator[Lease]:
    """Hold `lease` for the block. `renew` takes the seconds from now on, 0 to give it back, and raises HubError.

    With `strict` the first failure is raised, else only noted: a Redis that is away never breaks a job. Cancel-safe.
    """
    try:
        await renew(lease.ttl)
    except HubError as error:
        if strict:
            raise
        lease.failed(error)
    renewing = asyncio.create_task(_renew(lease, renew), name="hub-lease")
    try:
        yield lease
    finally:
        await end_tasks(renewing)
    if not lease.lost:  # not reached by an exception, which lets it lapse
        try:
            await renew(0)
        except HubError as error:
            lease.failed(error)


async def _renew(lease: Lease, renew: Callable[[float], Awaitable[None]]) -> None:
    pause = lease.pause
    while not lease.lost:
        await asyncio.sleep(pause)
        pause = lease.pause
        try:
            async with asyncio.timeout(lease.pause):  # or a frozen Redis would eat the lease in one try
                await renew(lease.ttl)
        except (HubError, TimeoutError) as error:
            lease.failed(error)
            pause = lease.retry


@contextmanager
def held_sync(lease: Lease, renew: Callable[[float], None], *, strict: bool) -> Iterator[Lease]:
    """The same for blocking code; a thread renews, so it goes on while the worker computes."""
    try:
        renew(lease.ttl)
    except HubError as error:
        if strict:
            raise
        lease.failed(error)
    over = threading.Event()
    thread = threading.Thread(target=_renew_sync, args=(lease, renew, over), name="hub-lease", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        over.set()
        thread.join()
    if not lease.lost:
        try:
            renew(0)
        except HubError as error:
            lease.failed(error)


def _renew_sync(lease: Lease, renew: Callable[[float], None], over: threading.Event) -> None:
    pause = lease.pause
    while not lease.lost and not over.wait(pause):
        pause = lease.pause
        try:
            renew(lease.ttl)
        except HubError as error:
            lease.failed(error)
            pause = lease.retry
