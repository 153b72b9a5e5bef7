"""The judge compares the frames that a viewer received with the events that were published.

The invariant: a viewer gets all events of its job in order and once each. If some are missing, a frame
(`gap`, `resync`) says so and the current state follows. The terminal is the last event, then comes `end`,
then nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from hub.job.event import EventId

CONTROL = frozenset({"heartbeat", "gap", "resync", "state", "reconnect", "end"})


@dataclass
class Published:
    """One job's events, as its producers know them: those acknowledged, with ids, and those attempted."""

    job: str
    acknowledged: dict[EventId, str] = field(default_factory=dict)  # id -> body
    tried: set[str] = field(default_factory=set)
    terminal: EventId | None = None
    superseded: set[tuple[EventId, str]] = field(default_factory=set)  # acknowledged, and lost by a failover


@dataclass
class Verdict:
    """What one viewer received over all its connections. `problems` is empty if the invariant held."""

    published: Published
    name: str
    cursor: EventId | None = None
    deliveries: int = 0
    connections: int = 0
    notices: list[str] = field(default_factory=list)  # "gap redis", "resync lost", ...
    heartbeats: int = 0
    ended: str = ""  # the status in `end`
    problems: list[str] = field(default_factory=list)
    first: EventId | None = None
    _owes_state: bool = False
    _terminal: bool = False
    _pardon: bool = False  # after a notice the next id may be any later one, or of another epoch

    def connected(self) -> None:
        """Note a new connection, which resumes after `cursor`."""
        self.connections += 1

    def event(self, event_id: EventId | None, body: str) -> None:
        """Judge a data event with its id."""
        self.deliveries += 1
        if self._terminal:
            self._problem(f"after the terminal came {event_id} {body[:80]}")
        if self._owes_state:
            self._problem(f"a notice was followed by {event_id} and not by the state")
            self._owes_state = False
        if event_id is None:
            self._problem(f"an event without an id in a job with a log: {body[:80]}")
            return
        self._follows(event_id)
        known = self.published.acknowledged.get(event_id)
        if known is None and body not in self.published.tried:
            self._problem(f"{event_id} was never published: {body[:80]}")
        elif known is not None and known != body and (event_id, body) not in self.published.superseded:
            self._problem(f"{event_id} came with another body: {body[:80]}")
        self.first = self.first or event_id
        self.cursor = event_id
        self._pardon = False

    def control(self, name: str, fields: dict, event_id: EventId | None) -> None:
        """Judge a control frame. A `state`'s position is its id over SSE, `position` over WebSocket."""
        match name:
            case "heartbeat":
                self.heartbeats += 1
            case "gap" | "resync":
                self.notices.append(f"{name} {fields.get('reason')}")
                self._owes_state = True
            case "state":
                self._owes_state = False
                self._pardon = True
                position = event_id or EventId.parse(fields.get("position") or "")
                if position is not None:
                    self.cursor = position
            case "end":
                if not self._terminal:
                    self._problem("the end came without a terminal event")
                self.ended = fields.get("status", "")

    def terminal(self) -> None:
        """Note that the last event was a terminal one."""
        self._terminal = True

    def position(self, event_id: EventId) -> None:
        """Note the first id of a stream, which is a cursor and no event."""
        if self.cursor is None:
            self.cursor = event_id

    def finish(self, *, pardoned: bool = False) -> None:
        """Judge the whole: an event that never came and was not announced is a problem. `pardoned`: notices
        were due.
        """
        if not self.ended:
            self._problem("never saw the end")
        if self.notices and not pardoned:
            self._problem(f"expected no notice, got {self.notices}")
        last, terminal = self.cursor, self.published.terminal
        if terminal is not None and last != terminal and not self.notices:
            self._problem(f"stopped at {last}, the terminal is {terminal}")

    def _follows(self, event_id: EventId) -> None:
        last = self.cursor
        if last is None or event_id == last.next:
            return
        if event_id.epoch == last.epoch and event_id <= last:
            self._problem(f"{event_id} came again, or late, after {last}")
        elif not self._pardon:
            self._problem(f"between {last} and {event_id} something is missing, and nothing said so")

    def _problem(self, words: str) -> None:
        if len(self.problems) < 5:
            self.problems.append(f"{self.name}: {words}")


def terminal_status(body: str) -> str | None:
    """The terminal status in an event's body, if it ends the job."""
    if '"status"' not in body:
        return None
    status = json.loads(body).get("status")
    return status if status in ("ready", "failed") else None
