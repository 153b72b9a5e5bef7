"""One small world: a Redis, one or more hubs on it, viewers; and all that may happen next.

`World.options` lists what may happen now, in a fixed order, the most ordinary first; a scheduler (explore.py) picks. Afterwards `end`
lets everything through, holds what each viewer was told against the laws, and takes the world down.
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
from hub.engine import view as view_module
from hub.engine.hub import Hub
from hub.errors import HubError
from hub.fanout import age as age_module
from hub.fanout import audience as wire_module
from hub.fanout.wire import Reason
from hub.feed import feed as feed_module
from hub.feed import intake as intake_module
from hub.feed import window as window_module
from hub.job.cursor import Wish
from hub.settings import Settings
from tests.model.loop import StepLoop
from tests.model.redis import Link, Server
from tests.unit import scripted
from tests.unit.scripted import TERMINAL, Client, Item, Recording, Violation, check, law

NEVER = 1e9
"""Seconds. The hub's own rounds are not due within a run: a schedule calls what they call, at any moment."""

HORIZON = 1e6
"""Seconds; what is due later is never."""


ONE_FORMAT = Recording()
"""All viewers of a hub are one audience, as on a real transport."""


@dataclass(frozen=True)
class Scenario:
    """What is to be interleaved: one line of steps for each actor, taken in order.

    A step is a word of `World.STEPS`. Actors called `worker` and `net` (`net1` for the second hub) publish and cut; `hub`
    (`hub1`) drains; others are viewers. `before` happens in order before the first choice.
    """

    name: str
    lines: dict[str, str]
    before: str = ""
    wishes: dict[str, str] = field(default_factory=dict)
    slow: str = ""  # viewers whose wire is full after a write ...
    every: int = 1  # ... or, with 2, after the first, the third, ...
    hubs: int = 1
    prompt: bool = True  # whether all goes without delay between Redis and the hubs after the first
    preempt: int = 0  # in the exhaustive search: steps that fall between two turns of the loop
    window: int = 1000
    linger: float = HORIZON
    drain: float = 0.2
    log: bool = True  # whether the job has a retained log from the beginning

    @functools.cached_property
    def settings(self) -> Settings:
        return Settings(
            window_events=self.window,
            linger=self.linger,
            drain=self.drain,
            position_check=4 * NEVER,
            stream_age=100 * NEVER,
            max_event_bytes=300,
        )


class Viewer(Client):
    """A browser that is thrown out, and comes back with its cursor when the schedule says so."""

    world: World
    name = ""
    writes = 0
    backs = 2  # how often it comes back by itself
    left = True  # it went by itself, or has not come yet
    leaving = False
    run: asyncio.Task | None = None  # its visit, until that is over with all that belongs to it

    def connect(self, hub: Hub | None = None) -> None:
        self.left = self.leaving = False
        self.hub = hub or self.world.open_hub()
        self.run = self.task = self.world.loop.create_task(self._live())
        self.run.add_done_callback(self._gone)

    def go(self) -> None:
        """The client is gone, at whatever point it was; its wire takes nothing any more."""
        self.left = self.leaving = self.paused = True
        self.run.cancel()

    @property
    def streams(self) -> bool:
        """Whether it sits at a stream that has not ended."""
        return self.run is not None and self.seat is not None and self.reason is None and not self.leaving

    def _gone(self, task) -> None:
        self.run = self.task = None
        if task.cancelled():
            law_later(self.world, self.leaving, f"{self.name} is cancelled by nobody but itself")
        elif task.exception() is not None:
            self.world.broken.append(f"{self.name}: {task.exception()!r}")

    def write(self, frames) -> None:
        law_later(self.world, self.reason is None, "a seat is written to once and not after its end")
        law_later(self.world, not self.paused, "nothing is written to who cannot take it")
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
    """A law inside a callback of the hub's, which may catch what is raised there."""
    if not condition:
        world.broken.append(words)


class World:
    """See above."""

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
        self.silent = False  # something was lost that only a position check can find
        self.harmed = False  # there is a reason to tell somebody of a gap or a resync

    def open(self) -> None:
        """Set everything up, and do what comes before the choices."""
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
        """Where a load balancer sends a viewer: the first hub that is ready, else one that refuses it."""
        return next((hub for hub in self.hubs if not hub.draining), self.hubs[0])

    def _viewer(self, name: str) -> Viewer:
        viewer = Viewer(
            self.hubs[0],
            Wish.parse(origin=self.scenario.wishes.get(name)),
            float(name in self.scenario.slow.split()),
            random.Random(0),
        )
        viewer.world, viewer.name = self, name
        return viewer

    # --- what may happen

    def options(self) -> list[tuple[str, Callable[[], None]]]:
        """What may happen now, most ordinary first."""
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
                found.append((f"{viewer.name} comes back", functools.partial(self._back, viewer)))
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
        """An application that writes its hash and publishes nothing."""
        if self.server.fields["status"] not in TERMINAL:
            self.server.fields["status"] = status
            self.silent = True

    def _foreign(self, status: str) -> None:
        """A producer of its own, which sets the hash and publishes."""
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
            except HubError:  # the rounds of the hub log it, and go on
                return

        task = self.loop.create_task(run())
        task.add_done_callback(lambda done: done.cancelled() or done.result())

    def _check(self, who: str) -> None:
        """What the position check does with every feed, at once."""
        hub = self._hub(who)
        feeds = list(hub._feeds.values())
        if feeds:
            self._spawn(hub._check._check(feeds))

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
            law_later(self, not left, f"who sits when a hub closes is sent away before it has: {left}")

        self._spawn(close())

    def _time(self) -> None:
        self.loop.now = max(self.loop.now, self.loop.next_timer(HORIZON / 2) or 0)

    STEPS: dict[str, tuple[Callable[[World, str], object], Callable[[World, str], None]]] = {  # noqa: RUF012
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
        """Everything that is on its way arrives, until nothing is."""
        self.loop.rest()
        while (act := next(self._pending(), None)) is not None:
            act()
            self.loop.rest()

    def prompt(self) -> bool:
        """What goes without delay arrives; whether anything did."""
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
        """Faults are over, everybody comes back, time passes; then nothing more happens by itself."""
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
        raise Violation(f"somebody never gets in: {[one.name for one in away]}")

    def end(self) -> None:
        """Hold everything against the laws."""
        self.settle()
        if not self.silent:
            self.judge()  # nothing was lost without a sign, so nobody needs a position check
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
            law(link.subscriptions <= self._feeds_at_most, "one subscription for all who come first")
            law(link.reads <= self._feeds_at_most, "one read of the log for all who come first")
            checks = "check" in " ".join(self.scenario.lines.values())
            law(link.most_asked <= 1 or checks, "one read of the hash for all who ask at the same time")
        for hub in self.hubs:
            now = hub.statistics()
            law(not now.viewers and not now.jobs, "no viewer and no feed is left")

    @property
    def _feeds_at_most(self) -> float:
        """How often a hub may begin to watch: once, while nobody lets go of the job for good and no start fails."""
        steady = self.scenario.linger == HORIZON and "fail" not in " ".join(self.scenario.lines.values())
        return 1 if steady else float("inf")

    def abandon(self) -> None:
        """After a violation: end every task, whatever it says, so that the next world is not disturbed."""
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
    """The feed's log: a feed that fails is a violation. Others say what they like."""

    def __init__(self, broken: list[str]) -> None:
        self.exception = lambda *words: broken.append(f"a feed fails: {words}")


@contextmanager
def on_its_own(scenario: Scenario) -> Iterator[World]:
    """A world, with the hub's clocks and sizes made small; everything is as it was afterwards."""
    world = World(scenario)
    epochs = iter(range(10**12, 10**13, 1000))
    patches = [
        (scripted, "Recording", lambda: ONE_FORMAT),
        (intake_module, "PAGE", 3),
        (intake_module, "SETTLE", 0),
        (view_module, "PAGE", 3),
        (window_module, "_now_ms", lambda: next(epochs)),
        (check_module, "TICK", NEVER),
        (check_module, "logger", types.SimpleNamespace(warning=lambda *words: None)),
        (age_module, "TICK", NEVER),
        (stall_module, "PERIOD", NEVER),
        (drain_module, "STEP", 0.1),
        (wire_module, "SLICE", 1),
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
