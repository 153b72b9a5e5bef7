"""Watches a job from Python: an iterator over the job's frames that reconnects and resumes by itself.

Invariant: every event comes once and in order, or a `gap` or `resync` frame says that some are lost. The
iterator ends after the frame `end`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from typing import Any, Literal

from hub.client.following import Following, Token
from hub.client.stream import address

Transport = Literal["auto", "websocket", "sse"]


async def watch(
    url: str,
    job: str,
    token: Token = "",
    *,
    after: str | None = None,
    from_: str | None = None,
    types: Iterable[str] = (),
    headers: Mapping[str, str] | None = None,
    transport: Transport = "auto",
    deadline: float | None = None,
) -> AsyncGenerator[dict[str, Any], None]:
    """Yields every frame of `job`, in the form that docs/protocol.md gives for WebSocket.

    `url` is the hub's (http or https). `after` is the id of an event to resume after; without it `from_` is
    "start", "live" or "-20". `headers` go with each connection, for a cookie of your own. Retries while the
    hub cannot be reached, for `deadline` seconds at most (then TimeoutError). Raises JobNotFound if this user
    has no such job, or not any more, and InvalidSettings for a URL that is none. Cancel-safe.
    """
    more = {name: value for name, value in (("from", from_), ("types", ",".join(types))) if value}
    names: list[str] = ["websocket", "sse"] if transport == "auto" else [transport]
    watching = _Watching(
        url, job, after, more, token=token, headers=headers or {}, names=names, deadline=deadline
    )
    try:
        while (frame := await watching.receive()) is not None:
            yield frame
    finally:
        await watching.aclose()


def watch_sync(url: str, job: str, token: Token = "", **options: Any) -> Iterator[dict[str, Any]]:
    """The same for code without an event loop: a script, a notebook cell, a thread. Options as of `watch`.

    The connection rests while the caller works on a frame; what came meanwhile is resumed.
    """
    with asyncio.Runner() as runner:
        frames = watch(url, job, token, **options)

        async def following() -> dict[str, Any] | None:
            return await anext(frames, None)

        try:
            while (frame := runner.run(following())) is not None:
                yield frame
        finally:
            runner.run(frames.aclose())


class _Watching(Following):
    """One job."""

    def __init__(
        self, url: str, job: str, after: str | None, query: Mapping[str, str], **options: Any
    ) -> None:
        super().__init__(url, repr(job), **options)
        self._job = job
        self._after = after
        self._query = query

    def address(self) -> str:
        """See `Following`."""
        query = {**self._query, **({"last_event_id": self._after} if self._after else {})}
        return address(self.url, self._job, "stream" if self.names[0] == "sse" else "ws", query)

    def is_news(self, frame: dict[str, Any]) -> bool:
        """See `Following`."""
        event_id, kind = frame.get("id"), frame.get("type")
        if event_id is not None:
            if self._after is not None and not is_later(str(event_id), self._after):
                return False
            self._after = str(event_id)
        elif kind in ("hello", "state"):
            self._after = frame.get("position") or self._after
        elif kind == "end":
            self.is_over = True
        return True


def is_later(one: str, other: str) -> bool:
    """Returns True if an event id comes after another one, or is of another numbering."""
    (epoch, _, seq), (before, _, last) = one.partition("-"), other.partition("-")
    return epoch != before or not (seq.isdecimal() and last.isdecimal()) or int(seq) > int(last)
