"""Watches a job from Python: an async iterator over the job's frames that reconnects and resumes by itself.

Invariant: every event comes once and in order, or a `gap` or `resync` frame says that some are lost. The
iterator ends after the frame `end`.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from hub.errors import JobNotFound

logger = logging.getLogger("hub.client")

BACKOFF = (0.2, 5.0)
"""Seconds before the first and the slowest retry. The delay doubles in between, and is jittered."""

SILENCE = 40.0
"""Seconds without a frame after which a connection counts as dead that has not said how often it beats."""

SLACK = 10.0
"""Seconds beyond two announced heartbeats after which a connection counts as dead."""

_FINAL = {1000, 4404}
"""Close codes after which a retry is useless: the job has ended, or is no longer this user's."""


Token = str | Callable[[], str | Awaitable[str]]
"""A token, or what gives one: it is called before each connection, so that a session may outlive its tokens."""


async def watch(
    url: str, job: str, token: Token, *, after: str | None = None
) -> AsyncIterator[dict[str, Any]]:
    """Yields every frame of `job`, in the form that docs/protocol.md gives for WebSocket.

    `url` is the hub's (http or https). `after` is the id of an event to resume after. Retries while the hub
    cannot be reached. Raises JobNotFound if this token's user has no such job. Cancel-safe.
    """
    delay = BACKOFF[0]
    while True:
        headers = await _headers(token)
        try:
            async with connect(
                _address(url, job, after), additional_headers=headers, max_size=None
            ) as socket:
                silence = SILENCE
                while True:
                    async with asyncio.timeout(silence):
                        frame = json.loads(await socket.recv())
                    delay = BACKOFF[0]  # not at the handshake: a full hub closes right after it
                    if frame.get("type") == "hello" and "id" not in frame:
                        silence = 2 * frame["heartbeat_ms"] / 1000 + SLACK
                    after = _cursor(frame) or after
                    yield frame
                    if frame.get("type") == "end" and "id" not in frame:
                        return
        except InvalidStatus as error:
            if error.response.status_code == JobNotFound.status:
                raise JobNotFound(f"expected a job of this token's user, got {job!r}") from error
            logger.warning("the hub answered %d, retrying", error.response.status_code)
        except ConnectionClosed as error:
            if error.rcvd is not None and error.rcvd.code in _FINAL:
                return
            logger.warning("the connection was lost (%s), resuming", error)
        except (OSError, InvalidHandshake, TimeoutError) as error:
            logger.warning("the hub cannot be reached (%s), retrying", str(error) or type(error).__name__)
        await asyncio.sleep(delay * random.uniform(0.5, 1))
        delay = min(delay * 2, BACKOFF[1])


async def _headers(token: Token) -> dict[str, str]:
    given = token() if callable(token) else token
    text = await given if inspect.isawaitable(given) else given
    return {"Authorization": f"Bearer {text}"} if text else {}


def _cursor(frame: dict[str, Any]) -> str | None:
    """Returns the id to resume after: an event's own, or a `state`'s position, which replaces lost events."""
    return frame.get("id") or (frame.get("position") if frame.get("type") == "state" else None)


def _address(url: str, job: str, after: str | None) -> str:
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    path = f"{parts.path.rstrip('/')}/api/jobs/{quote(job, safe='')}/events/ws"
    query = urlencode({"last_event_id": after}) if after else ""
    return urlunsplit((scheme, parts.netloc, path, query, ""))
