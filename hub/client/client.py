"""Watches a job from Python: an iterator over the job's frames that reconnects and resumes by itself.

Invariant: every event comes once and in order, or a `gap` or `resync` frame says that some are lost. The
iterator ends after the frame `end`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import httpx
from websockets.exceptions import InvalidHandshake

from hub.client.stream import Closed, OverSse, OverWebSocket, Refused, Stream, address
from hub.errors import InvalidSettings, JobNotFound

logger = logging.getLogger("hub.client")

BACKOFF = (0.2, 5.0)
"""Seconds before the first and the slowest retry. The delay doubles in between, and is jittered."""

FULL = 5.0
"""Seconds to wait at least for a hub that is full."""

FRUITLESS = 2
"""Tries of a transport without a frame, before the other one is tried: a proxy may eat upgrades."""

Token = str | Callable[[], str | Awaitable[str]]
"""A token, or what gives one: it is called before each connection, so that a session may outlive its tokens."""

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

    `url` is the hub's (http or https). `after` is the id of an event to resume after; without it `from_` is "start",
    "live" or "-20". `headers` go with each connection, for a cookie of your own. Retries while the hub cannot be
    reached, for `deadline` seconds at most (then TimeoutError). Raises JobNotFound if this user has no such job, or not
    any more, and InvalidSettings for a URL that is none. Cancel-safe.
    """
    if not url.startswith(("http://", "https://")):
        raise InvalidSettings(f"expected a URL with http:// or https://, got {url!r}")
    more = {name: value for name, value in (("from", from_), ("types", ",".join(types))) if value}
    names: list[str] = ["websocket", "sse"] if transport == "auto" else [transport]
    watching = _Watching(url, job, token, after, more, headers or {}, names, deadline)
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


class _Watching:
    """One watch over all its connections. `names` are the transports to try, in turn."""

    def __init__(
        self,
        url: str,
        job: str,
        token: Token,
        after: str | None,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        names: list[str],
        deadline: float | None,
    ) -> None:
        self._url = url
        self._job = job
        self._token = token
        self._after = after
        self._query = query
        self._more = headers
        self._names = names
        self._deadline = deadline
        self._end = math.inf if deadline is None else asyncio.get_running_loop().time() + deadline
        self._stream: Stream | None = None
        self._is_over = False
        self._tries = 0  # since the last frame
        self._wait: float | None = None  # seconds, as the hub asked for

    async def receive(self) -> dict[str, Any] | None:
        """The next frame that is news; None after the last one. Raises JobNotFound, and TimeoutError after the
        deadline."""
        while not self._is_over:
            frame = None
            try:
                frame = await self._next()
            except Refused as error:
                self._judge_refusal(error)
            except Closed as error:
                self._judge_close(error)
            except (OSError, InvalidHandshake, TimeoutError, httpx.HTTPError) as error:
                if asyncio.get_running_loop().time() >= self._end:
                    raise TimeoutError(f"expected the end of {self._job!r} in {self._deadline} s") from error
                logger.warning("the hub cannot be reached (%s), retrying", str(error) or type(error).__name__)
            if frame is None:
                await self._pause()
            elif self._is_news(frame):
                self._is_over = frame.get("type") == "end" and "id" not in frame
                return frame
        return None

    async def aclose(self) -> None:
        """Close the connection."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.aclose()

    async def _next(self) -> dict[str, Any] | None:
        async with self._until():
            if self._stream is None:
                self._wait = None
                self._stream = OverSse() if self._names[0] == "sse" else OverWebSocket()
                await self._stream.open(self._address(), await self._headers())
            return await self._stream.receive()

    async def _pause(self) -> None:
        """Wait before the next connection; after some tries without a frame it is over the other transport."""
        await self.aclose()
        if self._is_over:
            return
        self._tries += 1
        if self._tries % FRUITLESS == 0:
            self._names.append(self._names.pop(0))
        try:
            async with self._until():
                await asyncio.sleep(self._delay() if self._wait is None else self._wait)
        except TimeoutError as error:
            raise TimeoutError(f"expected the end of {self._job!r} in {self._deadline} s") from error

    def _until(self) -> asyncio.Timeout:
        """Bounds our own waits, and not the caller's work between two frames."""
        return asyncio.timeout_at(None if self._end == math.inf else self._end)

    def _address(self) -> str:
        query = {**self._query, **({"last_event_id": self._after} if self._after else {})}
        return address(self._url, self._job, "stream" if self._names[0] == "sse" else "ws", query)

    async def _headers(self) -> dict[str, str]:
        given = self._token() if callable(self._token) else self._token
        text = await given if inspect.isawaitable(given) else given
        return {**self._more, **({"Authorization": f"Bearer {text}"} if text else {})}

    def _is_news(self, frame: dict[str, Any]) -> bool:
        """Returns False for what was yielded before. Keeps the cursor, and what the hub asks for."""
        self._tries = 0  # not at the handshake: a full hub closes right after it
        event_id, kind = frame.get("id"), frame.get("type")
        if event_id is not None:
            if self._after is not None and not _is_later(str(event_id), self._after):
                return False
            self._after = str(event_id)
        elif kind == "reconnect":
            self._wait = frame.get("after_ms", 0) / 1000
        elif kind in ("hello", "state"):
            self._after = frame.get("position") or self._after
        return True

    def _judge_refusal(self, error: Refused) -> None:
        """Raises JobNotFound if another try is of no use."""
        if error.status in (404, 431):
            raise JobNotFound(f"expected a job of this token's user, got {self._job!r}") from error
        logger.warning("the hub answered %d, retrying", error.status)
        self._wait = error.after
        if error.status == 503 and error.after is None:
            self._wait = FULL * random.uniform(1, 2)

    def _judge_close(self, error: Closed) -> None:
        """The same; 1000 is the end."""
        self._is_over = error.code == 1000
        if error.code == 4404:
            raise JobNotFound(f"expected a job that this user may watch, got {self._job!r}") from error
        if error.code == 4401:
            if not callable(self._token):
                raise JobNotFound("expected a token that is valid, got one that has expired") from error
            self._wait = 0.0
        if error.code == 4013 and self._wait is None:
            self._wait = FULL * random.uniform(1, 2)
        if not self._is_over:
            logger.warning("%s, resuming", error)

    def _delay(self) -> float:
        first, longest = BACKOFF
        ceiling = min(longest, first * 2.0 ** min(self._tries - 1, 20))
        return float(ceiling * random.uniform(0.5, 1))


def _is_later(one: str, other: str) -> bool:
    """Returns True if an event id comes after another one, or is of another numbering."""
    (epoch, _, seq), (before, _, last) = one.partition("-"), other.partition("-")
    return epoch != before or not (seq.isdecimal() and last.isdecimal()) or int(seq) > int(last)
