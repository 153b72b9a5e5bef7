"""A connection to the hub after the other, for as long as there is something to see: reconnects, waits as the
hub asks, and stops where another try is of no use.

Invariant: a frame is given once. What it means, and where to resume, is for the subclass to say.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx
from websockets.exceptions import InvalidHandshake

from hub.client.stream import Closed, OverSse, OverWebSocket, Refused, Stream
from hub.errors import InvalidSettings, JobNotFound

logger = logging.getLogger("hub.client")

BACKOFF = (0.2, 5.0)
"""Seconds before the first and the slowest retry. The delay doubles in between, and is jittered."""

FULL = 5.0
"""Seconds to wait at least for a hub that is full."""

FRUITLESS = 2
"""Tries of a transport without a frame, before the other one is tried: a proxy may eat upgrades."""

Token = str | Callable[[], str | Awaitable[str]]
"""A token, or what gives one: it is called before each connection, so that a session may outlive its tokens.
"""


async def text_of(token: Token) -> str:
    """The token as it is now."""
    given = token() if callable(token) else token
    return await given if inspect.isawaitable(given) else given


class Following:
    """`what` is followed over the transports `names`, tried in turn, for `deadline` seconds at most."""

    def __init__(
        self,
        url: str,
        what: str,
        token: Token,
        headers: Mapping[str, str],
        names: list[str],
        deadline: float | None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise InvalidSettings(f"expected a URL with http:// or https://, got {url!r}")
        self.is_over = False
        self.url = url
        self._what = what
        self._token = token
        self._more = headers
        self.names = names
        self._deadline = deadline
        self._end = math.inf if deadline is None else asyncio.get_running_loop().time() + deadline
        self._stream: Stream | None = None
        self._tries = 0  # since the last frame
        self._wait: float | None = None  # seconds, as the hub asked for

    def address(self) -> str:
        """The URL of the next connection, with a cursor."""
        raise NotImplementedError

    async def opened(self, stream: Stream) -> None:
        """A connection is open, or has brought a frame: say what has to be said."""

    def is_news(self, frame: dict[str, Any]) -> bool:
        """Returns False for what was given before. Keeps the cursor, and sets `is_over` at the last frame."""
        raise NotImplementedError

    async def receive(self) -> dict[str, Any] | None:
        """The next frame that is news; None after the last one. Raises
        JobNotFound, and TimeoutError after the deadline.
        """
        while not self.is_over:
            frame = None
            try:
                frame = await self._next()
            except Refused as error:
                self._judge_refusal(error)
            except Closed as error:
                self._judge_close(error)
            except (OSError, InvalidHandshake, TimeoutError, httpx.HTTPError) as error:
                if asyncio.get_running_loop().time() >= self._end:
                    raise TimeoutError(f"expected the end of {self._what} in {self._deadline} s") from error
                logger.warning("the hub cannot be reached (%s), retrying", str(error) or type(error).__name__)
            if frame is None:
                await self._pause()
            elif self._hear(frame):
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
                self._stream = OverSse() if self.names[0] == "sse" else OverWebSocket()
                await self._stream.open(self.address(), await self._headers())
            await self.opened(self._stream)
            return await self._stream.receive()

    async def _pause(self) -> None:
        """Wait before the next connection; after some tries without a
        frame it is over the other transport.
        """
        await self.aclose()
        if self.is_over:
            return
        self._tries += 1
        if self._tries % FRUITLESS == 0:
            self.names.append(self.names.pop(0))
        try:
            async with self._until():
                await asyncio.sleep(self._delay() if self._wait is None else self._wait)
        except TimeoutError as error:
            raise TimeoutError(f"expected the end of {self._what} in {self._deadline} s") from error

    def _until(self) -> asyncio.Timeout:
        """Bounds our own waits, and not the caller's work between two frames."""
        return asyncio.timeout_at(None if self._end == math.inf else self._end)

    async def _headers(self) -> dict[str, str]:
        text = await text_of(self._token)
        return {**self._more, **({"Authorization": f"Bearer {text}"} if text else {})}

    def _hear(self, frame: dict[str, Any]) -> bool:
        self._tries = 0  # not at the handshake: a full hub closes right after it
        if frame.get("type") == "reconnect" and "id" not in frame:
            self._wait = frame.get("after_ms", 0) / 1000
        return self.is_news(frame)

    def _judge_refusal(self, error: Refused) -> None:
        """Raises JobNotFound if another try is of no use."""
        if error.status in (404, 431):
            raise JobNotFound(f"expected a job of this token's user, got {self._what}") from error
        logger.warning("the hub answered %d, retrying", error.status)
        self._wait = error.after
        if error.status == 503 and error.after is None:
            self._wait = FULL * random.uniform(1, 2)

    def _judge_close(self, error: Closed) -> None:
        """The same; 1000 is the end."""
        self.is_over = error.code == 1000
        if error.code == 4404:
            raise JobNotFound(f"expected a job that this user may watch, got {self._what}") from error
        if error.code == 4401:
            if not callable(self._token):
                raise JobNotFound("expected a token that is valid, got one that has expired") from error
            self._wait = 0.0
        if error.code == 4013 and self._wait is None:
            self._wait = FULL * random.uniform(1, 2)
        if not self.is_over:
            logger.warning("%s, resuming", error)

    def _delay(self) -> float:
        first, longest = BACKOFF
        ceiling = min(longest, first * 2.0 ** min(self._tries - 1, 20))
        return float(ceiling * random.uniform(0.5, 1))
