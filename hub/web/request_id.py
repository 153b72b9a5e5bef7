"""The id by which a request is known in the logs of whoever passed it on."""

from __future__ import annotations

import re

_ID = re.compile(r"[A-Za-z0-9_.:/+=@-]{1,128}", re.ASCII)

_TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?", re.ASCII)
"""W3C Trace Context: version, trace, parent, flags."""


def request_id(given: str | None, traceparent: str | None) -> tuple[str, str]:
    """`X-Request-Id`, or else the trace of `traceparent`; and `traceparent`. Each "" if it is none."""
    found = _TRACE.fullmatch(traceparent) if traceparent else None
    trace = found[0] if found is not None else ""
    if given and _ID.fullmatch(given):
        return given, trace
    return (found[1], trace) if found is not None else ("", "")
