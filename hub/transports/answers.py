"""The answers to commands, as JSON text."""

from __future__ import annotations

import json
from typing import Any

from hub.engine.view import View


def text(fields: dict[str, Any]) -> bytes:
    """Compact JSON text of an object."""
    return json.dumps(fields, separators=(",", ":"), allow_nan=False).encode()


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


def state_text(view: View, ref: Any) -> bytes:
    """The job's current state as a frame."""
    return splice(answer_text("state", ref), view.state_text())
