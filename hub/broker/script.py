"""The publish script: its arguments and its answer, the same for the async and the blocking publisher. No I/O.

The rule itself is publish.lua. Every call carries an idempotency key, made up here when the caller has none:
redis-py repeats a write whose answer was lost, and without the key one event would become two.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.resources import files

from hub.broker.keys import Keys
from hub.errors import JobEnded
from hub.event import MAX_EVENT_BYTES, TERMINAL, EventId, JobId
from hub.settings import Settings

SCRIPT = files("hub.broker").joinpath("publish.lua").read_text()

_DAY = 24 * 3600


@dataclass(frozen=True, slots=True)
class Retention:
    """How much of a job is kept in Redis, for resume and late viewers. Times in seconds."""

    events: int = 1000  # a build has some hundreds
    ended: int = _DAY  # a page left open over night still gets its end
    idle: int = 7 * _DAY  # a job that lost its worker does not stay for ever
    once: int = _DAY  # a producer's own idempotency key
    retry: int = 60  # a made-up key only has to outlive the client library's own retries


@dataclass(frozen=True, slots=True)
class Publication:
    """What publishing needs to know about the place."""

    keys: Keys = field(default_factory=Keys)
    retention: Retention = field(default_factory=Retention)
    terminal: frozenset[str] = TERMINAL
    limit: int = MAX_EVENT_BYTES

    @classmethod
    def of(cls, settings: Settings) -> Publication:
        """As the hub with these settings reads it."""
        return cls(
            keys=Keys(settings.key_template),
            retention=Retention(events=settings.window_events),
            terminal=settings.terminal_statuses,
            limit=settings.max_event_bytes,
        )

    def prepare(
        self, job: JobId, body: str, *, status: str | None, once: str | None
    ) -> tuple[list[str], list[str | int]]:
        """KEYS and ARGV for one event."""
        keys, kept = self.keys, self.retention
        names = [keys.job(job), keys.log(job), keys.events(job), keys.once(job, once or uuid.uuid4().hex)]
        once_lives = kept.once if once else kept.retry
        return names, [
            body,
            status or "",
            kept.events,
            kept.idle,
            kept.ended,
            once_lives,
            *sorted(self.terminal),
        ]


def interpret(job: JobId, reply: Iterable[bytes | str]) -> EventId:
    """The id in the script's answer. Raises JobEnded after a terminal."""
    verdict, value = (part.decode() if isinstance(part, bytes) else part for part in reply)
    if verdict == "ended":
        raise JobEnded(f"job {job}: expected a job that runs, got one that is {value}")
    event_id = EventId.parse(value)
    assert event_id is not None, "the script answers with the id that XADD gave"
    return event_id
