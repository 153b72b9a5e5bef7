"""A strict parser of event streams, from WHATWG section 9.2.6 alone, and a viewer on a raw socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Message:
    """One dispatched event. `id` is the value of the last event ID buffer at that time."""

    event: str
    data: str
    id: str
    own_id: str | None = None  # the id that this event itself has

    @property
    def json(self) -> Any:
        return json.loads(self.data)


@dataclass
class Parser:
    """Turns bytes into messages. Keeps `last_event_id` and `retry` as a browser does."""

    last_event_id: str = ""
    retry: int | None = None
    _id: str = ""
    _own_id: str | None = None
    _event: str = ""
    _data: list[str] = field(default_factory=list)
    _buffer: bytes = b""
    _first: bool = True

    def feed(self, chunk: bytes) -> list[Message]:
        self._buffer += chunk
        if self._first and len(self._buffer) >= 3:
            self._first = False
            self._buffer = self._buffer.removeprefix(b"\xef\xbb\xbf")
        messages = []
        while (line := self._line()) is not None:
            message = self._take(line)
            if message is not None:
                messages.append(message)
        return messages

    def _line(self) -> str | None:
        for index, byte in enumerate(self._buffer):
            if byte == 10:
                end = index + 1
            elif byte == 13:
                if index + 1 == len(self._buffer):
                    return None  # an LF may follow
                end = index + 2 if self._buffer[index + 1] == 10 else index + 1
            else:
                continue
            line, self._buffer = self._buffer[:index], self._buffer[end:]
            return line.decode("utf-8")  # strict: the hub must send nothing else
        return None

    def _take(self, line: str) -> Message | None:
        if line == "":
            return self._dispatch()
        if line.startswith(":"):
            return None
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = self._own_id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry = int(value)
        return None

    def _dispatch(self) -> Message | None:
        self.last_event_id = self._id
        data, event, own_id = self._data, self._event, self._own_id
        self._data, self._event, self._own_id = [], "", None
        return Message(event or "message", "\n".join(data), self._id, own_id) if data else None


def parse(stream: bytes | str) -> list[Message]:
    """Returns all messages of a complete stream."""
    return Parser().feed(stream.encode() if isinstance(stream, str) else stream)


class SseViewer:
    """An EventSource on a raw socket: `async with SseViewer(url, token) as viewer: await viewer.next()`."""

    def __init__(
        self, url: str, token: str = "", *, last_event_id: str = "", headers: dict[str, str] | None = None
    ):
        self.url = url
        self.parser = Parser()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.raw = b""  # the decoded body so far
        self.ended = False  # True once the server has ended the body cleanly
        self._send = dict(headers or {})
        if token:
            self._send["Authorization"] = f"Bearer {token}"
        if last_event_id:
            self._send["Last-Event-ID"] = last_event_id
        self.hello: dict[str, Any] | None = None
        self._ready: list[Message] = []

    async def __aenter__(self) -> SseViewer:
        parts = urlsplit(self.url)
        self.reader, self.writer = await asyncio.open_connection(parts.hostname, parts.port)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {parts.netloc}",
            *(f"{k}: {v}" for k, v in self._send.items()),
        ]
        self.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)).decode().split("\r\n")
        self.status = int(head[0].split()[1])
        for line in head[1:]:
            if line:
                name, _, value = line.partition(":")
                self.headers[name.lower()] = value.strip()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    @property
    def last_event_id(self) -> str:
        return self.parser.last_event_id

    async def body(self) -> bytes:
        """Returns the body of a response that has a length."""
        return await self.reader.readexactly(int(self.headers.get("content-length", "0")))

    async def next(self, timeout: float = 10) -> Message:
        """Returns the next message. Raises EOFError when the server has ended the stream."""
        while not self._ready:
            chunk = await asyncio.wait_for(self._chunk(), timeout)
            if not chunk:
                raise EOFError
            self.read(chunk)
        return self._ready.pop(0)

    def read(self, chunk: bytes) -> None:
        """Parse more of the body. `hello` is kept beside the messages."""
        self.raw += chunk
        for message in self.parser.feed(chunk):
            if message.event == "hello":
                self.hello = message.json
            else:
                self._ready.append(message)

    async def all(self, timeout: float = 10) -> list[Message]:
        """Returns every message until the server ends the stream."""
        messages = []
        while True:
            try:
                messages.append(await self.next(timeout))
            except EOFError:
                return messages

    async def __aiter__(self) -> AsyncIterator[Message]:
        for message in await self.all():
            yield message

    async def _chunk(self) -> bytes:
        if self.ended:
            return b""
        if "content-length" in self.headers:
            self.ended = True
            return await self.body()
        if self.headers.get("transfer-encoding") != "chunked":
            data = await self.reader.read(65536)
            self.ended = not data
            return data
        size = int((await self.reader.readuntil(b"\r\n")).strip(), 16)
        data = await self.reader.readexactly(size + 2)
        self.ended = size == 0
        return data[:-2]
