"""A lease on a job: the worker renews it while it works, so a lease that lapses means that the worker is
lost.

Invariant: viewers of a job with a lease learn how it ends. Either the worker publishes the end, or the first
hub process that finds the lease lapsed publishes `failed` with `reason` `producer_lost`; the publish script
lets only one of them through. A block that ends normally releases the lease. A block that ends with an
exception lets it lapse, so that a retry of the job can take it over.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from hub.ending import end_tasks
from hub.errors import HubError, JobEnded
from hub.job.command import CANCEL
from hub.job.event import JobId
from hub.produce.hearing import UNKNOWN, Heard
from hub.quiet import quiet_log

logger = quiet_log("hub.lease")

TTL = 30.0
"""Default length of a lease in seconds. Three renewals may fail, or a garbage collection may pause the
worker, before the worker counts as lost."""

RENEWALS = 3
"""Renewals within the length of a lease."""

RETRY = 1.0
"""Seconds between a failed renewal and its retry, or a tenth of the lease if that is less: the lease survives
every outage that ends at least this long before the lease would lapse."""


LOOK = 1.0
"""Seconds between two looks for a `cancel` in blocking code."""

SHORTEST_BLOCKING = 8.0
"""Length in seconds of the shortest lease in blocking code. A renewal starts when a third of the lease has
passed; on a dead connection it takes 5 s (PUBLISH_TIMEOUT) to fail, and a retry must still fit."""


class Lease:
    """The lease on one job, of `ttl` seconds. Raises ValueError for less than `shortest` seconds.

    `lost` becomes True if the job has ended without this worker's publisher, so the worker may stop.
    `over` becomes True if this worker's publisher has ended the job.
    """

    def __init__(self, job: JobId, ttl: float, *, shortest: float = 1.0) -> None:
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
        """Seconds between a failed renewal and its retry."""
        return min(RETRY, self.ttl / 10)

    def cancel(self) -> None:
        """A viewer has given the command `cancel`."""

    @property
    def needed(self) -> bool:
        """Returns True while the job runs and the lease must be renewed."""
        return not self.lost and not self.over

    def failed(self, error: HubError | TimeoutError) -> None:
        """Note a failed renewal.

        JobEnded means that the lease is lost. After any other error (Redis is away, the job is not created
        yet) the next renewal may succeed.
        """
        if self.over:
            return
        if isinstance(error, JobEnded):
            self.lost = True
            logger.warning("the lease on job %s is over: %s", self.job, error)
        else:
            logger.warning("the lease on job %s was not renewed, retrying: %s", self.job, error)


class AsyncLease(Lease):
    """The lease of async code. `hear` gives the commands for the job."""

    def __init__(self, job: JobId, ttl: float, hear: Callable[[], AsyncIterator[Heard[Any]]]) -> None:
        super().__init__(job, ttl)
        self._hear = hear
        self._cancelled = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None

    @property
    def cancelled(self) -> asyncio.Event:
        """Is set when a viewer gives the command `cancel`: `if lease.cancelled.is_set(): return`.

        From the first look at it on the lease answers the job's commands, `cancel` with `command.done` and
        every other with `command.refused`, unless the worker iterates over `Publisher.commands`.
        """
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen(), name="hub-lease-commands")
        return self._cancelled

    def cancel(self) -> None:
        """See `Lease.cancel`."""
        self._cancelled.set()

    async def _listen(self) -> None:
        try:
            async for command in self._hear():
                await (command.done() if command.name == CANCEL else command.refused(UNKNOWN))
        except HubError as error:  # of a strict publisher: the job has ended, or Redis is away
            logger.warning("the commands of job %s are not heard any more: %s", self.job, error)

    async def aclose(self) -> None:
        """Stop listening."""
        if self._listening is not None:
            await end_tasks(self._listening)


class BlockingLease(Lease):
    """The lease of blocking code. `hear` gives the next command for the job, if there is one."""

    def __init__(self, job: JobId, ttl: float, hear: Callable[[], Heard[Any] | None]) -> None:
        super().__init__(job, ttl, shortest=SHORTEST_BLOCKING)
        self._hear = hear
        self._is_cancelled = False
        self._looked = -math.inf
        self._lock = threading.Lock()

    @property
    def cancelled(self) -> bool:
        """Returns True if a viewer has given the command `cancel`. Asks Redis, at most once a second.

        The lease answers the job's commands then, as `AsyncLease.cancelled` does.
        """
        with self._lock:
            if not self._is_cancelled and time.monotonic() - self._looked >= LOOK:
                self._looked = time.monotonic()
                while (command := self._hear()) is not None:
                    if command.name == CANCEL:
                        command.done()
                    else:
                        command.refused(UNKNOWN)
        return self._is_cancelled

    def cancel(self) -> None:
        """See `Lease.cancel`."""
        self._is_cancelled = True


@asynccontextmanager
async def held(
    lease: AsyncLease, renew: Callable[[float], Awaitable[None]], *, strict: bool
) -> AsyncIterator[AsyncLease]:
    """Hold `lease` for the block; a task renews it. Cancel-safe.

    `renew` is called with the seconds from now until the lease lapses, or 0 to release it; it raises
    HubError. With `strict` an error of the first renewal is raised. All other errors are only logged, so that
    an outage of Redis does not break the job.
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
        await lease.aclose()
    if lease.needed:  # an exception in the block skips this, so the lease lapses
        try:
            await renew(0)
        except HubError as error:
            lease.failed(error)


async def _renew(lease: Lease, renew: Callable[[float], Awaitable[None]], pause: float) -> None:
    while lease.needed:
        await asyncio.sleep(pause)
        pause = lease.pause
        try:
            # A frozen Redis would otherwise hold one attempt until the lease has lapsed.
            async with asyncio.timeout(lease.pause):
                await renew(lease.ttl)
        except (HubError, TimeoutError) as error:
            lease.failed(error)
            pause = lease.retry


@contextmanager
def held_sync(
    lease: BlockingLease, renew: Callable[[float], None], *, strict: bool
) -> Iterator[BlockingLease]:
    """As `held`, for blocking code. A thread renews the lease, also while the worker computes."""
    pause = lease.pause
    try:
        renew(lease.ttl)
    except HubError as error:
        if strict:
            raise
        lease.failed(error)
        pause = lease.retry
    left = threading.Event()  # set when the block is left
    args = (lease, renew, left, pause)
    thread = threading.Thread(target=_renew_sync, args=args, name="hub-lease", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        left.set()
        thread.join()
    if lease.needed:
        try:
            renew(0)
        except HubError as error:
            lease.failed(error)


def _renew_sync(lease: Lease, renew: Callable[[float], None], left: threading.Event, pause: float) -> None:
    while lease.needed and not left.wait(pause):
        pause = lease.pause
        try:
            renew(lease.ttl)
        except HubError as error:
            lease.failed(error)
            pause = lease.retry
