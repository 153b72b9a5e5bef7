"""Viewers that behave as browsers do: over SSE or WebSocket, reconnecting with their cursor until the job ends.

What they receive goes straight to their judge (judge.py). Written for speed where it matters: a million deliveries are parsed
here. The strict reader of event streams is tests/support/sse.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Callable

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from hub.event import EventId
from tests.faults.rig.judge import CONTROL, Published, Verdict, terminal_status
from tests.support.live import token

RETRY = 0.05
"""Seconds before a reconnect, jittered: shorter than a browser's, so that a test sees more of them."""

SILENCE = 60.0
"""Seconds without a byte until a viewer complains that it waits for ever."""


class Watcher:
    """One viewer. `where` gives the URL of the hub to connect to, asked before each connection."""

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
        self.connected = asyncio.Event()  # at least once
        self.statuses: list[int] = []  # HTTP answers that were no stream
        self._where = where
        self._job = published.job
        self._after = after
        self._over = False  # the end, a 204, or a close code that says so
        self.task: asyncio.Task[None] | None = None

    @property
    def cursor(self) -> str:
        return str(self.verdict.cursor) if self.verdict.cursor is not None else self._after

    def start(self) -> Watcher:
        self.task = asyncio.create_task(self._run(), name=self.verdict.name)
        return self

    async def wait(self, timeout: float) -> Verdict:
        """The verdict, once the job has ended for this viewer (or `timeout` is over, which is a problem)."""
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
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])

    async def _run(self) -> None:
        while not self._over:
            self.attempts += 1
            with contextlib.suppress(OSError, EOFError, ConnectionClosed, InvalidHandshake, InvalidMessage):
                await (self._sse() if self.transport == "sse" else self._websocket())
            if not self._over:
                await asyncio.sleep(RETRY * random.uniform(0.5, 1.5))

    # --- Server-Sent Events

    async def _sse(self) -> None:
        url = self._where()
        host, _, port = url.removeprefix("http://").partition(":")
        async with asyncio.timeout(15):
            reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 24)
        try:
            head = f"GET /api/jobs/{self._job}/events/stream HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token()}\r\n"
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
                )  # and anything else would end an EventSource for ever: see `statuses`
                return
            if "content-length" in answer:
                return  # a polite "come back later"
            self.verdict.connected()
            self.connected.set()
            await self._read_stream(reader)
        finally:
            writer.transport.abort()

    async def _read_stream(self, reader: asyncio.StreamReader) -> None:
        rest = b""
        while True:
            async with asyncio.timeout(SILENCE):
                size = int(await reader.readline() or b"0", 16)
                data = rest + (await reader.readexactly(size + 2))[:-2]
            *blocks, rest = data.split(b"\n\n")
            for block in blocks:
                self._take_block(block.decode())
            if size == 0 or self._over:
                return

    def _take_block(self, block: str) -> None:
        name, body, event_id = "", None, None
        for line in block.split("\n"):
            field, _, value = line.partition(": ")
            if field == "data":
                body = value if body is None else f"{body}\n{value}"
            elif field == "id":
                event_id = EventId.parse(value)
            elif field == "event":
                name = value
        if body is None:
            if event_id is not None:
                self.verdict.position(event_id)
        elif name:
            self._take_control(name, json.loads(body), event_id)
        else:
            self._take_event(event_id, body)

    # --- WebSocket

    async def _websocket(self) -> None:
        url = self._where().replace("http://", "ws://")
        query = f"?last_event_id={self.cursor}" if self.cursor else ""
        address = f"{url}/api/jobs/{self._job}/events/ws{query}"
        headers = {"Authorization": f"Bearer {token()}"}
        async with connect(
            address,
            additional_headers=headers,
            max_size=None,
            close_timeout=0.2,
            open_timeout=30,
            ping_interval=None,
        ) as socket:
            self.verdict.connected()
            self.connected.set()
            while not self._over:
                async with asyncio.timeout(SILENCE):
                    self._take_text(await socket.recv())

    def _take_text(self, text: str) -> None:
        frame = json.loads(text)
        if "id" not in frame and frame["type"] in CONTROL:
            self._take_control(frame["type"], frame, None)
            return
        event_id = EventId.parse(frame.get("id", ""))
        # the id stands first, so what follows is the body as its producer wrote it
        body = "{" + text.partition(",")[2] if event_id is not None else text
        self._take_event(event_id, body)

    # --- both

    def _take_event(self, event_id: EventId | None, body: str) -> None:
        self.verdict.event(event_id, body)
        if terminal_status(body):
            self.verdict.terminal()

    def _take_control(self, name: str, fields: dict, event_id: EventId | None) -> None:
        self.verdict.control(name, fields, event_id)
        self._over = name == "end"


class Crowd:
    """Viewers of several jobs on both transports, and what became of them."""

    def __init__(self) -> None:
        self.watchers: list[Watcher] = []

    def add(self, where: Callable[[], str], published: Published, *, each: int) -> None:
        """`each` viewers per transport on a job."""
        for number in range(each):
            for transport in ("sse", "websocket"):
                name = f"{transport} viewer {number} of {published.job}"
                self.watchers.append(Watcher(where, published, transport, name=name).start())

    async def wait_connected(self, timeout: float = 30) -> None:
        async with asyncio.timeout(timeout):
            for watcher in self.watchers:
                await watcher.connected.wait()

    async def finish(self, timeout: float, *, pardoned: bool = False) -> list[Verdict]:
        """Wait for all; fails with the first problems when the invariant did not hold for everybody."""
        verdicts = await asyncio.gather(*(watcher.wait(timeout) for watcher in self.watchers))
        for verdict in verdicts:
            verdict.finish(pardoned=pardoned)
        problems = [problem for verdict in verdicts for problem in verdict.problems]
        assert not problems, f"{len(problems)} problems, the first: " + "; ".join(problems[:5])
        return verdicts

    async def stop(self) -> None:
        for watcher in self.watchers:
            await watcher.stop()

    @property
    def deliveries(self) -> int:
        return sum(watcher.verdict.deliveries for watcher in self.watchers)
