"""Viewers that behave as browsers do: over SSE or WebSocket, reconnecting with their cursor until the job
ends.

Each frame goes to the viewer's judge (judge.py). Parsing is fast, because a million deliveries are parsed
here; the strict parser of event streams is tests/support/sse.py.
"""

from __future__ import annotations

import asyncio
import functools
import json
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus

from hub.job.event import EventId
from tests.faults.rig.judge import CONTROL, Published, Verdict, terminal_status
from tests.faults.rig.report import count
from tests.support.live import token

RETRY = 0.05
"""Seconds before a reconnect, jittered: shorter than a browser's, so that a test sees more of them."""

SILENCE = 60.0
"""Seconds without a byte after which a viewer fails, because it seems to wait for ever."""


class Told(NamedTuple):
    """A `reconnect` frame: when it came (loop time) and its content. Over WebSocket the close frame has the
    reason.
    """

    at: float
    after_ms: int
    reason: str


class Watcher:
    """One viewer. `where` is called before each connection and returns the hub's URL."""

    def __init__(
        self,
        where: Callable[[], str],
        published: Published,
        transport: str,
        *,
        name: str = "",
        after: str = "",
    ) -> None:
        self.transport = transport
        self.verdict = Verdict(published, name or f"{transport} viewer of {published.job}")
        self.attempts = 0
        self.connected = asyncio.Event()  # set after the first connection
        self.statuses: list[int] = []  # statuses of HTTP responses that were no stream
        self.errors: list[str] = []  # codes of a dashboard's errors, after which it comes again
        self.begins: list[float] = []  # when each connection began, in loop time
        self.told: list[Told] = []
        self.closes: list[int] = []  # close codes of its WebSockets; 1006 for one that was cut
        self._where = where
        self._job = published.job
        self._after = after
        self._over = False  # True after `end`, a 204, or a final close code
        self._left = False  # True once `stop` was called
        self.task: asyncio.Task[None] | None = None
        self._ways = {"sse": self._sse, "websocket": self._websocket, "dashboard": self._dashboard}

    @property
    def cursor(self) -> str:
        return str(self.verdict.cursor) if self.verdict.cursor is not None else self._after

    def start(self) -> Watcher:
        self._left = False
        self.task = asyncio.create_task(self._run(), name=self.verdict.name)
        return self

    async def wait(self, timeout: float) -> Verdict:
        """Wait until the job has ended for this viewer, and return the verdict. A timeout is a problem."""
        assert self.task is not None, "started"
        try:
            await asyncio.wait_for(asyncio.shield(self.task), timeout)
        except TimeoutError:
            self.verdict.problems.append(
                f"{self.verdict.name}: waits for ever, at {self.cursor or 'nothing'}"
            )
        await self.stop()
        return self.verdict

    async def stop(self) -> None:
        self._left = True  # ends it even if the cancellation is swallowed
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])

    async def _run(self) -> None:
        while not self._over and not self._left:
            self.attempts += 1
            try:
                await self._ways[self.transport]()
            except ConnectionClosed as closed:
                self.closes.append(closed.rcvd.code if closed.rcvd is not None else 1006)
            except InvalidStatus as refused:
                self.statuses.append(refused.response.status_code)
            except (OSError, EOFError, InvalidHandshake, InvalidMessage):
                pass
            if not self._over and not self._left:
                await asyncio.sleep(RETRY * random.uniform(0.5, 1.5))

    def _connected(self) -> None:
        self.begins.append(asyncio.get_running_loop().time())
        self.verdict.connected()
        self.connected.set()

    # --- Server-Sent Events

    async def _sse(self) -> None:
        url = self._where()
        host, _, port = url.removeprefix("http://").partition(":")
        async with asyncio.timeout(15):
            reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 24)
        try:
            head = f"GET /api/jobs/{self._job}/events/stream HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token()}\r\nSec-Fetch-Mode: cors\r\n"
            if self.cursor:
                head += f"Last-Event-ID: {self.cursor}\r\n"
            writer.write(f"{head}\r\n".encode())
            async with asyncio.timeout(30):
                answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            status = int(answer.split(" ", 2)[1])
            if status != 200:
                self.statuses.append(status)
                self._over = (
                    status == 204
                )  # any other status would stop an EventSource for ever: see `statuses`
                return
            if "content-length" in answer:
                return  # it asks to come back later
            self._connected()
            await self._read_stream(reader)
        finally:
            writer.transport.abort()

    async def _read_stream(self, reader: asyncio.StreamReader) -> None:
        raw, text = b"", b""  # the chunked body, and its decoded content
        while not self._over:
            async with asyncio.timeout(SILENCE):
                data = await reader.read(1 << 18)
            if not data:
                return
            chunks, raw = whole_chunks(raw + data)
            *blocks, text = b"".join([text, *chunks]).split(b"\n\n")
            for block in blocks:
                self._take_block(block)
            if b"" in chunks:  # the body has ended; the connection may stay open
                return

    def _take_block(self, block: bytes) -> None:
        name, event_id, body, fields = parse_block(block)
        if fields is not None:
            self._take_control(name, fields, event_id)
        elif body is not None:
            self._take_event(event_id, body)
        elif event_id is not None:
            self.verdict.position(event_id)

    # --- WebSocket

    async def _websocket(self) -> None:
        query = f"?last_event_id={self.cursor}" if self.cursor else ""
        async with self._socket(f"/api/jobs/{self._job}/events/ws{query}") as socket:
            self._connected()
            await self._read_socket(socket)

    async def _dashboard(self) -> None:
        """A dashboard with this one job. Its jobs end one by one, and an error about one asks it to subscribe
        again.
        """
        async with self._socket("/api/events/ws") as socket:
            subscribe = {"op": "subscribe", "job": self._job}
            await socket.send(json.dumps(subscribe | ({"after": self.cursor} if self.cursor else {})))
            await self._read_socket(socket)

    def _socket(self, path: str) -> connect:
        url = self._where().replace("http://", "ws://")
        headers = {"Authorization": f"Bearer {token()}", "Sec-Fetch-Mode": "websocket"}
        return connect(
            url + path,
            additional_headers=headers,
            max_size=None,
            close_timeout=0.2,
            open_timeout=30,
            ping_interval=None,
        )

    async def _read_socket(self, socket: ClientConnection) -> None:
        before = len(self.errors)
        while not self._over and len(self.errors) == before:
            async with asyncio.timeout(SILENCE):
                self._take_text(await socket.recv())

    def _take_text(self, text: str) -> None:
        name, event_id, body, fields = parse_text(text)
        if fields is not None:
            self._take_control(name, fields, None)
        else:
            self._take_event(event_id, body or "")

    # --- both

    def _take_event(self, event_id: EventId | None, body: str) -> None:
        self.verdict.event(event_id, body)
        if is_terminal(body):
            self.verdict.terminal()

    def _take_control(self, name: str, fields: dict, event_id: EventId | None) -> None:
        if name in ("hello", "subscribed"):
            if name == "subscribed":
                self._connected()
            if fields.get("position") is not None:
                self.verdict.position(EventId.parse(fields["position"]))
            return
        if name == "error":
            self.errors.append(fields["code"])
            return
        self.verdict.control(name, fields, event_id)
        if name == "reconnect":
            now = asyncio.get_running_loop().time()
            self.told.append(Told(now, fields["after_ms"], fields.get("reason", "")))
        self._over = name == "end"


BOTH = ("sse", "websocket")
"""The transports of one job; a `dashboard` is the third."""

Parsed = tuple[str, EventId | None, str | None, dict | None]
"""A control frame's name, an id, the body of a data event, the fields of a control frame."""

# All viewers of a job get the same bytes, so these are parsed once; each viewer is judged by itself.
_once = functools.lru_cache(maxsize=1 << 14)


def whole_chunks(raw: bytes) -> tuple[list[bytes], bytes]:
    """Returns the complete chunks at the start of `raw` (RFC 9112, 7.1), and the rest. An empty chunk is the
    last.
    """
    pieces, at = [], 0
    while (line := raw.find(b"\r\n", at)) > 0:
        begin = line + 2
        end = begin + int(raw[at:line], 16)
        if len(raw) < end + 2:
            break
        assert raw[end : end + 2] == b"\r\n", "a chunk ends with a line end"
        pieces.append(raw[begin:end])
        at = end + 2
    return pieces, raw[at:]


@_once
def parse_block(block: bytes) -> Parsed:
    """Parses a block of an event stream. A block with only an id is a position."""
    name, body, event_id = "", None, None
    for line in block.decode().split("\n"):
        field, _, value = line.partition(": ")
        if field == "data":
            body = value if body is None else f"{body}\n{value}"
        elif field == "id":
            event_id = EventId.parse(value)
        elif field == "event":
            name = value
    if name and body is not None:
        return name, event_id, None, json.loads(body)
    return name, event_id, body, None


@_once
def parse_text(text: str) -> Parsed:
    """Parses a text frame of a WebSocket."""
    frame = json.loads(text)
    if "id" not in frame and frame["type"] in (*CONTROL, "hello", "subscribed", "error"):
        return frame["type"], None, None, frame
    event_id = EventId.parse(frame.get("id", ""))
    # the id comes first, so the rest is the body as its producer wrote it
    return "", event_id, "{" + text.partition(",")[2] if event_id is not None else text, None


is_terminal = functools.lru_cache(maxsize=1 << 14)(terminal_status)


class Crowd:
    """Viewers of several jobs on both transports, and their verdicts."""

    def __init__(self) -> None:
        self.watchers: list[Watcher] = []

    def add(
        self, where: Callable[[], str], published: Published, *, each: int, transports: Sequence[str] = BOTH
    ) -> None:
        """Add `each` viewers per transport on a job."""
        for number in range(each):
            for transport in transports:
                name = f"{transport} viewer {number} of {published.job}"
                self.watchers.append(Watcher(where, published, transport, name=name).start())

    async def wait_connected(self, timeout: float = 30) -> None:
        async with asyncio.timeout(timeout):
            for watcher in self.watchers:
                await watcher.connected.wait()

    async def finish(self, timeout: float, *, pardoned: bool = False) -> list[Verdict]:
        """Wait for all. Fails with the first problems if the invariant did not hold for a viewer."""
        verdicts = await asyncio.gather(*(watcher.wait(timeout) for watcher in self.watchers))
        for verdict in verdicts:
            verdict.finish(pardoned=pardoned)
        count(self.deliveries)
        problems = [problem for verdict in verdicts for problem in verdict.problems]
        assert not problems, f"{len(problems)} problems, the first: " + "; ".join(problems[:5])
        return verdicts

    async def stop(self) -> None:
        for watcher in self.watchers:
            await watcher.stop()

    @property
    def deliveries(self) -> int:
        return sum(watcher.verdict.deliveries for watcher in self.watchers)
