"""The process in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Totals:
    """The process in numbers; `Hub.totals` makes it. Every one of them adds up over processes."""

    viewers: int
    jobs: int
    opened: int
    refused: int
    unavailable: int
    deliveries: int
    window_bytes: int
    inbox: int
    heals: int
    gaps: int
    resyncs: int
    messages: int
    redis_reconnects: int
    lagged: int
    blocked: int
    moved: int
    aged: int
    checks_found: int
    workers_lost: int
    stalls: int
    connected: int
    draining: int
