"""One viewer for both transports: the same interface, the same frames, so that a law is written once.

Strict on purpose: a frame that a browser's `JSON.parse` or the WHATWG stream parser would refuse fails the test here.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.live import USER, Live, token
from tests.support.sse import Message, SseViewer

CONTROL = ("heartbeat", "gap", "resync", "state", "reconnect", "end")
CLOSED = {1000: "ended", 1012: "reconnect", 4013: "reconnect"}


@dataclass(frozen=True, slots=True)
class Seen:
    """One frame. `name` is a control frame's name, an event's type, or "raw" for what is no JSON object."""

    id: str | None
    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    control: bool = False
    text: str = field(default="", compare=False)  # as it travelled


def strict_json(text: str) -> Any:
    """As a browser parses it: NaN and Infinity are errors."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


class Viewer:
    """What both transports have in common. `cursor` is where it would resume, `closed` why it ended."""

    status = 0  # of the handshake; 101 for a WebSocket that was accepted
    headers: dict[str, str]
    body = b""  # of a refusal
    cursor = ""
    closed = ""  # ended | reconnect | cut | a WebSocket close code; "" while it is open

    async def next(self, timeout: float = 10) -> Seen:
        """The next frame; EOFError when there is none any more."""
        raise NotImplementedError

    async def take(self, number: int) -> list[Seen]:
        """So many frames."""
        return [await self.next() for _ in range(number)]

    async def until(self, name: str) -> list[Seen]:
        """Frames up to and with the first of this name."""
        seen = [await self.next()]
        while seen[-1].name != name:
            seen.append(await self.next())
        return seen

    async def all(self) -> list[Seen]:
        """Frames until the hub ends it."""
        seen = []
        try:
            while True:
                seen.append(await self.next())
        except EOFError:
            return seen


class Sse(Viewer):
    """Over Server-Sent Events."""

    def __init__(self, viewer: SseViewer) -> None:
        self.viewer = viewer
        self._last_name = ""

    async def __aenter__(self) -> Sse:
        await self.viewer.__aenter__()
        self.status, self.headers = self.viewer.status, self.viewer.headers
        if self.status != 200:
            self.body = await asyncio.wait_for(self.viewer.body(), 10)
            self.closed = "ended" if self.status == 204 else "refused"
        else:
            await self._read_head()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.viewer.__aexit__(*error)

    async def _read_head(self) -> None:
        """The first bytes, which come at once: a retry and, but for a refusal, the position."""
        chunk = await asyncio.wait_for(self.viewer._chunk(), 10)
        self.viewer.raw += chunk
        self.viewer._ready += self.viewer.parser.feed(chunk)
        head = re.match(rb"retry: [0-9]+\n(?:id: ([0-9]+-[0-9]+)\n\n|event: reconnect\n)", chunk)
        assert head is not None, chunk
        self.cursor = (head[1] or b"").decode()

    async def next(self, timeout: float = 10) -> Seen:
        try:
            message = await self.viewer.next(timeout)
        except (EOFError, ConnectionError) as error:
            last = {"end": "ended", "reconnect": "reconnect"}.get(self._last_name, "cut")
            self.closed = last if self.viewer.ended else "cut"
            raise EOFError from error
        self._last_name, self.cursor = message.event, message.id
        return _over_sse(message)


def _over_sse(message: Message) -> Seen:
    if message.event != "message":
        assert message.event in CONTROL, message
        return Seen(message.own_id, message.event, strict_json(message.data), True, message.data)
    try:
        fields = strict_json(message.data)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        return Seen(message.own_id, "raw", {"data": message.data}, text=message.data)
    return Seen(message.own_id, str(fields.get("type", "")), fields, text=message.data)


class WebSocket(Viewer):
    """Over WebSocket; also the dashboard socket, with `say`."""

    def __init__(self, connecting: connect) -> None:
        self._connecting = connecting
        self.socket: ClientConnection | None = None
        self.code: int | None = None

    async def __aenter__(self) -> WebSocket:
        try:
            self.socket = await asyncio.wait_for(self._connecting.__aenter__(), 10)
        except InvalidStatus as error:
            self.status, self.body = error.response.status_code, error.response.body
            self.headers = {name.lower(): value for name, value in error.response.headers.raw_items()}
            self.closed = "refused"
        else:
            self.status = 101
        return self

    async def __aexit__(self, *error: object) -> None:
        if self.socket is not None:
            await self._connecting.__aexit__(*error)

    async def next(self, timeout: float = 10) -> Seen:
        try:
            text = await asyncio.wait_for(self.socket.recv(), timeout)
        except ConnectionClosed as error:
            self.code = self.socket.close_code
            self.closed = CLOSED.get(self.code, str(self.code))
            raise EOFError from error
        assert isinstance(text, str), "text frames only"
        seen = _over_websocket(text)
        self.cursor = seen.id or (seen.fields.get("position") if seen.name == "state" else "") or self.cursor
        return seen

    async def say(self, op: str, **fields: Any) -> None:
        """One command."""
        await self.raw(json.dumps({"op": op, **fields}))

    async def raw(self, message: str | bytes) -> None:
        """One message, whatever it is."""
        await asyncio.wait_for(self.socket.send(message), 10)

    async def answer(self, ref: Any) -> Seen:
        """The frame with this ref; what comes before it must be none of an answer."""
        while True:
            seen = await self.next()
            if "ref" in seen.fields:
                assert seen.fields["ref"] == ref, seen
                return seen


def _over_websocket(text: str) -> Seen:
    fields = strict_json(text)
    assert isinstance(fields, dict), "one flat JSON object each"
    event_id, kind = fields.get("id"), str(fields.get("type", ""))
    if event_id is not None:
        assert text.startswith('{"id":"'), f"id first, got {text[:50]}"
    control = event_id is None and kind in CONTROL
    fields.pop("id", None)
    if control or kind == "raw":
        del fields["type"]
    return Seen(event_id, kind, fields, control, text)


def view(
    live: Live,
    transport: str,
    job: str,
    query: str = "",
    *,
    user: str = USER,
    cursor: str | None = None,
    header: str = "",
) -> Sse | WebSocket:
    """A viewer of `job`; `cursor` goes into `?last_event_id=`, `header` into `Last-Event-ID` (SSE only)."""
    if cursor is not None:
        query += ("&" if query else "?") + urlencode({"last_event_id": cursor})
    if transport == "sse":
        return Sse(live.sse(job, query, user=user, last_event_id=header))
    assert not header, "a browser's WebSocket has no headers"
    return WebSocket(live.websocket(job, query, user=user))


def dashboard(live: Live, *, user: str = USER) -> WebSocket:
    """A dashboard socket."""
    return WebSocket(live.dashboard(user=user))


def with_headers(live: Live, path: str, headers: dict[str, str]) -> Sse | WebSocket:
    """A viewer with exactly these headers: SSE for a path that is no WebSocket's."""
    if path.partition("?")[0].endswith("/ws"):
        return WebSocket(
            connect(
                f"ws://127.0.0.1:{live.port}{path}",
                additional_headers=headers,
                max_size=None,
                close_timeout=1,
            )
        )
    return Sse(SseViewer(live.url + path, headers=headers))


def bearer(user: str = USER) -> dict[str, str]:
    """The header of a user who is signed in."""
    return {"Authorization": f"Bearer {token(user)}"}
