"""The two ways to a job's frames: over a WebSocket, and over Server-Sent Events where that is not to be had.

Both give frames in the form of the WebSocket (docs/protocol.md); what they raise says whether another try is
of use. They are no async generators: asyncio closes all of those at once at its end, also one that another is
closing.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Protocol
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

SILENCE = 40.0
"""Seconds without a frame after which a connection counts as dead that has not said how often it beats."""

SLACK = 10.0
"""Seconds beyond two announced heartbeats after which a connection counts as dead."""

_LINE_END = re.compile(r"\r\n|\r(?!$)|\n")  # a CR at the end may be half of a CRLF


class Refused(Exception):
    """The hub answered with another status than that of a stream.
    `after`: the seconds it asks to wait, or None.
    """

    def __init__(self, status: int, after: float | None = None) -> None:
        super().__init__(f"the hub answered {status}")
        self.status = status
        self.after = after


class Closed(Exception):
    """The hub closed the WebSocket with this code; None if it sent none."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"the connection was closed with {code or 'no code'}")
        self.code = code


def address(url: str, job: str, path: str, query: Mapping[str, str]) -> str:
    """The URL of a job's stream at the hub of `url`."""
    parts = urlsplit(url)
    where = f"{parts.path.rstrip('/')}/api/jobs/{quote(job, safe='')}/events/{path}"
    return urlunsplit((parts.scheme, parts.netloc, where, urlencode(query), ""))


class Stream(Protocol):
    """One connection. `aclose` may be called whatever happened before."""

    async def open(self, url: str, headers: Mapping[str, str]) -> None:
        """Connect. Raises Refused, Closed for a job that is over, and what says that there is no hub."""

    async def receive(self) -> dict[str, Any] | None:
        """The next frame; None when the hub has ended the stream. Raises Closed, TimeoutError after a
        silence, and what says that the hub is gone.
        """

    async def send(self, command: Mapping[str, Any]) -> None:
        """Send a command; only over a WebSocket."""

    async def aclose(self) -> None:
        """Close the connection."""


class OverWebSocket:
    """Raises OSError or InvalidHandshake where there is no hub."""

    def __init__(self) -> None:
        self._socket: ClientConnection | None = None
        self._silence = SILENCE

    async def open(self, url: str, headers: Mapping[str, str]) -> None:
        """See `Stream`. A cookie counts for the hub's own origin alone, so that one is named."""
        if "cookie" in (name.lower() for name in headers):
            headers = {"Origin": "/".join(url.split("/", 3)[:3]), **headers}
        try:
            self._socket = await connect(
                re.sub("^http", "ws", url), additional_headers=headers, max_size=None
            )
        except InvalidStatus as error:
            response = error.response
            raise Refused(response.status_code, _seconds(response.headers.get("Retry-After"))) from error

    async def receive(self) -> dict[str, Any] | None:
        """See `Stream`."""
        assert self._socket is not None, "it is open"
        try:
            async with asyncio.timeout(self._silence):
                frame: dict[str, Any] = json.loads(await self._socket.recv())
        except ConnectionClosed as error:
            raise Closed(None if error.rcvd is None else error.rcvd.code) from error
        self._silence = _silence(frame, self._silence)
        return frame

    async def send(self, command: Mapping[str, Any]) -> None:
        """See `Stream`. Raises Closed."""
        assert self._socket is not None, "it is open"
        try:
            await self._socket.send(json.dumps(command))
        except ConnectionClosed as error:
            raise Closed(None if error.rcvd is None else error.rcvd.code) from error

    async def aclose(self) -> None:
        """See `Stream`."""
        if self._socket is not None:
            await self._socket.close()


class OverSse:
    """Raises httpx.HTTPError where there is no hub."""

    def __init__(self) -> None:
        self._client: httpx.AsyncClient | None = None
        self._chunks: AsyncIterator[str] | None = None
        self._parser = _Messages()
        self._frames: deque[dict[str, Any]] = deque()
        self._silence = SILENCE

    async def open(self, url: str, headers: Mapping[str, str]) -> None:
        """See `Stream`."""
        self._client = httpx.AsyncClient(timeout=httpx.Timeout(SILENCE), headers=dict(headers))
        answer = await self._client.send(self._client.build_request("GET", url), stream=True)
        if answer.status_code == 204:
            raise Closed(1000)
        if answer.status_code != 200:
            raise Refused(answer.status_code, _seconds(answer.headers.get("Retry-After")))
        self._chunks = answer.aiter_text()

    async def receive(self) -> dict[str, Any] | None:
        """See `Stream`."""
        assert self._chunks is not None, "it is open"
        while not self._frames:
            try:
                async with asyncio.timeout(self._silence):
                    self._frames.extend(self._parser.feed(await anext(self._chunks)))
            except StopAsyncIteration:
                return None
        frame = self._frames.popleft()
        self._silence = _silence(frame, self._silence)
        return frame

    async def send(self, command: Mapping[str, Any]) -> None:
        """There is no way to."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """See `Stream`."""
        if self._client is not None:
            await self._client.aclose()


def _silence(frame: dict[str, Any], before: float) -> float:
    """The seconds of silence after which the connection is dead, as `hello` announces it."""
    if frame.get("type") == "hello" and "id" not in frame:
        return float(2 * frame["heartbeat_ms"] / 1000 + SLACK)
    return before


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isdecimal() and len(text) < 6 else None


class _Messages:
    """An incremental parser of text/event-stream (the HTML standard, 9.2.6), whose messages become frames."""

    def __init__(self) -> None:
        self._rest = ""
        self._id = ""
        self._event = ""
        self._data: list[str] = []

    def feed(self, text: str) -> Iterator[dict[str, Any]]:
        """The frames that are whole with `text`."""
        *lines, self._rest = _LINE_END.split(self._rest + text)
        for line in lines:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not line:
                if self._data:
                    yield self._frame("\n".join(self._data))
                self._event, self._data = "", []
            elif name == "data":
                self._data.append(value)
            elif name == "event":
                self._event = value
            elif name == "id":
                self._id = value

    def _frame(self, data: str) -> dict[str, Any]:
        try:
            fields = json.loads(data)
        except ValueError:
            fields = None
        if self._event:
            return {"type": self._event, **(fields or {})}
        if not isinstance(fields, dict):
            fields = {"type": "raw", "data": data}
        return {**fields, "id": self._id} if self._id else fields
