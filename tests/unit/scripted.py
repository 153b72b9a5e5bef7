"""A Redis in memory whose every await point is a gate, and clients that remember all they were told.

`ScriptedBroker` implements the Broker protocol for one job; tests/contract/test_broker.py holds it and the real one
to the same laws. Each call parks twice: on its way to the server and on its
way back; the schedule opens gates in any order. Messages on the channel are in flight until the schedule delivers them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from hub.broker.subscriber import SubscriberStatistics
from hub.engine.caller import Caller
from hub.engine.hub import Hub
from hub.errors import BrokerUnavailable, HubError
from hub.fanout.wire import Reason
from hub.job.cursor import Wish
from hub.job.event import EventId, JobId, UserId
from hub.job.frame import Frame
from hub.job.record import Entry, Job, Snapshot

JOB = JobId("a")
USER = UserId("ada")
TERMINAL = {"ready", "failed"}
LEASE = 30.0


class Violation(AssertionError):
    """A law was broken."""


def law(condition: object, words: str) -> None:
    if not condition:
        raise Violation(words)


@dataclass
class Truth:
    """One event as it was published; `g` counts all of them."""

    g: int
    id: EventId | None
    terminal: bool = False
    oversize: bool = False
    erased: bool = False  # by a rollback: Redis itself does not know it any more
    before: tuple[str | None, float | None] = (None, None)  # status and lease, for a rollback


class NoCounts:
    """There is no other hub."""

    async def renew(self, hub):
        return True

    async def leave(self, hub):
        return

    async def say(self, hub, counts):
        return list(counts)

    async def of(self, jobs):
        return {job: {} for job in jobs}


class NoIndex:
    """Nobody lists jobs."""

    async def add(self, user, jobs):
        return

    async def of(self, user):
        return []

    async def remove(self, user, jobs):
        return


class ScriptedBroker:
    """The job, its log, its channel; and gates."""

    def __init__(self) -> None:
        self.fields: dict[str, str] = {
            "user_id": USER,
            "status": "code",
        }  # without what is ours; empty: no hash
        self.epoch: int | None = None
        self.position: EventId | None = None
        self.lease: float | None = None  # until when, by `time`
        self.log: list[Entry] = []
        self.last: EventId | None = (
            None  # of the stream, which remembers it when the entry is gone; None: no stream
        )
        self.clock = 1000
        self.time: Callable[[], float] = lambda: 0.0
        self.truth: list[Truth] = []
        self.parked: list[asyncio.Future[None]] = []
        self.open = True  # gates let everything through
        self.failing = 0.0  # chance that a call finds no server
        self.rng = random.Random(0)
        self.sink = None
        self.subscribed = False  # as the server has it
        self.confirmed = False  # as the client has it
        self.down = False
        self.flight: deque[bytes] = deque()
        self.subscriptions = 0
        self.snapshots = 0

    # --- the server's side

    def publish(self, *, status: str = "", size: int = 0, foreign: bool = False) -> Truth | None:
        """As publish.lua does it; `foreign` only PUBLISHes."""
        g = len(self.truth)
        body = {
            "type": "t",
            "g": g,
            **({"status": status} if status else {}),
            **({"fat": "x" * size} if size else {}),
        }
        text = json.dumps(body, separators=(",", ":")).encode()
        terminal = status in TERMINAL
        if foreign:
            one = Truth(g, None, terminal, size > 0)
            self._announce(text)
        else:
            if self.fields.get("status") in TERMINAL:
                return None
            self._choose_epoch()
            same = self.last is not None and self.last.epoch == self.epoch
            event_id = EventId(self.epoch, self.last.seq + 1 if same else 0)
            one = Truth(g, event_id, terminal, size > 0, before=(self.fields.get("status"), self.lease))
            self.log.append(Entry(event_id, text))
            self.position = self.last = event_id
            if status:
                self.fields["status"] = status
            if terminal:
                self.lease = None
            self._announce(b'{"id":"%b",' % str(event_id).encode() + text[1:])
        self.truth.append(one)
        return one

    def _choose_epoch(self) -> None:
        """As publish.lua does it: a log that is gone, or that is another job's, ends an epoch."""
        epoch, before = self.epoch, self.epoch or 0
        if self.last is None:
            if self.position is not None:
                epoch = None
        elif epoch is None or self.position is None:
            theirs = self.log[-1].id.epoch if self.log else 0
            self.delete_log()
            if theirs >= before:
                epoch, before = None, theirs
        if epoch is None:
            self.clock += 1
            epoch = max(self.clock, before + 1)
        self.epoch = epoch

    def renew(self) -> None:
        """As lease.lua."""
        if self.fields["status"] not in TERMINAL:
            self.lease = self.time() + LEASE

    def end_lost(self) -> bool:
        """As publish.lua with `lapsed`; True if it published."""
        return (
            self.lease is not None and self.lease < self.time() and self.publish(status="failed") is not None
        )

    def trim(self, keep: int) -> None:
        del self.log[: max(0, len(self.log) - keep)]

    def delete_log(self) -> None:
        self.log.clear()
        self.last = None

    def delete_job(self) -> None:
        """The hash, and with it what is ours in it; the log stays."""
        self.fields = {}
        self.epoch = self.position = self.lease = None

    def lose_numbers(self) -> None:
        self.delete_log()
        self.epoch = self.position = None

    def roll_back(self, number: int) -> None:
        """The last writes are gone, as after a failover; of a log that has more of them."""
        gone = {entry.id: None for entry in self.log[-number:]}
        del self.log[-number:]
        self.position = self.last = self.log[-1].id
        undone = [one for one in self.truth if one.id in gone]
        status, self.lease = undone[0].before
        if status is not None:
            self.fields["status"] = status
        for one in undone:
            one.erased = True

    def _announce(self, data: bytes) -> None:
        if self.subscribed and not self.down:
            self.flight.append(data)

    def job(self) -> Job | None:
        if not self.fields and self.epoch is None:
            return None
        status, user = self.fields.get("status", ""), UserId(self.fields.get("user_id", ""))
        return Job(JOB, status, user, self.epoch, self.position, dict(self.fields))

    def leased_job(self) -> Job | None:
        """The job, and for how long its lease holds: a snapshot does not say that."""
        job = self.job()
        return job if self.lease is None or job is None else replace(job, lease=self.lease - self.time())

    def snapshot(self, entries: list[Entry]) -> Snapshot:
        """The job and those entries that are of its epoch: others are of an earlier job of this name."""
        job = self.job()
        return Snapshot(job, [entry for entry in entries if job is not None and entry.id.epoch == job.epoch])

    # --- the network

    def deliver(self) -> None:
        if self.flight and self.sink is not None:
            self.sink.receive(self.flight.popleft())

    def disconnect(self) -> None:
        self.down = True
        self.flight.clear()

    def reconnect(self) -> None:
        self.down = False
        if self.sink is not None and self.confirmed:
            self.sink.missed()

    def release(self, index: int) -> None:
        if self.parked:
            gate = self.parked.pop(index % len(self.parked))
            if not gate.done():
                gate.set_result(None)

    async def _gate(self) -> None:
        if self.open:
            await asyncio.sleep(0)
            return
        gate = asyncio.get_running_loop().create_future()
        self.parked.append(gate)
        try:
            await gate
        finally:
            if gate in self.parked:
                self.parked.remove(gate)

    async def _ask(self, answer):
        await self._gate()
        self._answer_or_fail()
        value = answer()
        await self._gate()
        return value

    def _answer_or_fail(self) -> None:
        if self.rng.random() < self.failing:
            raise BrokerUnavailable("expected an answer, got none")

    # --- Broker

    counts = NoCounts()
    index = NoIndex()

    def groups(self, jobs):
        return [jobs]

    async def jobs(self, jobs):
        return await self._ask(lambda: [self.leased_job() if job == JOB else None for job in jobs])

    async def latest(self, job, *, limit, size=1 << 20):
        return await self._ask(lambda: self._snapshot(job, self.log[-limit:]))

    async def before(self, job, first, *, limit, size):
        return await self._ask(lambda: [one for one in self.log if one.id < first][-limit:])

    async def since(self, job, after, *, limit):
        return await self._ask(
            lambda: self._snapshot(job, [one for one in self.log if one.id > after][:limit])
        )

    def _snapshot(self, job, entries):
        self.snapshots += 1
        return self.snapshot(entries) if job == JOB else Snapshot(None, [])

    async def subscribe(self, job, sink):
        self.sink = sink
        self.subscriptions += 1
        try:
            await self._gate()
            self._answer_or_fail()
            while self.down:
                await self._gate()
                self._answer_or_fail()
            self.subscribed = self.confirmed = True
            await self._gate()
        except BaseException:
            self.unsubscribe(job, sink)
            raise

    def unsubscribe(self, job, sink):
        if self.sink is not sink:
            return
        self.sink = None
        self.subscribed = self.confirmed = False
        self.flight.clear()

    def listen(self, control):
        """Nobody revokes anything here."""

    async def revocations(self):
        return []

    async def declare_lost(self, job):
        return await self._ask(lambda: job == JOB and self.end_lost())

    async def aclose(self):
        return

    def statistics(self):
        return SubscriberStatistics(
            connected=not self.down, channels=int(self.sink is not None), messages=0, reconnects=0
        )


class Same:
    """A format that hands the frames over."""

    transport = "sse"

    def encode(self, frame: Frame) -> bytes:
        return b""

    def join(self, parts):
        return parts


class Recording(Same):
    """A format of one client: what is written is the frames themselves."""

    def encode(self, frame):
        return frame


@dataclass
class Item:
    """One thing a client was told."""

    kind: str  # session, event, gap, resync, state, end
    g: int | None = None
    id: EventId | None = None
    terminal: bool = False


@dataclass(eq=False)
class Client:
    """A browser: watches, is thrown out, comes back with its cursor."""

    hub: Hub
    wish: Wish
    often: float
    rng: random.Random
    items: list[Item] = field(default_factory=list)
    cursor: EventId | None = None
    done: bool = False
    paused: bool = False
    reason: Reason | None = None
    seat: object = None
    task: asyncio.Task[None] | None = None
    joined: int = 0  # how many events had been published when it first came

    def connect(self) -> None:
        if self.task is None and not self.done:
            self.task = asyncio.create_task(self._live())

    async def leave(self) -> None:
        task, self.task = self.task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _live(self) -> None:
        self.paused, self.reason, self.seat = False, None, None
        self._finished = asyncio.Event()
        try:
            wish = self.wish if self.cursor is None else Wish(cursor=str(self.cursor))
            try:
                view = await self.hub.view(Caller(USER), JOB, wish)
            except HubError:
                return
            with view:
                if view.begin.over:
                    self.done = True
                    return
                self.items.append(Item("session", id=view.seen))
                self.cursor = view.seen
                self._take(view.preamble)
                try:
                    while frames := await self.hub.read_past(view):
                        self._take(frames)
                        await self.hub.broker._gate()
                except HubError:
                    return
                self.seat = view.seat(self, Recording())
                self.seat.catch_up()
                await self._finished.wait()
        finally:
            self.task = None

    # a Wire

    def write(self, frames) -> None:
        law(self.reason is None and not self.paused, "nothing is written to who cannot take it")
        self._take(frames)
        self.paused = self.rng.random() < self.often

    def finish(self, reason) -> None:
        if self.reason is None:
            self.reason = reason
            self.done = reason is Reason.ENDED
        self.paused = True
        self._finished.set()

    def resume(self) -> None:
        if self.seat is not None and self.reason is None and self.task is not None:
            self.paused = False
            self.seat.catch_up()

    def _take(self, frames) -> None:
        for frame in frames:
            if frame.name is None:
                fields = frame.event.fields
                terminal = fields.get("status") in TERMINAL
                self.items.append(Item("event", fields.get("g"), frame.id, terminal))
            else:
                self.items.append(Item(frame.name))
            self.cursor = frame.id or self.cursor


def check(client: Client, broker: ScriptedBroker, *, ended: bool, local: bool) -> None:
    """Each event once and in order, or a gap or resync with the state between; the terminal last, then the end.

    `local`: the job has no shared log, so foreign events have ids and count like all others.
    """
    truth = broker.truth
    told = [one for one in client.items if one.kind != "session"]
    _check_notices(client.items)
    _check_end(client.items)
    count = [one for one in truth if (one.id is not None) != local]
    _check_order(client, count, front=client.wish.from_ == "start" and not local)
    if not local:
        for session in _sessions(client.items):
            _check_foreign(session, truth)
    events = [one for one in told if one.kind == "event"]
    if ended:
        law(client.done, f"nobody waits for ever: {told[-4:]}")
        law(events and events[-1].terminal, "everybody learns how it ended")
    else:
        retained = {entry.id for entry in broker.log}
        expected = [one for one in count if not one.erased and (one.g >= client.joined or one.id in retained)]
        if not expected or (client.wish.from_ != "start" and not events):
            return
        counted = {one.g for one in count}
        last = max(
            (index for index, one in enumerate(told) if one.kind == "event" and one.g in counted), default=-1
        )
        noticed = any(one.kind in ("gap", "resync") for one in told[last + 1 :])
        seen = {one.g for one in events}
        if not noticed and not (local and last < 0) and not _is_new(client, expected[-1]):
            law(expected[-1].g in seen, f"the last event {expected[-1]} reached nobody: {told[-4:]}")


def _is_new(client: Client, one: Truth) -> bool:
    """A client that asked for what comes, and came after it."""
    return (
        client.wish.from_ != "start"
        and client.cursor is not None
        and one.id is not None
        and one.id <= client.cursor
    )


def _sessions(items: list[Item]) -> list[list[Item]]:
    sessions: list[list[Item]] = []
    for item in items:
        if item.kind == "session":
            sessions.append([])
        else:
            sessions[-1].append(item)
    return sessions


def _check_notices(items: list[Item]) -> None:
    for session in _sessions(items):
        for one, after in zip(session, session[1:], strict=False):
            if one.kind in ("gap", "resync"):
                law(after.kind == "state", f"after a {one.kind} comes the state, not {after}")


def _check_end(items: list[Item]) -> None:
    for session in _sessions(items):
        kinds = ["terminal" if one.terminal else one.kind for one in session]
        law(kinds.count("terminal") <= 1 and kinds.count("end") <= 1, "one terminal, one end")
        if "terminal" in kinds:
            law(kinds[kinds.index("terminal") + 1 :] in ([], ["end"]), f"nothing after a terminal: {kinds}")
        if "end" in kinds:
            law(kinds[-1] == "end", "the end is the end")


def _check_order(client: Client, truth: list[Truth], *, front: bool) -> None:
    by_g = {one.g: index for index, one in enumerate(truth)}
    last: int | None = None
    noticed = not front
    for item in client.items:
        if item.kind in ("gap", "resync"):
            noticed = True
        elif item.kind == "session":
            if last is None and not front:
                noticed = True
        elif item.kind == "event" and item.g in by_g:
            index = by_g[item.g]
            law(last is None or index > last, f"once each and in order, got {item} after {last}")
            first = 0 if last is None else last + 1
            missing = [one for one in truth[first:index] if not one.erased]
            if last is None:  # what an earlier log held is no part of this one
                missing = [
                    one for one in missing if one.id is not None and one.id.epoch == truth[index].id.epoch
                ]
            law(noticed or not missing, f"a hole without a word before {item}: {missing}")
            last, noticed = index, False


def _check_foreign(session: list[Item], truth: list[Truth]) -> None:
    foreign = [one.g for one in truth if one.id is None]
    last: int | None = None
    noticed = False
    for item in session:
        if item.kind in ("gap", "resync"):
            noticed = True
        elif item.kind == "event" and item.g in foreign:
            index = foreign.index(item.g)
            law(last is None or index > last, f"foreign events once each and in order, got {item}")
            law(
                last is None or noticed or index == last + 1,
                f"foreign events lost without a word before {item}",
            )
            last, noticed = index, False
