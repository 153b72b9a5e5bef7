"""Makes the Lua scripts' arguments and interprets their answers. No I/O; async and blocking publishers share
it.

The rules are in publish.lua, lease.lua and create.lua. Every publish carries an idempotency key, a random one
if the caller gives none: redis-py repeats a write whose answer was lost, and without the key that would
publish the event twice.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files

from hub.broker.keys import Keys
from hub.errors import JobEnded, JobExists, JobNotFound
from hub.job.catalogue import StageStarted
from hub.job.event import LOST, MAX_EVENT_BYTES, TERMINAL, EventId, JobId, dumps
from hub.settings import Settings

SCRIPT = files("hub.broker").joinpath("publish.lua").read_text()
LEASE_SCRIPT = files("hub.broker").joinpath("lease.lua").read_text()
CREATE_SCRIPT = files("hub.broker").joinpath("create.lua").read_text()

_DAY = 24 * 3600


@dataclass(frozen=True, slots=True)
class Retention:
    """How much of a job Redis keeps for resuming and late viewers. Times are in seconds."""

    events: int = 1000  # a build has some hundreds
    ended: int = _DAY  # the log after the end: a page left open over night still gets the terminal event
    idle: int = 7 * _DAY  # the log after its last event: a job that never ends does not stay for ever
    once: int = _DAY  # an idempotency key of the producer
    retry: int = 60  # a random idempotency key: it only has to outlive redis-py's retries


@dataclass(frozen=True, slots=True)
class Publication:
    """What publishers and the hub must agree on: key names, retention, terminal statuses, size limit."""

    keys: Keys = field(default_factory=Keys)
    retention: Retention = field(default_factory=Retention)
    terminal: frozenset[str] = TERMINAL
    limit: int = MAX_EVENT_BYTES

    @classmethod
    def of(cls, settings: Settings) -> Publication:
        """The publication that a hub with these settings expects."""
        return cls(
            keys=Keys(settings.key_template),
            retention=Retention(events=settings.window_events),
            terminal=settings.terminal_statuses,
            limit=settings.max_event_bytes,
        )

    def prepare(
        self, job: JobId, body: str, *, status: str | None, once: str | None
    ) -> tuple[list[str], list[str | int]]:
        """KEYS and ARGV of publish.lua for one event."""
        return self._prepare(job, body, status=status, once=once)

    def prepare_lost(self, job: JobId) -> tuple[list[str], list[str | int]]:
        """KEYS and ARGV of publish.lua for the terminal event of a lost worker's job.

        The script publishes it only if the job's lease has lapsed.
        """
        fields = {
            "type": StageStarted.kind(),
            "stage": LOST,
            "narration": "The worker is not heard of any more.",
            "status": LOST,
            "reason": "producer_lost",
            "job_id": str(job),
        }
        return self._prepare(job, dumps(fields), status=LOST, once=None, only_if="lapsed")

    def prepare_job(self, job: JobId, fields: Mapping[str, str]) -> tuple[list[str], list[str | int]]:
        """KEYS and ARGV of create.lua."""
        keys = self.keys
        pairs = [text for pair in fields.items() for text in pair]
        once = keys.once(job, uuid.uuid4().hex)
        return [keys.job(job), keys.log(job), once], [self.retention.retry, *pairs]

    def prepare_lease(self, job: JobId, ttl: float, held: str) -> tuple[list[str], list[str | int]]:
        """KEYS and ARGV of lease.lua.

        `ttl` is in seconds; 0 releases the lease. `held` is what `interpret_lease` returned for the last
        renewal.
        """
        return [self.keys.job(job)], [int(ttl * 1000), held, *sorted(self.terminal)]

    def _prepare(
        self, job: JobId, body: str, *, status: str | None, once: str | None, only_if: str = ""
    ) -> tuple[list[str], list[str | int]]:
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
            only_if,
            *sorted(self.terminal | {LOST}),
        ]


def interpret(job: JobId, reply: Iterable[bytes | str]) -> EventId:
    """The event's id in publish.lua's answer. Raises JobEnded if the job has ended."""
    verdict, value = _words(reply)
    if verdict == "ended":
        raise JobEnded(f"job {job}: expected a job that runs, got one that is {value}")
    event_id = EventId.parse(value)
    assert event_id is not None, "the script answers with the id that XADD gave"
    return event_id


def is_published(reply: Iterable[bytes | str]) -> bool:
    """Returns True if publish.lua published the event."""
    return _words(reply)[0] == "ok"


def interpret_job(job: JobId, reply: Iterable[bytes | str]) -> None:
    """Raises JobExists if create.lua answers that the job exists."""
    verdict, _ = _words(reply)
    if verdict == "exists":
        raise JobExists(f"expected a new id, got {job!r}, which is taken")


def interpret_lease(job: JobId, reply: Iterable[bytes | str]) -> str:
    """The time at which the lease lapses (ms since 1970, as text), to be passed to the next `prepare_lease`.

    Raises JobEnded and JobNotFound, as lease.lua answers.
    """
    verdict, value = _words(reply)
    if verdict == "ended":
        raise JobEnded(f"job {job}: expected a job that runs, got one that is {value}")
    if verdict == "unknown":
        raise JobNotFound(f"expected a job to hold a lease on, got {job!r}, which does not exist")
    return value


def _words(reply: Iterable[bytes | str]) -> tuple[str, str]:
    verdict, value = (part.decode() if isinstance(part, bytes) else part for part in reply)
    return verdict, value
