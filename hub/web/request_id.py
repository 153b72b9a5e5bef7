"""The id by which a request is known in the logs of whoever passed it on."""

from __future__ import annotations

import re

_ID = re.compile(r"[A-Za-z0-9_.:/+=@-]{1,128}", re.ASCII)

_TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?", re.ASCII)
"""W3C Trace Context: version, trace, parent, flags."""


def request_id(given: str | None, traceparent: str | None) -> str:
    """`X-Request-Id`, or the trace of `traceparent`; "" if neither is one."""
    if given and _ID.fullmatch(given):
        return given
    found = _TRACE.fullmatch(traceparent or "")
    return found[1] if found is not None else ""
