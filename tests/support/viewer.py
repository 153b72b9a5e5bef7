"""A viewer with one interface for both transports, so that a test is written once.

It is strict: a frame that a browser's `JSON.parse` or the WHATWG stream parser would refuse fails the test, and
so does a control frame that the AsyncAPI document does not describe.
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

from hub.contract.frames import DASHBOARD
from tests.support.contract import hold
from tests.support.live import USER, Live, token
from tests.support.sse import Message, SseViewer

CONTROL = ("heartbeat", "gap", "resync", "state", "reconnect", "end")
CLOSED = {1000: "ended", 1012: "reconnect", 4013: "reconnect"}


@dataclass(frozen=True, slots=True)
class Seen:
    """One frame. `name`: a control frame's name, an event's type, or "raw" if it is no JSON object."""

    id: str | None
    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    control: bool = False
    text: str = field(default="", compare=False)  # as it travelled


def strict_json(text: str) -> Any:
    """Parses JSON as a browser does: NaN and Infinity raise ValueError."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


class Viewer:
    """Common to both transports. `cursor`: the id to resume after; `closed`: the reason of the end."""

    status = 0  # of the handshake; 101 for a WebSocket that was accepted
    headers: dict[str, str]
    body = b""  # of a refusal
    hello: dict[str, Any] | None = None  # the fields of the first frame; None for a job that was over
    cursor = ""
    closed = ""  # ended | reconnect | cut | a WebSocket close code; "" while it is open

    async def next(self, timeout: float = 10) -> Seen:
        """Returns the next frame. Raises EOFError after the last one."""
        raise NotImplementedError

    async def take(self, number: int) -> list[Seen]:
        """Returns the next `number` frames."""
        return [await self.next() for _ in range(number)]

    async def until(self, name: str) -> list[Seen]:
        """Returns the frames up to the first one with this name, inclusive."""
        seen = [await self.next()]
        while seen[-1].name != name:
            seen.append(await self.next())
        return seen

    async def all(self) -> list[Seen]:
        """Returns all frames until the hub ends the stream."""
        seen = []
        try:
            while True:
                seen.append(await self.next())
        except EOFError:
            return seen


class Sse(Viewer):
    """A viewer over Server-Sent Events."""

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
        """Check the first bytes, which come at once: the retry hint and, unless refused, the position."""
        chunk = await asyncio.wait_for(self.viewer._chunk(), 10)
        self.viewer.read(chunk)
        head = re.match(rb"retry: [0-9]+\n(?:id: ([0-9]+-[0-9]+)\n)?", chunk)
        assert head is not None, chunk
        self.cursor = (head[1] or b"").decode()
        self.hello = self.viewer.hello
        if self.hello is not None:
            hold("sse.hello", self.hello)

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
        fields = strict_json(message.data)
        hold(f"sse.{message.event}", fields)
        return Seen(message.own_id, message.event, fields, True, message.data)
    try:
        fields = strict_json(message.data)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        return Seen(message.own_id, "raw", {"data": message.data}, text=message.data)
    return Seen(message.own_id, str(fields.get("type", "")), fields, text=message.data)


class WebSocket(Viewer):
    """A viewer over WebSocket; also a dashboard socket, with `say`."""

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
        if seen.control and seen.name == "hello":
            self.hello, self.cursor = seen.fields, seen.fields.get("position") or self.cursor
            return await self.next(timeout)
        self.cursor = seen.id or (seen.fields.get("position") if seen.name == "state" else "") or self.cursor
        return seen

    async def say(self, op: str, **fields: Any) -> None:
        """Send one command."""
        await self.raw(json.dumps({"op": op, **fields}))

    async def raw(self, message: str | bytes) -> None:
        """Send one message as it is."""
        await asyncio.wait_for(self.socket.send(message), 10)

    async def answer(self, ref: Any) -> Seen:
        """Returns the answer with this ref. Events may come before it, another answer may not."""
        while True:
            seen = await self.next()
            if "ref" in seen.fields:
                assert seen.fields["ref"] == ref, seen
                return seen


def _over_websocket(text: str) -> Seen:
    fields = strict_json(text)
    assert isinstance(fields, dict), "each frame is one flat JSON object"
    event_id, kind = fields.get("id"), str(fields.get("type", ""))
    if event_id is None and kind in DASHBOARD:
        hold(f"ws.{kind}", fields)
    if event_id is not None:
        assert text.startswith('{"id":"'), f"id first, got {text[:50]}"
    control = event_id is None and kind in (*CONTROL, "hello", "authenticated")
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
    """Returns a viewer of `job`. `cursor` goes into the query, `header` into `Last-Event-ID` (SSE only)."""
    if cursor is not None:
        query += ("&" if query else "?") + urlencode({"last_event_id": cursor})
    if transport == "sse":
        return Sse(live.sse(job, query, user=user, last_event_id=header))
    assert not header, "a browser's WebSocket cannot send headers"
    return WebSocket(live.websocket(job, query, user=user))


def dashboard(live: Live, *, user: str = USER) -> WebSocket:
    """Returns a viewer on the dashboard socket."""
    return WebSocket(live.dashboard(user=user))


def with_headers(live: Live, path: str, headers: dict[str, str]) -> Sse | WebSocket:
    """Returns a viewer with exactly these headers; over WebSocket if `path` ends in `/ws`, else SSE."""
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
    """Returns the header that signs `user` in."""
    return {"Authorization": f"Bearer {token(user)}"}
