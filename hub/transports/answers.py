"""The answers to commands, as JSON text."""

from __future__ import annotations

import json
from typing import Any

from hub.engine.caller import Caller
from hub.engine.hub import Hub
from hub.engine.view import View
from hub.errors import HubError
from hub.job.event import JobId
from hub.transports.commands import Command

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def text(fields: dict[str, Any]) -> bytes:
    """Compact JSON text of an object."""
    return _encode(fields).encode()


def splice(head: bytes, body: str) -> bytes:
    """Join two JSON objects; the members of `body` stay as their producer wrote them."""
    rest = body.strip().encode()
    if head == b"{}":
        return rest
    inner = rest[1:].lstrip()
    return head[:-1] + (b"" if inner == b"}" else b",") + inner


def answer_text(kind: str, ref: Any, **fields: Any) -> bytes:
    """An answer, with the client's `ref` if there is one."""
    return text({"type": kind, **fields} if ref is None else {"type": kind, **fields, "ref": ref})


def error_text(code: str, words: str, ref: Any, **fields: Any) -> bytes:
    """An `error` frame; the socket stays open."""
    return answer_text("error", ref, code=code, message=words, **fields)


async def give(hub: Hub, caller: Caller, job: JobId, command: Command, **fields: Any) -> bytes:
    """Give a command to a job's worker; the answer is a frame, with `fields`."""
    assert command.order is not None, "it is a `command`"
    try:
        given = await hub.desk.give(caller, job, *command.order)
    except HubError as error:
        return error_text(error.code, error.detail, command.ref, **fields)
    return answer_text("accepted", command.ref, **fields, command=given)


async def read_state(view: View, ref: Any, **fields: Any) -> bytes:
    """The job's current state as a frame, or an `error` with `fields` while Redis does not answer."""
    try:
        await view.reach()
    except HubError as error:
        return error_text("unavailable", error.detail, ref, **fields)
    return state_text(view, ref)


def state_text(view: View, ref: Any) -> bytes:
    """The job's current state as a frame, of a view that is whole."""
    return splice(answer_text("state", ref), view.state_text())
