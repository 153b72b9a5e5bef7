"""Users whose credentials were revoked, and since when.

Invariant: nobody is let in before the list was read once. It is read again after each reconnect, and what is
revoked meanwhile arrives by the control channel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from hub.broker.seam import Broker
from hub.engine.caller import Caller
from hub.errors import BrokerUnavailable, HubError
from hub.job.event import JobId, UserId
from hub.job.revocation import Revocation
from hub.quiet import quiet_log

logger = quiet_log("hub.access")

RETRY = 1.0
"""Seconds until the list is read again that Redis did not give."""


class Revocations:
    """The list of one hub. `expel` is called with each revocation that it learns of."""

    def __init__(self, broker: Broker, expel: Callable[[Revocation], Any]) -> None:
        self._broker = broker
        self._expel = expel
        self._since: dict[tuple[UserId, JobId | None], float] = {}
        self._known = False
        self._tried = asyncio.Event()
        self._stale = asyncio.Event()
        self._stale.set()

    async def run(self) -> None:
        """Read the list at the start and when it may be stale, until cancelled."""
        while True:
            await self._stale.wait()
            self._stale.clear()
            try:
                found = await self._broker.revocations()
            except HubError as error:
                logger.warning("the list of revocations was not read: %s", error)
                self._stale.set()
                self._tried.set()
                await asyncio.sleep(RETRY)
                continue
            for one in found:
                self.add(one)
            self._known = True
            self._tried.set()

    def receive(self, data: bytes) -> None:
        """A message on the control channel."""
        one = Revocation.parse(data)
        if one is not None:
            self.add(one)

    def missed(self) -> None:
        """The subscription was interrupted."""
        self._stale.set()

    def add(self, one: Revocation) -> None:
        """Revoke what a user was given until then."""
        key = (one.user, one.job)
        if one.at > self._since.get(key, 0.0):
            self._since[key] = one.at
            self._expel(one)

    @property
    def known(self) -> bool:
        """Returns True if the list was read once."""
        return self._known

    async def wait_known(self) -> None:
        """Return when the list was read. Raises BrokerUnavailable if it
        could not be read when it was last tried.
        """
        await self._tried.wait()
        if not self._known:
            raise BrokerUnavailable("expected the list of revocations, got none yet")

    def cover(self, caller: Caller, job: JobId | None = None) -> bool:
        """Returns True if the caller's credentials are older than a revocation of theirs."""
        if not self._since:
            return False
        user = caller.user
        return caller.issued <= max(self._since.get((user, None), -1.0), self._since.get((user, job), -1.0))
