"""Parses the commands of WebSocket clients, and limits their rate. Pure.

Invariant: an unknown or malformed command is answered with one `error` frame and has no other effect.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast, get_args

from hub.job.cursor import Wish
from hub.job.event import JobId, job_id
from hub.job.nesting import TOO_DEEP, is_too_deep

MAX_BYTES = 64 * 1024
"""Largest message of a client, in bytes; a subscribe with a hundred types has 3 KB."""

BURST = 200
"""Frames (commands and control frames) that a client may send at once: a dashboard may subscribe to its
hundred jobs twice."""

RATE = 20.0
"""Frames per second that a client may send in the long run; a browser sends a Pong every 15 s."""

FREE_BYTES = 16 * 1024
"""Bytes of answers that cost as much as a frame: a state may have a megabyte."""

Op = Literal["subscribe", "unsubscribe", "state", "ping", "authenticate", "command"]
_OPS = get_args(Op)


class Order(NamedTuple):
    """What a `command` is about: a command to the worker, as the client wrote it."""

    name: object
    args: object
    key: object


@dataclass(frozen=True, slots=True)
class Command:
    """One command. `ref` is the client's value that the answer repeats."""

    op: Op
    ref: Any
    job: JobId | None
    wish: Wish
    token: str | None = None
    viewers: bool = False  # asked for with a subscription
    order: Order | None = None  # of a `command`
    mine: bool = False  # all jobs of the user, of a `subscribe` or `unsubscribe`


class Malformed(Exception):
    """The message is not a valid command. `code` and the text are sent to the client."""

    def __init__(self, code: str, message: str, ref: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.ref = ref


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def parse(text: str) -> Command:
    """Parse one message of a client. Raises Malformed."""
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
    token = value.get("token") if op == "authenticate" else None
    if not isinstance(token, str | None):
        raise Malformed("malformed", "expected token to be a string, got something else", ref)
    viewers = value.get("viewers", False)
    if not isinstance(viewers, bool):
        raise Malformed("malformed", "expected viewers to be true or false, got something else", ref)
    mine = value.get("mine", False)
    if not isinstance(mine, bool):
        raise Malformed("malformed", "expected mine to be true or false, got something else", ref)
    order = Order(value.get("name"), value.get("args", {}), value.get("key")) if op == "command" else None
    return Command(cast(Op, op), ref, _job(value, ref), _wish(value, ref), token, viewers, order, mine)


def _job(value: dict[str, Any], ref: Any) -> JobId | None:
    job = value.get("job")
    if job is None:
        return None
    known = job_id(job) if isinstance(job, str) else None
    if known is None:
        raise Malformed("not_found", "Job not found", ref)
    return known


def _wish(value: dict[str, Any], ref: Any) -> Wish:
    after, start, types = value.get("after"), value.get("from"), value.get("types")
    if not isinstance(after, str | None) or not isinstance(start, str | None):
        raise Malformed("malformed", "expected after and from to be strings, got something else", ref)
    if types is not None and not (isinstance(types, list) and all(isinstance(name, str) for name in types)):
        raise Malformed("malformed", "expected types to be a list of strings, got something else", ref)
    return Wish.parse(cursor=after, from_=start, types=",".join(types or []))


def spend(due: float, now: float) -> float | None:
    """Spend one frame of a client's budget, which is `BURST` at once and `RATE` per second.

    `due` is the loop time at which the budget is full again, 0.0 at first. Returns the new `due`, or None if
    the budget is used up. This is the generic cell rate algorithm (ITU-T I.371): it stores one number per
    client, where a token bucket stores two.
    """
    later = max(due, now) + 1 / RATE
    return later if later - now <= BURST / RATE + 1e-6 else None  # 1e-6 allows for rounding in the sums


def charge(due: float, answered: int) -> float:
    """Charge for an answer of so many bytes; returns the new `due`."""
    return due + answered / FREE_BYTES / RATE
