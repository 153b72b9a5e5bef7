"""Mutants: small edits that break the engine's source, each with the law that must then be violated."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hub.engine.check import PositionCheck
from hub.engine.drain import Drain
from hub.engine.feeds import Feeds
from hub.engine.reads import JobReads
from hub.engine.replay import Replay
from hub.fanout.audience import Audience, Seat
from hub.feed.feed import Feed
from hub.feed.inbox import Inbox
from hub.feed.intake import Intake
from hub.feed.retained import Retained
from hub.feed.window import Window
from hub.job.log import Log


@dataclass(frozen=True)
class Edit:
    """Replace `old`, which occurs exactly once in the source of `owner.name`, by `new`."""

    owner: type
    name: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """`edits`, the scenario that must detect them, and words of the law that they violate there."""

    scenario: str
    law: str
    edits: tuple[Edit, ...]


def mutant(scenario: str, law: str, owner: type, name: str, old: str, new: str) -> Mutant:
    return Mutant(scenario, law, (Edit(owner, name, old, new),))


_SUBSCRIBE = "await self._broker.subscribe(self.id, self._inbox)"
_BEGIN = "await self._retained.begin()"

MUTANTS = {
    "subscribe-after-read": Mutant(
        "attach",
        "nobody waits for ever",
        (
            Edit(Feed, "_begin", _SUBSCRIBE, f"{_BEGIN}; {_SUBSCRIBE}"),
            Edit(Feed, "_begin", f"\n        {_BEGIN}\n", f"\n        if has_ended: {_BEGIN}\n"),
        ),
    ),
    "confirmation-not-awaited": mutant(
        "attach",
        "nobody waits for ever",
        Feed,
        "_begin",
        _SUBSCRIBE,
        "self._early = self._loop.create_task(self._broker.subscribe(self.id, self._inbox))",
    ),
    "no-healing": mutant(
        "cut",
        "told of a loss where there is none",
        Retained,
        "look",
        "if self._turn_page(snapshot, mark):",
        "if False:",
    ),
    "deaf-to-reconnects": mutant(
        "cut", "nobody waits for ever", Inbox, "missed", "self._mark(Mark.LOST)", "pass"
    ),
    "terminal-not-remembered": mutant(
        "hash-end",
        "nobody waits for ever",
        Retained,
        "end_soon",
        "if self.window.has_ended",
        "if False and self.window.has_ended",
    ),
    "position-check-finds-nothing": mutant(
        "drop", "reached nobody", Intake, "compare", "if self.window.differs(job):", "if False:"
    ),
    "wake-up-dropped": mutant(
        "attach",
        "nobody waits for ever",
        Inbox,
        "wait",
        "await self._waiter",
        "await self._waiter; self._waiter = asyncio.get_running_loop().create_future(); await self._waiter",
    ),
    "mark-does-not-wake": mutant("cut", "nobody waits for ever", Inbox, "_mark", "self.wake()", "pass"),
    "pump-forgets-the-rest": mutant(
        "drop", "reached nobody", Feed, "pump", "if self._inbox or self.log.closed:", "if False:"
    ),
    "pump-beside-the-task": Mutant(
        "cut",
        "told of a loss where there is none",
        (
            Edit(Inbox, "receive", "if not self._is_announced and self.is_awaited:", "if True:"),
            Edit(Feed, "pump", "if not self._inbox.is_taken_up():", "if not self.ready:"),
        ),
    ),
    "heal-skips-one": mutant(
        "cut",
        "told of a loss where there is none",
        Retained,
        "_turn_page",
        "if entry.id > last and",
        "if entry.id > last.next and",
    ),
    "resume-one-too-late": mutant(
        "resume",
        "a hole without a word",
        Log,
        "position_after",
        "return position if",
        "return position + 1 if",
    ),
    "resume-one-too-early": mutant(
        "resume",
        "once each and in order",
        Log,
        "position_after",
        "return position if",
        "return position - 1 if",
    ),
    "gap-without-state": mutant(
        "trim",
        "comes the state",
        Window,
        "gap",
        "[gap_frame(reason, first, last), self.state.frame(last)]",
        "[gap_frame(reason, first, last)]",
    ),
    "resync-without-need": mutant(
        "resume",
        "told of a loss where there is none",
        Log,
        "position_after",
        "return position if",
        "return None if",
    ),
    "seat-written-twice": mutant(
        "fan-out", "once each and in order", Audience, "_write", "if seat.position == start and", "if"
    ),
    "paused-seat-written": mutant(
        "slow", "written to a paused viewer", Audience, "_write", "and not seat.wire.paused", ""
    ),
    "end-tells-nobody": mutant(
        "attach",
        "nobody waits for ever",
        Audience,
        "finish",
        "if seat.position == self.log.end:",
        "if False:",
    ),
    "lagging-seat-jumps": mutant(
        "slow",
        "a hole without a word",
        Seat,
        "catch_up",
        "if self.position < log.start:",
        "self.position = max(self.position, log.start)\n        if False:",
    ),
    "replay-forgets-what-was-trimmed": mutant(
        "replay-trimmed",
        "a hole without a word",
        Replay,
        "frames",
        "if entry.id != after.next:",
        "if False:",
    ),
    "linger-ends-a-held-feed": mutant("linger", "reached nobody", Feeds, "of", "timer.cancel()", "pass"),
    "feed-per-viewer": mutant(
        "first-viewers", "one subscription", Feeds, "of", "feed = self.watched.get(job.id)", "feed = None"
    ),
    "hash-read-per-viewer": mutant(
        "first-viewers",
        "one read of the hash",
        JobReads,
        "_read",
        "async with self._patience.bound():",
        "await self._broker.jobs([job])\n    async with self._patience.bound():",
    ),
    "shared-read-dies-with-the-first": mutant(
        "first-leaves",
        "cancelled by nobody but itself",
        JobReads,
        "_read",
        "await reading.wait()",
        "await reading.task",
    ),
    "drain-forgets-one": mutant(
        "drain", "forgotten by a hub", Drain, "_untold", "if not seat.told]", "if not seat.told][1:]"
    ),
    "drain-says-ended": mutant(
        "drain",
        "says whether the end was told",
        Seat,
        "send_away",
        "_last_reason(log) if over else reason",
        "_last_reason(log)",
    ),
    "aged-though-it-ended": mutant(
        "age-slow",
        "says whether the end was told",
        Seat,
        "send_away",
        "_last_reason(log) if over else reason",
        "reason",
    ),
    "check-never-asks-for-the-lease": mutant(
        "lease-renewed",
        "a worker that is lost ends its job",
        PositionCheck,
        "_check",
        "lapsed.append(feed)",
        "pass",
    ),
}


@contextmanager
def applied(name: str) -> Iterator[None]:
    """Apply a mutant's edits to the engine during the block."""
    before = []
    try:
        for edit in MUTANTS[name].edits:
            before.append((edit.owner, edit.name, edit.owner.__dict__[edit.name]))
            setattr(edit.owner, edit.name, _edited(edit, before))
        yield
    finally:
        for owner, attribute, value in reversed(before):
            setattr(owner, attribute, value)


def _edited(edit: Edit, before: list) -> object:
    function = edit.owner.__dict__[edit.name]
    source = getattr(function, "source", None) or textwrap.dedent(inspect.getsource(function))
    assert source.count(edit.old) == 1, (
        f"expected {edit.old!r} once in {edit.owner.__name__}.{edit.name}:\n{source}"
    )
    source = source.replace(edit.old, edit.new)
    made: dict = {}
    exec("from __future__ import annotations\n" + source, function.__globals__, made)
    made[edit.name].source = source
    return made[edit.name]
