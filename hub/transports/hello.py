"""The first frame of a stream: what a client must know to keep the stream alive and to come back."""

from __future__ import annotations

import random
from typing import Any

from starlette.requests import HTTPConnection

from hub.engine.view import View
from hub.settings import Settings

ARRIVED_LATE = 1.0
"""Seconds between the accept of a WebSocket and a close that a client can do nothing about: the hub is full,
or the job was over on arrival. Clients that reset their backoff when a socket opens reconnect in a tight loop
otherwise.
"""


def retry_ms(settings: Settings) -> int:
    """Milliseconds until a client reconnects, jittered so that not all reconnect at once."""
    return int(settings.retry * random.uniform(0.8, 1.2) * 1000)


def hello(settings: Settings, retry: int, view: View | None = None) -> dict[str, Any]:
    """The fields of the `hello` frame. `retry` is in milliseconds; a dashboard has no view.

    `position` is null when frames about lost events follow: a client that is cut off before it has them must
    come back with its old cursor.
    """
    fields: dict[str, Any] = {"heartbeat_ms": int(settings.heartbeat * 1000), "retry_ms": retry}
    if view is not None:
        fields["position"] = None if view.preamble else str(view.seen)
        fields["attempt"] = view.job.attempt
    return fields


def is_browser(connection: HTTPConnection) -> bool:
    """Returns True for a request with the headers of a browser, whose pages see no status of a refusal.

    Sec-Fetch-* come from secure origins only, Origin with each WebSocket and each cross-origin request.
    """
    headers = connection.headers
    return "origin" in headers or "sec-fetch-mode" in headers or "sec-fetch-site" in headers
