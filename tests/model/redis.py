"""The server of tests/unit/scripted.py for several hubs, and the connection of one hub to it.

Whatever is under way stands in a list: `parked` has requests and answers, `commands` what the Pub/Sub
connection has not sent yet, `flight` what it carries to the hub (messages and confirmations, in order). A
schedule lets one of them arrive at a time. An effect on the server happens at that moment, and not when the
waiting task gets its turn.
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
    """The job, its log and its lease. Only the server's half of its parent class is used."""

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
    """A request or an answer under way. `pass_` lets it arrive, `fail` loses it."""

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
    """One hub's connection: implements the Broker protocol, with a method for each thing that may happen."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.parked: list[Gate] = []
        self.commands: deque[str] = deque()
        self.flight: deque[bytes | object] = deque()
        self.subscribed = False  # on the server's side
        self.down = False
        self.sink = None
        self.subscriptions = 0  # calls of `subscribe`
        self.reads = 0  # reads of the log for a feed that starts
        self.asked = 0  # reads of the hash under way
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
        """The oldest thing in flight reaches the hub, which handles it as hub/broker/subscriber.py does."""
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
        """The Pub/Sub connection is lost, with all commands and messages on it."""
        self.down = True
        self.subscribed = False
        self.flight.clear()
        self.commands.clear()

    def mend(self) -> None:
        """There is a new Pub/Sub connection, which subscribes again if the hub still wants the job."""
        self.down = False
        if self.sink is not None:
            self.commands.append("SUBSCRIBE")

    def drop(self) -> bool:
        """Lose the oldest message silently. Returns True if there was one."""
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

    def groups(self, jobs):
        return [jobs]

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

    async def latest(self, job, *, limit, size=1 << 20):
        self.reads += 1
        return await self._snapshot("log", lambda: self.server.log[-limit:])

    async def before(self, job, first, *, limit, size):
        found = []
        await self._gate("past is read", lambda: found.extend(self.server.log))
        await self._gate("past comes")
        return [one for one in found if one.id < first][-limit:]

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

    def listen(self, control):
        """Nobody revokes anything here."""

    async def revocations(self):
        return []

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
