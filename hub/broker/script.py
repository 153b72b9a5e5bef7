"""Makes the Lua scripts' arguments and interprets their answers. No I/O; async and blocking publishers share
it.

The rules themselves are the .lua files beside this one. Every write carries an idempotency key, made up here
when the caller has none: redis-py repeats a write whose answer was lost, and without the key one event would
become two.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from typing import TYPE_CHECKING

from hub.broker.keys import Keys
from hub.errors import JobEnded, JobExists, JobNotFound, NobodyListens, TooManyCommands
from hub.job.catalogue import StageStarted
from hub.job.command import JobCommand, command_of
from hub.job.event import LOST, MAX_EVENT_BYTES, TERMINAL, EventId, JobId, dumps
from hub.job.record import PUBLIC_FIELDS

if TYPE_CHECKING:
    from hub.settings import Settings  # a worker without settings needs no pydantic-settings

SCRIPT = files("hub.broker").joinpath("publish.lua").read_text()
LEASE_SCRIPT = files("hub.broker").joinpath("lease.lua").read_text()
CREATE_SCRIPT = files("hub.broker").joinpath("create.lua").read_text()
RESTART_SCRIPT = files("hub.broker").joinpath("restart.lua").read_text()
COMMAND_SCRIPT = files("hub.broker").joinpath("command.lua").read_text()
LISTEN_SCRIPT = files("hub.broker").joinpath("listen.lua").read_text()

_DAY = 24 * 3600

MOST_COMMANDS = 100
"""Commands of a job that wait for its worker; further ones are refused."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How much of a job Redis keeps for resuming and late viewers. Times are in seconds."""

    events: int = 1000  # a build has some hundreds
    ended: int = _DAY  # a page left open over night still gets its end
    idle: int = 7 * _DAY  # a job that lost its worker does not stay for ever
    meta: int = 37 * _DAY  # an old page still learns that it has everything, a month after its log is gone
    once: int = _DAY  # a producer's own idempotency key
    retry: int = 60  # a made-up key only has to outlive the client library's own retries
    commands: int = _DAY  # commands that no worker has handled


@dataclass(frozen=True, slots=True)
class Publication:
    """What publishers and the hub must agree on: key names, retention, terminal statuses, size limit."""

    keys: Keys = field(default_factory=Keys)
    retention: Retention = field(default_factory=Retention)
    terminal: frozenset[str] = TERMINAL
    limit: int = MAX_EVENT_BYTES
    fields: frozenset[str] = PUBLIC_FIELDS  # of the application's hash, besides status and owner
    index: bool = True  # of each user's jobs

    @property
    def verb(self) -> str:
        """The command that announces an event."""
        return "SPUBLISH" if self.keys.sharded else "PUBLISH"

    def on(self, *, cluster: bool) -> Publication:
        """The same on a cluster, or on a single Redis."""
        return replace(self, keys=replace(self.keys, sharded=cluster))

    def watchers(self, job: JobId) -> tuple[str, str]:
        """The channel of the job, and the word that makes PUBSUB count its subscribers."""
        return self.keys.events(job), "SHARDNUMSUB" if self.keys.sharded else "NUMSUB"

    @property
    def ends(self) -> frozenset[str]:
        """The statuses that end a job: `terminal`, and that of a lost worker's job."""
        return self.terminal | {LOST}

    @classmethod
    def of(cls, settings: Settings) -> Publication:
        """The publication that a hub with these settings expects."""
        return cls(
            keys=Keys(settings.key_template),
            retention=Retention(events=settings.window_events),
            terminal=settings.terminal_statuses,
            limit=settings.max_event_bytes,
            fields=settings.public_fields | settings.shared_by,
            index=settings.my_jobs,
        )

    def prepare(
        self, job: JobId, events: Sequence[tuple[str, str]], *, once: str | None
    ) -> tuple[list[str], list[str | int]]:
        """KEYS and ARGV of publish.lua for `events`, each a body (JSON text) and its status or ""."""
        return self._prepare(job, events, once=once)

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
        return self._prepare(job, [(dumps(fields), LOST)], once=None, only_if="lapsed")

    def prepare_job(self, job: JobId, fields: Mapping[str, str]) -> tuple[list[str], list[str | int]]:
        """KEYS and ARGV of create.lua."""
        pairs = [text for pair in fields.items() for text in pair]
        kept = self.retention
        return self._names(job), [kept.retry, kept.meta, fields["user_id"], *pairs]

    def prepare_restart(self, job: JobId, status: str) -> tuple[list[str], list[str | int]]:
        """KEYS and ARGV of restart.lua."""
        return self._names(job), [self.retention.retry, self.retention.meta, status]

    def prepare_lease(self, job: JobId, ttl: float, held: str) -> tuple[list[str], list[str | int]]:
        """KEYS and ARGV of lease.lua; `ttl` in seconds, 0 gives the lease back; `held` is its last answer."""
        keys, kept = self.keys, self.retention
        names = [keys.job(job), keys.meta(job)]
        return names, [int(ttl * 1000), held, kept.meta, *sorted(self.terminal)]

    def prepare_command(
        self, job: JobId, owner: str, text: str, *, once: str | None
    ) -> tuple[list[str], list[str | int]]:
        """KEYS and ARGV of command.lua."""
        hash_, meta, _, key = self._names(job, f"given:{once}" if once else None)  # not a worker's key
        kept = self.retention
        lives = [kept.commands, kept.once if once else kept.retry]
        return [hash_, meta, self.keys.commands(job), key], [
            MOST_COMMANDS,
            *lives,
            owner,
            text,
            *sorted(self.ends),
        ]

    def prepare_listen(self, job: JobId, seconds: float, handled: str) -> tuple[list[str], list[str | int]]:
        """KEYS and ARGV of listen.lua; `seconds` for which the worker counts as listening, 0 if it stops."""
        keys = self.keys
        names = [keys.job(job), keys.meta(job), keys.commands(job)]
        return names, [int(seconds * 1000), handled, self.retention.meta, *sorted(self.ends)]

    def _prepare(
        self, job: JobId, events: Sequence[tuple[str, str]], *, once: str | None, only_if: str = ""
    ) -> tuple[list[str], list[str | int]]:
        kept = self.retention
        hash_, meta, log, key = self._names(job, once)
        lives = [kept.events, kept.idle, kept.ended, kept.meta, kept.once if once else kept.retry]
        terminal = sorted(self.ends)
        texts = [text for event in events for text in event]
        return [hash_, meta, log, self.keys.events(job), key], [
            *lives,
            only_if,
            self.verb,
            len(terminal),
            *terminal,
            *texts,
        ]

    def _names(self, job: JobId, once: str | None = None) -> list[str]:
        keys = self.keys
        return [keys.job(job), keys.meta(job), keys.log(job), keys.once(job, once or uuid.uuid4().hex)]


@dataclass(frozen=True, slots=True)
class Published:
    """What publish.lua answered: the last id, whether the job has an owner, and the terminal statuses of a
    hub that has others than this publisher ("" if none has).
    """

    last: EventId
    is_owned: bool
    others: str = ""


def interpret(job: JobId, reply: Iterable[bytes | str]) -> Published:
    """Raises JobEnded after a terminal event."""
    verdict, value, owned, *others = _words(reply)
    if verdict == "ended":
        raise JobEnded(f"job {job}: expected a job that runs, got one that is {value}")
    event_id = EventId.parse(value)
    assert event_id is not None, "the script answers with the id that XADD gave"
    return Published(event_id, verdict != "ok" or bool(owned), "".join(others))


def is_published(reply: Iterable[bytes | str]) -> bool:
    """Returns True if publish.lua published anything."""
    return _words(reply)[0] == "ok"


def interpret_job(job: JobId, reply: Iterable[bytes | str]) -> None:
    """Raises JobExists, as create.lua answers."""
    verdict, *_ = _words(reply)
    if verdict == "exists":
        raise JobExists(f"expected a new id, got {job!r}, which is taken")


def interpret_lease(job: JobId, reply: Iterable[bytes | str]) -> str:
    """Until when the lease holds, for the next `prepare_lease`. Raises JobEnded and JobNotFound, as lease.lua
    answers."""
    verdict, value, _ = _words(reply)
    if verdict == "ended":
        raise JobEnded(f"job {job}: expected a job that runs, got one that is {value}")
    if verdict == "unknown":
        raise JobNotFound(f"expected a job to hold a lease on, got {job!r}, which does not exist")
    return value


def interpret_restart(job: JobId, reply: Iterable[bytes | str]) -> int:
    """The number of the attempt. Raises JobNotFound, as restart.lua answers."""
    verdict, value, _ = _words(reply)
    if verdict == "unknown":
        raise JobNotFound(f"expected a job to restart, got {job!r}, which does not exist")
    return int(value)


def interpret_command(job: JobId, reply: Iterable[bytes | str]) -> str:
    """The id of the command. Raises JobNotFound, JobEnded, NobodyListens, TooManyCommands, as command.lua
    answers."""
    verdict, value = _words(reply)
    match verdict:
        case "unknown":
            raise JobNotFound(f"expected the job of its owner, got {job!r}, which has another, or none")
        case "ended":
            raise JobEnded(f"job {job}: expected a job that runs, got one that is {value}")
        case "nobody":
            raise NobodyListens(f"expected a worker that has a lease on job {job} or listens, got none")
        case "full":
            raise TooManyCommands(
                f"expected at most {MOST_COMMANDS} commands that wait for job {job}'s worker"
            )
        case _:
            return value


def interpret_listen(job: JobId, reply: Iterable[bytes | str]) -> JobCommand | None:
    """The command that waits the longest, or None. Raises JobEnded, as listen.lua answers."""
    verdict, value, text = _words(reply)
    if verdict == "ended":
        raise JobEnded(f"job {job}: expected a job that runs, got one that is {value}")
    return command_of(value, text) if value else None


def _words(reply: Iterable[bytes | str]) -> list[str]:
    return [part.decode() if isinstance(part, bytes) else part for part in reply]
