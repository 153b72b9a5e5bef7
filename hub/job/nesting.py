"""How deep JSON may be nested: a limit of our own, because each interpreter has another one. Pure.

Invariant: text that passes `is_too_deep` is read by every supported Python, however it is called.
"""

from __future__ import annotations

MAX_DEPTH = 64
"""Levels of arrays and objects, the outermost included. Events have 2 to 5, and serde_json stops at 128."""

TOO_DEEP = f"expected at most {MAX_DEPTH} levels of arrays and objects, got more"
"""The message to whoever wrote such text: a worker, a client or the command line."""

_OPEN = ord("[")
_SAME_KIND = bytes.maketrans(b"{}", b"[]")
_OTHERS = bytes(set(range(256)) - set(b'[]{}"'))


def is_too_deep(text: str) -> bool:
    """Returns True if a JSON parser that reads `text` would open more than `MAX_DEPTH` levels."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:  # nearly every event: two scans in C
        return False
    depth = 0
    for bracket in _brackets(text):
        depth += 1 if bracket == _OPEN else -1
        if depth > MAX_DEPTH:
            return True
    return False


def _brackets(text: str) -> bytes:
    """The brackets outside of strings, all as `[` and `]`. Linear, and in C: an event may have 1 MiB."""
    data = text.encode("utf-8", "replace").replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = data.translate(_SAME_KIND, _OTHERS)
    marks = marks.replace(b'""', b"")  # a pair of quotes changes nothing about which brackets are in a string
    return b"".join(marks.split(b'"')[::2])
