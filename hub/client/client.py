"""Watch a job from Python: an async iterator over its frames that resumes by itself.

Invariant: no event twice and none missing, or a `gap` or `resync` frame among them says so; it ends after `end`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from hub.errors import JobNotFound

log = logging.getLogger("hub.client")

BACKOFF = (0.2, 5.0)
"""Seconds before reconnecting, first and largest; doubled in between, jittered."""

SILENCE = 40.0
"""Seconds without a frame until the connection counts as dead: two heartbeats of 15 s and some slack."""

_FINAL = {1000, 4404}  # the job ended; not ours any more


async def watch(url: str, job: str, token: str, *, after: str | None = None) -> AsyncIterator[dict[str, Any]]:
    """Every frame of `job` at the hub `url` (http or https), as docs/protocol.md has it for WebSocket.

    `after` is a cursor to go on from. Raises JobNotFound when the job is not there for this token; waits for a hub that
    is away. Cancel-safe.
    """
    delay = BACKOFF[0]
    while True:
        try:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            async with connect(
                _address(url, job, after), additional_headers=headers, max_size=None
            ) as socket:
                delay = BACKOFF[0]
                while True:
                    async with asyncio.timeout(SILENCE):
                        frame = json.loads(await socket.recv())
                    after = (
                        frame.get("id")
                        or (frame.get("position") if frame["type"] == "state" else None)
                        or after
                    )
                    yield frame
                    if frame["type"] == "end":
                        return
        except InvalidStatus as error:
            if error.response.status_code == JobNotFound.status:
                raise JobNotFound(f"expected a job of yours, got {job!r}, which is not") from error
            log.warning("the hub answered %d, trying again", error.response.status_code)
        except ConnectionClosed as error:
            if error.rcvd is not None and error.rcvd.code in _FINAL:
                return
            log.warning("the connection was lost (%s), resuming", error)
        except (OSError, InvalidHandshake, TimeoutError) as error:
            log.warning("the hub is not to be reached (%s), trying again", str(error) or type(error).__name__)
        await asyncio.sleep(delay * random.uniform(0.5, 1))
        delay = min(delay * 2, BACKOFF[1])


def _address(url: str, job: str, after: str | None) -> str:
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    path = f"{parts.path.rstrip('/')}/api/jobs/{quote(job, safe='')}/events/ws"
    query = urlencode({"last_event_id": after}) if after else ""
    return urlunsplit((scheme, parts.netloc, path, query, ""))
