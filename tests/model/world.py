"""A small world: a Redis, one or more hubs on it, and viewers; and all that may happen to them next.

`World.options` lists what may happen now, in a fixed order with the most ordinary first; a scheduler
(explore.py) chooses. Then `end` lets everything arrive, checks what each viewer received against the laws,
and takes the world down.
"""

from __future__ import annotations

import asyncio
import functools
import random
import types
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from hub.engine import check as check_module
from hub.engine import drain as drain_module
from hub.engine import stall as stall_module
from hub.engine.hub import Hub
from hub.errors import HubError
from hub.fanout import age as age_module
from hub.fanout import audience as wire_module
from hub.fanout.wire import Reason
from hub.feed import feed as feed_module
from hub.feed import paging as paging_module
from hub.feed import retained as retained_module
from hub.feed import window as window_module
from hub.job.cursor import Wish
from hub.settings import Settings
from tests.model.loop import StepLoop
from tests.model.redis import Link, Server
from tests.unit import scripted
from tests.unit.scripted import TERMINAL, Client, Item, Recording, Violation, check, law

NEVER = 1e9
"""Seconds. The hub's periodic checks are not due in a run: a schedule does their work at any moment."""

HORIZON = 1e6
"""Seconds. A timer that is due later never fires."""


ONE_FORMAT = Recording()
"""One format for all viewers, so that the viewers of a hub share one audience, as on a real transport."""


@dataclass(frozen=True)
class Scenario:
    """What is interleaved: a line of steps for each actor, which are taken in order.

    A step is a key of `World.STEPS`. The actor `worker` publishes, `net` (`net1` for the second hub) is the
    network, `hub` (`hub1`) a hub; any other name is a viewer. The steps in `before` come before the first
    choice.
    """

    name: str
    lines: dict[str, str]
    before: str = ""
    wishes: dict[str, str] = field(default_factory=dict)
    slow: str = ""  # viewers whose wire is full after every write ...
    every: int = 1  # ... or, with 2, after every second write
    hubs: int = 1
    prompt: bool = True  # True: only the first hub's traffic with Redis is delayed
    preempt: int = 0  # in `EVERY`: most steps between two turns of the loop
    crowd: bool = False  # True: two viewers are so many that the feed's task serves them, a turn for each
    window: int = 1000
    linger: float = HORIZON
    drain: float = 0.2
    log: bool = True  # True: the job has a retained log from the start

    @functools.cached_property
    def settings(self) -> Settings:
        return Settings(
            my_jobs=False,  # its timer has nothing to do with what is explored
            window_events=self.window,
            linger=self.linger,
            drain=self.drain,
            position_check=4 * NEVER,
            stream_age=100 * NEVER,
            max_event_bytes=300,
        )


class Viewer(Client):
    """A browser that reconnects with its cursor, when the schedule chooses so."""

    world: World
    name = ""
    writes = 0
    backs = 2  # how often it may still reconnect by itself
    left = True  # it left by itself, or has not joined yet
    leaving = False
    run: asyncio.Task | None = None  # its connection, until everything of that has ended

    def connect(self, hub: Hub | None = None) -> None:
        self.left = self.leaving = False
        self.hub = hub or self.world.open_hub()
        self.run = self.task = self.world.loop.create_task(self._live())
        self.run.add_done_callback(self._gone)

    def go(self) -> None:
        """The client disconnects, at whatever point it is. Its wire takes nothing any more."""
        self.left = self.leaving = self.paused = True
        self.run.cancel()

    @property
    def streams(self) -> bool:
        """Returns True if it has a seat on a stream that has not ended."""
        return self.run is not None and self.seat is not None and self.reason is None and not self.leaving

    def _gone(self, task) -> None:
        self.run = self.task = None
        if task.cancelled():
            law_later(self.world, self.leaving, f"{self.name} is cancelled by nobody but itself")
        elif task.exception() is not None:
            self.world.broken.append(f"{self.name}: {task.exception()!r}")

    def write(self, frames) -> None:
        law_later(self.world, self.reason is None, "nothing is written to a seat after its end")
        law_later(self.world, not self.paused, "nothing is written to a paused viewer")
        super().write(frames)
        self.writes += 1
        self.paused = self.often > 0 and (self.writes - 1) % self.world.scenario.every == 0

    def finish(self, reason) -> None:
        if self.reason is None and not self.leaving:
            has_end = bool(self.items) and self.items[-1].kind == "end"
            law_later(
                self.world, has_end == (reason is Reason.ENDED), f"{reason} says whether the end was told"
            )
            self.world.reasons.append(reason)
        super().finish(reason)


def law_later(world: World, condition: object, words: str) -> None:
    """Check a law inside a callback of the hub, which may catch a Violation. `judge` raises it later."""
    if not condition:
        world.broken.append(words)


class World:
    """One run of a scenario: the Redis, the hubs, the viewers, and the story so far."""

    def __init__(self, scenario: Scenario) -> None:
        random.seed(0)  # jitter and shuffles are the same in every run
        self.scenario = scenario
        self.loop = StepLoop()
        self.story: list[str] = []
        self.broken: list[str] = []
        self.reasons: list[Reason] = []
        self.hubs: list[Hub] = []
        self.links: list[Link] = []
        self.closed: set[Hub] = set()
        self.passed = 0
        self.silent = False  # True: something was lost that only a position check finds
        self.harmed = False  # True: a gap or a resync may be sent

    def open(self) -> None:
        """Create everything, and take the steps in `before`."""
        scenario = self.scenario
        self.server = Server(self.loop.time)
        self.server.epoch = 1000 if scenario.log else None
        for _ in range(scenario.hubs):
            self.add_hub()
        self.viewers: dict[str, Viewer] = {}
        self.lines = {who: deque(words.split()) for who, words in scenario.lines.items()}
        for who in dict.fromkeys([*(pair.split(":")[0] for pair in scenario.before.split()), *self.lines]):
            if who.rstrip("0123456789") not in ("worker", "net", "hub", "clock"):
                self.viewers[who] = self._viewer(who)
        for pair in scenario.before.split():
            who, word = pair.split(":")
            self._do(who, word)
            self.calm()
        self.story.clear()

    def add_hub(self) -> Hub:
        link = Link(self.server)
        hub = Hub(link, self.scenario.settings)
        self.links.append(link)
        self.hubs.append(hub)
        return hub

    def open_hub(self) -> Hub:
        """Returns the hub that a load balancer would choose: the first ready one, else one that refuses."""
        return next((hub for hub in self.hubs if not hub.draining), self.hubs[0])

    def _viewer(self, name: str) -> Viewer:
        viewer = Viewer(
            self.hubs[0],
            Wish.parse(from_=self.scenario.wishes.get(name)),
            float(name in self.scenario.slow.split()),
            random.Random(0),
        )
        viewer.world, viewer.name = self, name
        return viewer

    # --- what may happen

    def options(self) -> list[tuple[str, Callable[[], None]]]:
        """Returns what may happen now, the most ordinary first."""
        found: list[tuple[str, Callable[[], None]]] = []
        for number, link in enumerate(self.links[: 1 if self.scenario.prompt else None]):
            found += [
                (f"{number}: {gate.name}", gate.pass_) for gate in link.parked if not gate.waiter.done()
            ]
            if link.commands and not link.down:
                found.append((f"{number}: {link.commands[0]}", link.send_command))
            if link.flight:
                found.append((f"{number}: message", link.deliver))
        for viewer in self.viewers.values():
            if viewer.streams and viewer.paused:
                found.append((f"{viewer.name} reads", viewer.resume))
            elif viewer.run is None and not viewer.left and not viewer.done and viewer.backs:
                found.append((f"{viewer.name} reconnects", functools.partial(self._back, viewer)))
        for who, words in self.lines.items():
            if words and self._may(who, words[0]):
                found.append((f"{who} {words[0]}", functools.partial(self._next, who)))
        return found

    def _back(self, viewer: Viewer) -> None:
        viewer.backs -= 1
        viewer.connect()

    def _next(self, who: str) -> None:
        self._do(who, self.lines[who].popleft())

    def _do(self, who: str, word: str) -> None:
        self.STEPS[word][1](self, who)

    def _may(self, who: str, word: str) -> bool:
        return bool(self.STEPS[word][0](self, who))

    def _link(self, who: str) -> Link:
        return self.links[_number(who)]

    def _hub(self, who: str) -> Hub:
        return self.hubs[_number(who)]

    def _join(self, who: str, hub: Hub | None = None) -> None:
        viewer = self.viewers[who]
        viewer.joined = len(self.server.truth)
        viewer.connect(hub)

    def _hash_only(self, status: str) -> None:
        """An application writes the job's hash and publishes nothing."""
        if self.server.fields["status"] not in TERMINAL:
            self.server.fields["status"] = status
            self.silent = True

    def _foreign(self, status: str) -> None:
        """A foreign producer writes the hash and publishes."""
        if status:
            self.server.fields["status"] = status
        self.server.publish(foreign=True, status=status)

    def _drop(self, who: str) -> None:
        if self._link(who).drop():
            self.silent = True

    def _cut(self, who: str) -> None:
        link = self._link(who)
        self.harmed |= not self.scenario.log
        link.cut()

    def _fail(self, who: str) -> None:
        next(gate for gate in self._link(who).parked if not gate.waiter.done()).fail()

    def _trim(self, keep: int) -> None:
        self.harmed = True
        self.server.trim(keep)

    def _lose(self) -> None:
        self.harmed = self.silent = True
        self.server.lose_numbers()

    def _spawn(self, coro) -> None:
        async def run():
            try:
                await coro
            except HubError:  # the hub's periodic checks log it and continue
                return

        task = self.loop.create_task(run())
        task.add_done_callback(lambda done: done.cancelled() or done.result())

    def _check(self, who: str) -> None:
        """Do the position check of every feed, now."""
        hub = self._hub(who)
        feeds = list(hub.feeds.watched.values())
        if feeds:
            self._spawn(hub.feeds.check._check(feeds))

    def _age(self, who: str) -> None:
        viewer = self.viewers[who]
        viewer.seat.until = self.loop.time()
        self._spawn(viewer.hub.age._look(viewer.seat.audience))

    def _close(self, hub: Hub) -> None:
        sat = [(one, one.seat) for one in self.viewers.values() if one.hub is hub and one.streams]

        async def close():
            await hub.aclose()
            self.closed.add(hub)
            left = [one.name for one, seat in sat if one.streams and one.seat is seat]
            law_later(self, not left, f"a hub that closes sends its viewers away first; left: {left}")

        self._spawn(close())

    def _time(self) -> None:
        self.loop.now = max(self.loop.now, self.loop.next_timer(HORIZON / 2) or 0)

    STEPS: dict[str, tuple[Callable[[World, str], object], Callable[[World, str], None]]] = {
        # viewers
        "join": (lambda self, who: self.viewers[who].run is None and not self.viewers[who].done, _join),
        "elsewhere": (
            lambda self, who: self.viewers[who].run is None,
            lambda self, who: self._join(who, self.hubs[-1]),
        ),
        "leave": (
            lambda self, who: self.viewers[who].run and not self.viewers[who].leaving,
            lambda self, who: self.viewers[who].go(),
        ),
        "age": (lambda self, who: self.viewers[who].streams, _age),
        # the worker
        "event": (lambda self, who: True, lambda self, who: self.server.publish()),
        "large": (lambda self, who: True, lambda self, who: self._large()),
        "ready": (lambda self, who: True, lambda self, who: self.server.publish(status="ready")),
        "hash": (lambda self, who: True, lambda self, who: self._hash_only("ready")),
        "foreign": (lambda self, who: True, lambda self, who: self._foreign("")),
        "foreign-ready": (lambda self, who: True, lambda self, who: self._foreign("ready")),
        "renew": (lambda self, who: True, lambda self, who: self.server.renew()),
        # Redis and the way to it
        "cut": (lambda self, who: not self._link(who).down, _cut),
        "mend": (lambda self, who: self._link(who).down, lambda self, who: self._link(who).mend()),
        "drop": (lambda self, who: self._link(who).flight, _drop),
        "fail": (lambda self, who: any(not gate.waiter.done() for gate in self._link(who).parked), _fail),
        "trim": (lambda self, who: True, lambda self, who: self._trim(1)),
        "trim-some": (lambda self, who: True, lambda self, who: self._trim(3)),
        "lose": (lambda self, who: self.server.log, lambda self, who: self._lose()),
        # a hub
        "check": (lambda self, who: True, _check),
        "drain": (lambda self, who: True, lambda self, who: self._hub(who).begin_drain()),
        "close": (lambda self, who: True, lambda self, who: self._close(self._hub(who))),
        # time
        "time": (lambda self, who: self.loop.next_timer(HORIZON / 2), lambda self, who: self._time()),
        "lapse": (lambda self, who: True, lambda self, who: self._lapse()),
    }

    def _large(self) -> None:
        self.harmed = True
        self.server.publish(size=400)

    def _lapse(self) -> None:
        self.loop.now += 31

    # --- the end

    def calm(self) -> None:
        """Let everything arrive that is under way, until nothing is."""
        self.loop.rest()
        while (act := next(self._pending(), None)) is not None:
            act()
            self.loop.rest()

    def prompt(self) -> bool:
        """Let undelayed traffic arrive. Returns True if there was any."""
        before = self.passed
        for link in self.links[1:] if self.scenario.prompt else ():
            for act in list(_under_way(link)):
                act()
                self.passed += 1
        return self.passed > before

    def _pending(self) -> Iterator[Callable[[], None]]:
        for link in self.links:
            yield from _under_way(link)
        for viewer in self.viewers.values():
            if viewer.streams and viewer.paused:
                yield viewer.resume

    def settle(self) -> None:
        """End all faults, let every viewer reconnect and time pass, until nothing more happens by itself."""
        for viewer in self.viewers.values():
            viewer.often = 0.0
        for link in self.links:
            if link.down:
                link.mend()
        for _ in range(8):
            self.calm()
            self.loop.pass_time(60)
            self.calm()
            away = [one for one in self.viewers.values() if one.run is None and not one.done]
            if not away:
                return
            if all(hub.draining for hub in self.hubs):
                self.add_hub()
            for viewer in away:
                viewer.connect()
        raise Violation(f"these viewers never get in: {[one.name for one in away]}")

    def end(self) -> None:
        """Let everything settle, and check all laws."""
        self.settle()
        if not self.silent:
            self.judge()  # no loss was silent, so no position check is needed
        for number, hub in enumerate(self.hubs):
            if hub not in self.closed:
                self._check(f"hub{number}")
        self.settle()
        self.judge()
        law(self.server.lease is None, "a worker that is lost ends its job")
        self._take_down()

    def judge(self) -> None:
        law(not self.broken, f"{self.broken}")
        law(not self.loop.failures, f"nothing fails without being caught: {self.loop.failures}")
        ended = self.server.fields["status"] in TERMINAL
        law(sum(one.terminal for one in self.server.truth) <= 1, "one terminal")
        for viewer in self.viewers.values():
            if not viewer.done and viewer.hub.draining:
                raise Violation(f"{viewer.name} is forgotten by a hub that went away: {_tail(viewer)}")
            try:
                check(viewer, self.server, ended=ended, local=not self.scenario.log)
            except Violation as error:
                raise Violation(f"{viewer.name}: {error}; was told {_tail(viewer)}") from None
            if not self.harmed:
                told = [item.kind for item in viewer.items if item.kind in ("gap", "resync")]
                if told:
                    raise Violation(f"{viewer.name} is told of a loss where there is none: {_tail(viewer)}")

    def _take_down(self) -> None:
        for viewer in self.viewers.values():
            if viewer.run is not None:
                viewer.go()
        self.calm()
        for hub in self.hubs:
            if hub not in self.closed:
                self._close(hub)
        self.calm()
        law(not self.broken and not self.loop.failures, f"{self.broken} {self.loop.failures}")
        left = [task.get_name() for task in self.loop.tasks if not task.done()]
        law(not left, f"no task is left: {left}")
        for link in self.links:
            law(link.sink is None and not link.parked, "no subscription and no request is left")
            law(link.subscriptions <= self._feeds_at_most, "simultaneous joins share one subscription")
            law(link.reads <= self._feeds_at_most, "simultaneous joins share one read of the log")
            checks = "check" in " ".join(self.scenario.lines.values())
            law(link.most_asked <= 1 or checks, "simultaneous requests share one read of the hash")
        for hub in self.hubs:
            now = hub.statistics()
            law(not now.viewers and not now.jobs, "no viewer and no feed is left")

    @property
    def _feeds_at_most(self) -> float:
        """How often a hub may start a feed: once, if no linger ends and no start fails."""
        steady = self.scenario.linger == HORIZON and "fail" not in " ".join(self.scenario.lines.values())
        return 1 if steady else float("inf")

    def abandon(self) -> None:
        """End every task after a violation, so that the next world is not disturbed."""
        for _ in range(3):
            for task in self.loop.tasks:
                task.cancel()
            for _ in range(50):
                self.loop.turn()


def _under_way(link: Link) -> Iterator[Callable[[], None]]:
    for gate in link.parked:
        if not gate.waiter.done():
            yield gate.pass_
    if link.commands and not link.down:
        yield link.send_command
    if link.flight:
        yield link.deliver


def _number(who: str) -> int:
    return int(who.lstrip("abcdefghijklmnopqrstuvwxyz") or 0)


def _tail(viewer: Viewer) -> list[str]:
    return [_short(item) for item in viewer.items[-12:]]


def _short(item: Item) -> str:
    return f"event {item.g}{'!' if item.terminal else ''}" if item.kind == "event" else item.kind


class _LoudFeed:
    """Replaces the feed's logger: a feed that fails is a violation. Other lines are dropped."""

    def __init__(self, broken: list[str]) -> None:
        self.exception = lambda *words: broken.append(f"a feed fails: {words}")


@contextmanager
def on_its_own(scenario: Scenario) -> Iterator[World]:
    """A world, in which the hub's sizes are small and its timers off. They are restored afterwards."""
    world = World(scenario)
    epochs = iter(range(10**12, 10**13, 1000))
    patches = [
        (scripted, "Recording", lambda: ONE_FORMAT),
        (paging_module, "FIRST", 3),
        (paging_module, "MOST", 3),
        (retained_module, "SETTLE", 0),
        (window_module, "_now_ms", lambda: next(epochs)),
        (check_module, "TICK", NEVER),
        (check_module, "logger", types.SimpleNamespace(warning=lambda *words: None)),
        (age_module, "TICK", NEVER),
        (stall_module, "PERIOD", NEVER),
        (drain_module, "STEP", 0.1),
        (wire_module, "SLICE", 1),
        (feed_module, "SLICE", 1 if scenario.crowd else 150),
        (feed_module, "logger", _LoudFeed(world.broken)),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in patches]
    for module, name, value in patches:
        setattr(module, name, value)
    try:
        with world.loop:
            try:
                world.open()
                yield world
            except BaseException:
                world.abandon()
                raise
    finally:
        for module, name, value in before:
            setattr(module, name, value)
