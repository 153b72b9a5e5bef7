"""A command that somebody who watches a job gives to its worker: "cancel", "approve". Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hub.errors import InvalidCommand
from hub.job.nesting import TOO_DEEP, is_too_deep

MAX_ARGS = 4096
"""Bytes of the arguments of a command, as JSON text."""

MAX_NAME = 64
"""Characters of a command's name."""

CANCEL = "cancel"
"""The command that sets `cancelled` of a lease."""


@dataclass(frozen=True, slots=True)
class JobCommand:
    """`id` orders the commands of a job; `user` gave it."""

    id: str
    name: str
    user: str
    args: Mapping[str, Any] = field(default_factory=dict)


def command_text(name: str, user: str, args: Mapping[str, Any]) -> str:
    """The command as Redis keeps it. Raises InvalidCommand for arguments that are too many bytes."""
    text = json.dumps(args, separators=(",", ":"), ensure_ascii=False)
    if is_too_deep(text):
        raise InvalidCommand(TOO_DEEP)
    if (size := len(text.encode("utf-8", "surrogatepass"))) > MAX_ARGS:
        raise InvalidCommand(f"expected arguments of at most {MAX_ARGS} bytes, got {size}")
    return json.dumps({"name": name, "user": user, "args": args}, separators=(",", ":"))


def command_of(id_: str, text: str) -> JobCommand:
    """The command that Redis kept; one without a name for text that is none of ours."""
    try:
        said = json.loads(text)
        return JobCommand(id_, str(said["name"]), str(said["user"]), dict(said["args"]))
    except (ValueError, KeyError, TypeError):
        return JobCommand(id_, "", "")
