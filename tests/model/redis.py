"""The server of tests/unit/scripted.py for several hubs at once, and the connection of one hub to it.

What happens on the way is a list of things that have not happened yet: `parked` requests and answers, `commands` that the Pub/Sub
connection has not sent, `flight` on it towards the hub, in order, confirmations among the messages. A schedule takes one after
the other; an effect on the server happens at that moment and not when the task that waits for it gets its turn.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from hub.broker.subscriber import SubscriberStatistics
from hub.errors import BrokerUnavailable
from hub.job.record import Snapshot
from tests.unit.scripted import JOB, ScriptedBroker, law


class Server(ScriptedBroker):
    """The job, its log and its lease; only the server's side of its parent is used."""

    def __init__(self, time: Callable[[], float]) -> None:
        super().__init__()
        self.links: list[Link] = []
        self.time = time

    def _announce(self, data: bytes) -> None:
        for link in self.links:
            if link.subscribed:
                link.flight.append(data)


@dataclass(eq=False)
class Gate:
    """Something on its way; `pass_` lets it arrive."""

    name: str
    waiter: asyncio.Future[None]
    effect: Callable[[], None]

    def pass_(self) -> None:
        if not self.waiter.done():
            self.effect()
            self.waiter.set_result(None)

    def fail(self) -> None:
        if not self.waiter.done():
            self.waiter.set_exception(BrokerUnavailable("expected an answer, got none"))


CONFIRMATION = object()


class Link:
    """One hub's connection: the Broker protocol, and what may happen to it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.parked: list[Gate] = []
        self.commands: deque[str] = deque()
        self.flight: deque[bytes | object] = deque()
        self.subscribed = False  # as the server has it
        self.down = False
        self.sink = None
        self.subscriptions = 0  # SUBSCRIBEs the hub asked for
        self.reads = 0  # of the log, for a feed that begins
        self.asked = 0  # hash reads under way
        self.most_asked = 0
        self._waiting: asyncio.Future[None] | None = None
        server.links.append(self)

    # --- what may happen

    def send_command(self) -> None:
        """The oldest command reaches the server."""
        self.subscribed = self.commands.popleft() == "SUBSCRIBE"
        if self.subscribed:
            self.flight.append(CONFIRMATION)

    def deliver(self) -> None:
        """The oldest thing in flight reaches the hub, as hub/broker/subscriber.py takes it."""
        data = self.flight.popleft()
        if data is not CONFIRMATION:
            if self.sink is not None:
                self.sink.receive(data)
        elif self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            if not waiting.done():
                waiting.set_result(None)
        elif self.sink is not None:
            self.sink.missed()

    def cut(self) -> None:
        """The Pub/Sub connection is lost, with all that is on it."""
        self.down = True
        self.subscribed = False
        self.flight.clear()
        self.commands.clear()

    def mend(self) -> None:
        """There is a new one; it subscribes to what is wanted now."""
        self.down = False
        if self.sink is not None:
            self.commands.append("SUBSCRIBE")

    def drop(self) -> bool:
        """A message vanishes without a sign."""
        for index, data in enumerate(self.flight):
            if data is not CONFIRMATION:
                del self.flight[index]
                return True
        return False

    # --- Broker

    async def _gate(self, name: str = "flush", effect: Callable[[], None] = lambda: None) -> None:
        gate = Gate(name, asyncio.get_running_loop().create_future(), effect)
        self.parked.append(gate)
        try:
            await gate.waiter
        finally:
            self.parked.remove(gate)

    async def jobs(self, jobs):
        # Answered when asked: what happens on the way there might as well have happened before.
        law(jobs == [JOB], "one job here")
        found = [self.server.leased_job()]
        self.asked += 1
        self.most_asked = max(self.asked, self.most_asked)
        try:
            await self._gate("hash comes")
        finally:
            self.asked -= 1
        return found

    async def latest(self, job, *, limit):
        self.reads += 1
        return await self._snapshot("log", lambda: self.server.log[-limit:])

    async def since(self, job, after, *, limit):
        return await self._snapshot(
            "page", lambda: [one for one in self.server.log if one.id > after][:limit]
        )

    async def _snapshot(self, name, entries) -> Snapshot:
        found: list[Snapshot] = []
        await self._gate(f"{name} is read", lambda: found.append(self.server.snapshot(list(entries()))))
        await self._gate(f"{name} comes")
        return found[0]

    async def subscribe(self, job, sink):
        self.subscriptions += 1
        self.sink = sink
        self._waiting = waiting = asyncio.get_running_loop().create_future()
        if not self.down:
            self.commands.append("SUBSCRIBE")
        try:
            await waiting
        except BaseException:
            self.unsubscribe(job, sink)
            raise

    def unsubscribe(self, job, sink):
        if self.sink is sink:
            self.sink = self._waiting = None
            if not self.down:
                self.commands.append("UNSUBSCRIBE")

    async def declare_lost(self, job):
        answer: list[bool] = []
        await self._gate("declared lost", lambda: answer.append(self.server.end_lost()))
        return answer[0]

    async def aclose(self):
        return

    def statistics(self):
        return SubscriberStatistics(
            connected=not self.down, channels=int(self.sink is not None), messages=0, reconnects=0
        )
