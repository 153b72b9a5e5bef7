"""Watches many jobs from Python over one connection, as a dashboard does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any

from hub.client.client import is_later
from hub.client.following import FULL, Following, Token
from hub.client.stream import Stream

GONE = ("not_found", "malformed", "too_many_jobs")
"""Errors of a subscription after which another try is of no use."""

AGAIN = {"resume": 0.0, "unavailable": 1.0, "overloaded": FULL}
"""Errors after which it is tried again, with the next frame after so many seconds; a heartbeat is one."""


async def dashboard(
    url: str,
    jobs: Iterable[str],
    token: Token = "",
    *,
    from_: str | None = None,
    types: Iterable[str] = (),
    headers: Mapping[str, str] | None = None,
    deadline: float | None = None,
) -> AsyncGenerator[dict[str, Any], None]:
    """Yields every frame of `jobs` (at most 100), each with its `job_id`, until all of them have ended.

    A job that is not this user's gives one frame of type `error` with the code `not_found`, and is left out
    from then on. Options and errors are those of `watch`; the connection is a WebSocket. Cancel-safe.
    """
    more = {key: value for key, value in (("from", from_), ("types", list(types))) if value}
    watching = _Board(
        url, jobs, more, token=token, headers=headers or {}, names=["websocket"], deadline=deadline
    )
    try:
        while (frame := await watching.receive()) is not None:
            yield frame
    finally:
        await watching.aclose()


class _Board(Following):
    """The jobs that have not ended, each with its cursor."""

    def __init__(self, url: str, jobs: Iterable[str], options: Mapping[str, Any], **more: Any) -> None:
        super().__init__(url, "these jobs", **more)
        self._options = options
        self._after: dict[str, str | None] = dict.fromkeys(jobs)
        self._asked: Stream | None = None  # the connection on which they are subscribed
        self._again: dict[str, float] = {}  # loop time from which a job is subscribed again
        self.is_over = not self._after

    def address(self) -> str:
        """See `Following`."""
        return f"{self.url.rstrip('/')}/api/events/ws"

    async def opened(self, stream: Stream) -> None:
        """See `Following`."""
        now = asyncio.get_running_loop().time()
        jobs = (
            self._after
            if self._asked is not stream
            else [one for one, due in self._again.items() if due <= now]
        )
        self._asked = stream
        for job in list(jobs):
            self._again.pop(job, None)
            after = self._after[job]
            where = {**self._options, "after": after} if after else self._options
            await stream.send({"op": "subscribe", "job": job, "ref": job[:128], **where})

    def is_news(self, frame: dict[str, Any]) -> bool:
        """See `Following`."""
        job, event_id, kind = str(frame.get("job_id", "")), frame.get("id"), frame.get("type")
        if job not in self._after:
            return event_id is None
        after = self._after[job]
        if event_id is not None:
            if after is not None and not is_later(str(event_id), after):
                return False
            self._after[job] = str(event_id)
        elif kind in ("subscribed", "state"):
            self._after[job] = frame.get("position") or after
        elif kind == "error" and frame.get("code") in AGAIN:
            self._again[job] = asyncio.get_running_loop().time() + AGAIN[frame["code"]]
            return False
        elif kind == "end" or (kind == "error" and frame.get("code") in GONE):
            del self._after[job]
            self.is_over = not self._after
        return True
