"""What one process holds and has done, in numbers. Counted as things happen, so that asking costs nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from hub.timings import Timings


def _gauge(words: str) -> Any:
    return field(default=0, metadata={"kind": "gauge", "words": words})


def _counter(words: str) -> Any:
    return field(default=0, metadata={"kind": "counter", "words": words})


def _refusal() -> Any:
    """One reason of the metric `auth_refused`; the reason is the rest of the field's name."""
    words = "Requests that were refused, by the reason that only the operator learns"
    return field(default=0, metadata={"kind": "counter", "words": words, "group": "auth_refused"})


def _closing() -> Any:
    """One reason of the metric `closed`, in the same way."""
    words = "Viewers that have gone, by the reason"
    return field(default=0, metadata={"kind": "counter", "words": words, "group": "closed"})


@dataclass(slots=True)
class Totals:
    """The numbers of one process. Each is a metric `hub_<name>`, or a reason of one; each adds up over
    processes.

    One instance is shared by all parts of a hub, and each part counts its own numbers in it. `timings`: how
    long things take.
    """

    viewers: int = _gauge("Viewers connected now")
    jobs: int = _gauge("Jobs watched now")
    window_bytes: int = _gauge("Bytes of event bodies in memory")
    state_bytes: int = _gauge("Bytes of the states of jobs in memory")
    inbox: int = _gauge("Messages that wait for a feed")
    inbox_bytes: int = _gauge("Bytes of messages that wait for a feed")
    past_bytes: int = _gauge("Bytes of retained events that were read for viewers, and are not sent yet")
    held_bytes: int = _gauge("Bytes that events take in memory, about; bounded by HUB_MEMORY")
    memory_bytes: int = _gauge("Bytes that events may take in memory: HUB_MEMORY")
    connected: int = _gauge("Processes whose subscription connection to Redis is up")
    shards: int = _gauge("Primaries of the Redis cluster, summed over processes; of a single Redis 1")
    shards_connected: int = _gauge("Of these, those whose subscription connection is up")
    draining: int = _gauge("Processes that are draining their viewers")
    opened: int = _counter("Viewers that joined")
    refused: int = _counter("Viewers refused at a cap")
    unavailable: int = _counter("Viewers refused because Redis did not answer")
    deliveries: int = _counter("Payloads written to viewers")
    heals: int = _counter("Holes for which the retained log was read")
    gaps: int = _counter("Gap frames sent to a job's viewers")
    resyncs: int = _counter("Resync frames sent to a job's viewers")
    messages: int = _counter("Pub/Sub messages received")
    strangers: int = _counter(
        "Messages dropped because their id is of a log that this database does not have"
    )
    redis_reconnects: int = _counter("Subscription connections lost, and failed attempts to connect")
    lagged: int = _counter("Viewers closed because they fell out of the window")
    blocked: int = _counter("Viewers cut off because they took no bytes for the send timeout")
    moved: int = _counter("Viewers told to reconnect elsewhere because this process ends")
    aged: int = _counter("Streams ended by age, to be resumed")
    checks_found: int = _counter("Position checks that found something to look into")
    commands: int = _counter("Commands that were kept for a worker")
    commands_refused: int = _counter("Commands that were refused")
    workers_lost: int = _counter("Jobs whose worker's lease lapsed")
    stalls: int = _counter("Times the event loop was blocked for half a second or more")
    closed_left: int = _closing()
    closed_ended: int = _closing()
    closed_restart: int = _closing()
    closed_aged: int = _closing()
    closed_expired: int = _closing()
    closed_revoked: int = _closing()
    closed_too_slow: int = _closing()
    closed_blocked: int = _closing()
    closed_unanswered: int = _closing()
    closed_not_found: int = _closing()
    closed_gap: int = _closing()
    closed_overloaded: int = _closing()
    closed_flood: int = _closing()
    closed_not_text: int = _closing()
    closed_too_big: int = _closing()
    closed_failed: int = _closing()
    auth_refused_missing: int = _refusal()
    auth_refused_malformed: int = _refusal()
    auth_refused_key: int = _refusal()
    auth_refused_algorithm: int = _refusal()
    auth_refused_signature: int = _refusal()
    auth_refused_expired: int = _refusal()
    auth_refused_early: int = _refusal()
    auth_refused_issuer: int = _refusal()
    auth_refused_audience: int = _refusal()
    auth_refused_party: int = _refusal()
    auth_refused_claims: int = _refusal()
    auth_refused_origin: int = _refusal()
    auth_refused_revoked: int = _refusal()
    auth_refused_ticket: int = _refusal()
    auth_refused_owner: int = _refusal()
    auth_refused_unknown: int = _refusal()
    timings: Timings = field(default_factory=Timings, kw_only=True, compare=False)

    def __add__(self, other: Totals) -> Totals:
        numbers = (getattr(self, name) + getattr(other, name) for name in NAMES)
        return Totals(*numbers, timings=self.timings + other.timings)

    def counters(self) -> Totals:
        """The same with every gauge at 0: what is left of a process that is gone."""
        numbers = {one.name: getattr(self, one.name) for one in FIELDS if is_counter(one)}
        return Totals(**numbers, timings=self.timings)


FIELDS = tuple(one for one in fields(Totals) if one.metadata)
NAMES = tuple(one.name for one in FIELDS)


def is_counter(one: Any) -> bool:
    """Returns True if a field of `Totals` only grows."""
    return bool(one.metadata["kind"] == "counter")
