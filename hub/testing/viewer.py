"""A viewer for tests: it watches in the background, reconnects and resumes, and is asked what it saw."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Literal, cast

from hub.client.client import watch
from hub.ending import end_tasks
from hub.errors import JobNotFound

PATIENCE = 5.0
"""Seconds that a viewer waits for what it is asked; `patience=` changes it."""

Frame = dict[str, Any]


class Viewer:
    """One viewer of one job, from now until `aclose`.

    `frames` is everything it has seen, in the form of the WebSocket (docs/protocol.md); `events` those that
    workers published; `connections` how often it has connected. `refused` is True once it was told that there
    is no such job for its user.
    """

    def __init__(
        self,
        url: str,
        job: str,
        transport: str,
        token: str,
        *,
        headers: dict[str, str],
        patience: float = PATIENCE,
        **options: Any,
    ) -> None:
        self.frames: list[Frame] = []
        self.connections = 0
        self.refused = False
        self._job = job
        self._token = token
        self._patience = patience
        self._is_over = False
        self._news = asyncio.Event()
        kind = cast(Literal["sse", "websocket"], transport)
        frames = watch(url, job, self._connect, headers=headers, transport=kind, **options)
        self._task = asyncio.create_task(self._run(frames), name="push-hub-viewer")

    def _connect(self) -> str:
        self.connections += 1  # `watch` asks for a token before each connection
        return self._token

    async def _run(self, frames: Any) -> None:
        try:
            async for frame in frames:
                self.frames.append(frame)
                self._news.set()
            self._is_over = True
        except JobNotFound:
            self.refused = self._is_over = True
        finally:
            self._news.set()
            await frames.aclose()

    @property
    def events(self) -> list[Frame]:
        """The events of workers, in the order in which they came."""
        return [frame for frame in self.frames if "id" in frame]

    async def saw(self, kind: str, **fields: Any) -> Frame:
        """Wait for a frame of this type with these fields, and return it: `await
        viewer.saw("snapshot.updated", url="/1.svg")`. Control frames have types too: `hello`, `gap`,
        `resync`, `state`, `reconnect`, `end`.

        Raises AssertionError if none comes.
        """

        def found() -> Frame | None:
            wanted = {"type": kind, **fields}
            return next((one for one in self.frames if wanted.items() <= one.items()), None)

        await self._until(lambda: found() is not None, f"{kind} {fields or ''}")
        frame = found()
        assert frame is not None, "waited for"
        return frame

    async def saw_exactly(self, numbers: int | Iterable[int]) -> list[Frame]:
        """Wait for the events with these numbers (`3` means 1, 2, 3): each once, in order, no other. Returns
        them.

        A job's first event has the number 1, and the last part of its id is 0. Raises AssertionError.
        """
        expected = list(range(1, numbers + 1)) if isinstance(numbers, int) else list(numbers)
        await self._until(lambda: len(self.events) >= len(expected), f"the events {expected}")
        for _ in range(10):
            await asyncio.sleep(0)  # one too many would come now
        seen = [int(str(event["id"]).rpartition("-")[2]) + 1 for event in self.events]
        assert seen == expected, f"expected the events {expected}, got {seen}"
        return self.events

    async def connected(self) -> None:
        """Wait until it watches: the hub has said where its stream
        begins, and what is published now is seen.
        """
        await self._until(lambda: bool(self.frames), "the beginning of the stream")

    async def ended(self, status: str = "ready") -> None:
        """Wait for the end of the stream, which is the end of the job, in
        this status. Raises AssertionError.
        """
        await self._until(lambda: self._is_over, f"the end, {status!r}")
        last = self.frames[-1] if self.frames else {}
        assert last.get("status") == status, f"expected the end {status!r}, got {last or 'a refusal'}"

    async def was_refused(self) -> None:
        """Wait until the hub has said that there is no such job for this user. Raises AssertionError."""
        await self._until(lambda: self._is_over, "a refusal")
        assert self.refused, f"expected a refusal, got the end of the stream: {self.frames[-1:]}"

    async def aclose(self) -> None:
        """Leave."""
        await end_tasks(self._task)

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(self._patience):
                while not condition():
                    if self._task.done() and not self._task.cancelled():
                        self._task.result()  # what `watch` raised
                        if self._is_over:
                            break
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass
        assert condition(), (
            f"expected {what}, got {[_brief(one) for one in self.frames]} of job {self._job!r}"
        )


def _brief(frame: Frame) -> str:
    return f"{frame.get('type')} {frame.get('id', '')}".strip()
