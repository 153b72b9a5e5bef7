"""What a WebSocket client may say: parse a command, and the limits on saying it. Pure.

Invariant: an unknown or malformed command costs one `error` frame and nothing else.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Literal, cast

from hub.job.cursor import Wish
from hub.job.event import JobId, job_id
from hub.job.nesting import TOO_DEEP, is_too_deep

MAX_BYTES = 64 * 1024
"""Largest message from a client: a subscribe with a hundred types is 3 KB."""

BURST = 200
"""Frames from a client at once, commands and control frames: a dashboard that subscribes to its hundred jobs, twice."""

RATE = 20.0
"""The same per second in the long run; a browser sends a Pong every 15 s."""

Op = Literal["subscribe", "unsubscribe", "state", "ping"]
_OPS = ("subscribe", "unsubscribe", "state", "ping")


@dataclass(frozen=True, slots=True)
class Command:
    """One command. `ref` is the client's own and comes back in the answer."""

    op: Op
    ref: Any
    job: JobId | None
    wish: Wish


class Malformed(Exception):
    """The message is not a command; `code` and the text are for the client."""

    def __init__(self, code: str, message: str, ref: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.ref = ref


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def parse(text: str) -> Command:
    """Read one message. Raises Malformed."""
    if is_too_deep(text):
        raise Malformed("malformed", TOO_DEEP)
    try:
        value = json.loads(text, parse_constant=_refuse)
    except ValueError:
        raise Malformed("malformed", "expected a JSON object, got something else") from None
    if not isinstance(value, dict):
        raise Malformed("malformed", "expected a JSON object, got something else")
    ref = value.get("ref")
    if not isinstance(ref, str | int | float | None) or len(str(ref)) > 128 or ref in (math.inf, -math.inf):
        raise Malformed("malformed", "expected ref to be a number or a short string, got something else")
    op = value.get("op")
    if op not in _OPS:
        raise Malformed("unknown_op", f"expected op to be one of {', '.join(_OPS)}, got something else", ref)
    return Command(cast(Op, op), ref, _job(value, ref), _wish(value, ref))


def _job(value: dict[str, Any], ref: Any) -> JobId | None:
    job = value.get("job")
    if job is None:
        return None
    known = job_id(job) if isinstance(job, str) else None
    if known is None:
        raise Malformed("not_found", "Job not found", ref)
    return known


def _wish(value: dict[str, Any], ref: Any) -> Wish:
    after, origin, types = value.get("after"), value.get("from"), value.get("types")
    if not isinstance(after, str | None) or not isinstance(origin, str | None):
        raise Malformed("malformed", "expected after and from to be strings, got something else", ref)
    if types is not None and not (isinstance(types, list) and all(isinstance(name, str) for name in types)):
        raise Malformed("malformed", "expected types to be a list of strings, got something else", ref)
    return Wish.parse(cursor=after, origin=origin, types=",".join(types or []))


def spend(due: float, now: float) -> float | None:
    """Take one from a budget of `BURST` at once and `RATE` a second; None when there is none left.

    `due` is all there is to remember, 0.0 at first: when the budget is full again, in loop time. (The generic cell rate
    algorithm, ITU-T I.371: one number per client where a token bucket has two.)
    """
    later = max(due, now) + 1 / RATE
    return later if later - now <= BURST / RATE + 1e-6 else None  # the sums are rounded
