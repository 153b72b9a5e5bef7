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
from hub.errors import HubError, JobEnded
from hub.quiet import quiet_log

log = quiet_log("hub.lease")

TTL = 30.0
"""Seconds: three renewals may fail, or a worker may be away for collecting garbage, before it counts as lost."""

RENEWALS = 3
"""Renewals within a lease's time."""

RETRY = 1.0
"""Seconds until the next try after a renewal that failed, or a tenth of the lease: an outage that ends in time costs nothing."""


SHORTEST_BLOCKING = 8.0
"""Seconds of the shortest lease in blocking code: a connection that died without a word takes 5 s of a renewal (PUBLISH_TIMEOUT), and
a try begins when a third of the lease is over."""


class Lease:
    """The lease of one job. `lost` is true once the job has ended without this worker's doing: it may stop.

    `over` is true once it has ended by this worker's publisher.
    """

    def __init__(self, job: str, ttl: float, *, shortest: float = 1.0) -> None:
        if ttl < shortest:
            raise ValueError(f"expected a lease of at least {shortest:g} s, got {ttl}")
        self.job = job
        self.ttl = ttl
        self.lost = False
        self.over = False

    @property
    def pause(self) -> float:
        """Seconds between two renewals."""
        return self.ttl / RENEWALS

    @property
    def retry(self) -> float:
        """Seconds between two tries."""
        return min(RETRY, self.ttl / 10)

    @property
    def needed(self) -> bool:
        """Whether there is a job to be heard of."""
        return not self.lost and not self.over

    def failed(self, error: HubError | TimeoutError) -> None:
        """Take note of a renewal that failed: the job is over, or it is not there yet, or Redis is away, and the next one may do."""
        if self.over:
            return
        if isinstance(error, JobEnded):
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
    pause = lease.pause
    try:
        await renew(lease.ttl)
    except HubError as error:
        if strict:
            raise
        lease.failed(error)
        pause = lease.retry
    renewing = asyncio.create_task(_renew(lease, renew, pause), name="hub-lease")
    try:
        yield lease
    finally:
        await end_tasks(renewing)
    if lease.needed:  # not reached by an exception, which lets it lapse
        try:
            await renew(0)
        except HubError as error:
            lease.failed(error)


async def _renew(lease: Lease, renew: Callable[[float], Awaitable[None]], pause: float) -> None:
    while lease.needed:
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
    pause = lease.pause
    try:
        renew(lease.ttl)
    except HubError as error:
        if strict:
            raise
        lease.failed(error)
        pause = lease.retry
    over = threading.Event()
    args = (lease, renew, over, pause)
    thread = threading.Thread(target=_renew_sync, args=args, name="hub-lease", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        over.set()
        thread.join()
    if lease.needed:
        try:
            renew(0)
        except HubError as error:
            lease.failed(error)


def _renew_sync(lease: Lease, renew: Callable[[float], None], over: threading.Event, pause: float) -> None:
    while lease.needed and not over.wait(pause):
        pause = lease.pause
        try:
            renew(lease.ttl)
        except HubError as error:
            lease.failed(error)
            pause = lease.retry
