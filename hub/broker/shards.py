"""The subscriptions of one process on a cluster: a line to every primary, and one for what is not sharded.

Invariant: as that of subscriber.py, wherever a slot goes. The channels of a slot are together on the line
to its primary. They move when the map says so, when the node says MOVED, and when it ends a subscription by
itself. Confirmations belong to a channel and not to a line, so one that is waited for may come from the
next primary.

A line is opened to a primary that has none of our channels, too: a shard that is away is then noticed before
somebody needs it.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from redis.exceptions import MovedError

from hub.broker.channels import SubscriberStatistics, Waiting, confirmation
from hub.broker.cluster import PAUSE, Cluster
from hub.broker.seam import Listener, Sink
from hub.broker.subscriber import Subscriber
from hub.broker.topology import Place, slot_of
from hub.ending import end_tasks
from hub.errors import BrokerUnavailable
from hub.quiet import quiet_log

logger = quiet_log("hub.redis")

LOOK = 3.0
"""Seconds between two looks at the cluster when nothing asks for one."""

BARE_WAIT = 1.0
"""Seconds that a job's first viewer waits for bare messages: the node that they come through may be away, and
the job's numbered ones have nothing to do with it."""


class ClusterSubscriber:
    """As `Subscriber`, on a cluster. `bare_of` names the channel on which producers PUBLISH without our
    script what is for the same sink; without it they are not heard.
    """

    def __init__(self, cluster: Cluster, bare_of: Callable[[str], str] | None = None) -> None:
        self._cluster = cluster
        self._control: Listener | None = None
        self._waiting: Waiting = {}
        self._slots: dict[int, dict[str, Sink]] = defaultdict(dict)  # the channels of each slot
        self._homes: dict[int, Subscriber] = {}  # the line that a slot's channels are on
        self._lines: dict[Place, Subscriber] = {}
        self._refused: set[Subscriber] = set()
        self._gone = SubscriberStatistics(False, 0, 0, 0)  # what closed lines had counted
        self._closing: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._version = -1  # of the map that the lines are like
        self._task: asyncio.Task[None] | None = None
        self._bare_of = bare_of
        self._classic: Subscriber | None = None  # any primary will do
        self._classic_at: Place | None = None

    @property
    def control(self) -> Listener | None:
        """Hears the control channel on every line: one message comes once per line."""
        return self._control

    @control.setter
    def control(self, listener: Listener) -> None:
        self._control = listener

    @property
    def connected(self) -> bool:
        """Returns True while the lines to most primaries are up."""
        up = sum(line.connected for line in self._lines.values())
        return up * 2 > len(self._lines)

    def connected_for(self, channel: str) -> float:
        """Seconds for which the line of `channel` has been up; 0 if it is not."""
        slot = slot_of(channel)
        place = self._owner(slot)
        line = self._homes.get(slot) or (None if place is None else self._lines.get(place))
        return line.connected_for(channel) if line is not None else 0.0

    def start(self) -> None:
        """Find the cluster and connect, in the background."""
        if self._task is None:
            self._task = asyncio.create_task(self._follow(), name="hub-cluster-subscriber")

    async def aclose(self) -> None:
        """End all tasks and connections. Cancel-safe."""
        task, self._task = self._task, None
        if task is not None:
            await end_tasks(task, *self._closing)
        lines = [*self._lines.values(), *filter(None, [self._classic])]
        self._lines, self._classic = {}, None
        await asyncio.gather(*(line.aclose() for line in lines))

    async def subscribe(self, channel: str, sink: Sink, *, deadline: float) -> None:
        """As `Subscriber.subscribe`, on whichever line the channel is when it is confirmed."""
        self.start()
        slot = slot_of(channel)
        self._slots[slot][channel] = sink
        confirmed = self._wait_for(channel)
        if slot in self._homes:
            self._homes[slot].add(channel, sink)
        else:
            self._place(slot)
        try:
            if self._bare_of is not None:
                await self._subscribe_bare(self._bare_of(channel), sink)
            await confirmation(confirmed, deadline)
        except BaseException:
            self.unsubscribe(channel, sink)
            raise

    async def _subscribe_bare(self, channel: str, sink: Sink) -> None:
        """Waits for `BARE_WAIT` seconds at most. Later the confirmation says that something was missed."""
        if self._classic is None:
            self._open_classic()
        assert self._classic is not None, "it was opened"
        confirmed = self._wait_for(channel)
        self._classic.add(channel, sink)
        with suppress(BrokerUnavailable):
            await confirmation(confirmed, BARE_WAIT)
        self._waiting.pop(channel, None)

    def _wait_for(self, channel: str) -> asyncio.Future[None]:
        confirmed = self._waiting[channel] = asyncio.get_running_loop().create_future()
        return confirmed

    def unsubscribe(self, channel: str, sink: Sink) -> None:
        """As `Subscriber.unsubscribe`."""
        slot = slot_of(channel)
        channels = self._slots.get(slot, {})
        if channels.get(channel) is sink:
            del channels[channel]
            self._waiting.pop(channel, None)
            home = self._homes.get(slot)
            if home is not None:
                home.drop(channel)
            if not channels:
                del self._slots[slot]
                self._homes.pop(slot, None)
        if self._bare_of is not None and self._classic is not None:
            self._classic.unsubscribe(self._bare_of(channel), sink)

    def statistics(self) -> SubscriberStatistics:
        """The sums over all lines."""
        lines = [*self._lines.values(), *filter(None, [self._classic])]
        each = [line.statistics() for line in lines]
        return SubscriberStatistics(
            self.connected,
            sum(map(len, self._slots.values())),
            self._gone.messages + sum(one.messages for one in each),
            self._gone.reconnects + sum(one.reconnects for one in each),
            len(self._lines),
            sum(line.connected for line in self._lines.values()),
            sum((one.answers for one in each), self._gone.answers),
        )

    # --- what a line says (channels.Shards)

    def moved(self, line: Subscriber, error: MovedError) -> None:
        """Its node names another one."""
        place = next((place for place, one in self._lines.items() if one is line), None)
        if place is not None:
            self._cluster.topology.moved(error, asked=place, now=asyncio.get_running_loop().time())
            if self._homes.get(error.slot_id) is line:
                self._place(error.slot_id)
        self._wake.set()

    def kicked(self, channel: str) -> None:
        """The slot has moved, or is about to: ask again, for the answer is MOVED or a confirmation."""
        slot = slot_of(channel)
        home = self._homes.get(slot)
        if home is not None:
            home.add(channel, self._slots[slot][channel])
        self._wake.set()

    def refused(self, line: Subscriber) -> None:
        """Nobody serves the slot at the moment."""
        self._refused.add(line)
        self._wake.set()

    def lost(self) -> None:
        """A line is lost: its primary may be another one now."""
        self._wake.set()

    # --- the map

    def _owner(self, slot: int) -> Place | None:
        return self._cluster.topology.owner(slot)

    async def _follow(self) -> None:
        """Look, and put every slot where it belongs, until cancelled."""
        while True:
            believed = await self._cluster.look()
            try:
                self._settle()
            except Exception:
                logger.exception("the subscriptions were not moved")
            if not believed:
                logger.warning("no node of the Redis cluster was believed, looking again")
            await asyncio.sleep(PAUSE if believed else 10 * PAUSE * random.uniform(0.5, 1))
            if believed and not self._refused:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK):
                        await self._wake.wait()
            self._wake.clear()

    def _settle(self) -> None:
        """Make the lines like the map."""
        topology = self._cluster.topology
        for line in self._refused:
            line.repeat()
        self._refused.clear()
        if self._version == topology.version and len(self._homes) == len(self._slots):
            self._keep_classic()
            return
        self._version = topology.version
        for place in topology.primaries:
            self._line(place)
        for slot in list(self._slots):
            self._place(slot)
        used = set(self._homes.values())
        for place, line in list(self._lines.items()):
            if place not in topology.primaries and line not in used:
                self._close(self._lines.pop(place))
        self._keep_classic()

    def _place(self, slot: int) -> None:
        """Put the channels of `slot` on the line to its primary. Without one they stay where they are."""
        place = self._owner(slot)
        if place is None:
            self._wake.set()
            return
        old, new = self._homes.get(slot), self._line(place)
        if old is new:
            return
        self._homes[slot] = new
        for channel, sink in self._slots[slot].items():
            if old is not None:
                old.drop(channel)
            new.add(channel, sink)

    def _line(self, place: Place) -> Subscriber:
        line = self._lines.get(place)
        if line is None:
            pool = self._cluster.at(place).connection_pool
            line = self._lines[place] = Subscriber(pool, shards=self, waiting=self._waiting)
            line.control = self._control
            line.start()
        return line

    def _close(self, line: Subscriber) -> None:
        counted = line.statistics()
        self._gone = replace(
            self._gone,
            messages=self._gone.messages + counted.messages,
            reconnects=self._gone.reconnects + counted.reconnects,
            answers=self._gone.answers + counted.answers,
        )
        self._refused.discard(line)
        task = asyncio.create_task(line.aclose(), name="hub-cluster-line-close")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _keep_classic(self) -> None:
        """Bare messages come from any node: from another one as soon as its own is away, or no primary any
        more. The nodes had cut their links to one that was frozen, so its viewers are told of a gap.
        """
        if self._bare_of is None:
            return
        if self._classic is None:
            self._open_classic()
        elif not self._classic.connected or self._classic_at not in self._cluster.topology.primaries:
            self._classic.pool = self._any_pool()

    def _open_classic(self) -> None:
        self._classic = Subscriber(self._any_pool(), waiting=self._waiting)
        self._classic.start()

    def _any_pool(self) -> Any:
        places = [place for place, line in self._lines.items() if line.connected]
        self._classic_at = random.choice(places or list(self._cluster.topology.all_nodes))
        return self._cluster.at(self._classic_at).connection_pool
