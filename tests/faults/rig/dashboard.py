"""A viewer of many jobs on one WebSocket. It resumes with a cursor per job, and each job has a judge."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Callable, Sequence

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from hub.job.event import EventId
from tests.faults.rig.judge import Published, Verdict
from tests.faults.rig.report import count
from tests.faults.rig.watcher import RETRY, SILENCE, Told, is_terminal, parse_text
from tests.support.live import token


class DashboardWatcher:
    """Watches `jobs` until each has ended. `where` is called before each connection and returns the hub's
    URL.
    """

    def __init__(self, where: Callable[[], str], jobs: Sequence[Published]) -> None:
        self.verdicts = {job.job: Verdict(job, f"dashboard viewer of {job.job}") for job in jobs}
        self.connected = asyncio.Event()  # subscribed to all, at least once
        self.told: list[Told] = []
        self.closes: list[int] = []
        self.heartbeats = 0
        self._where = where
        self._task = asyncio.create_task(self._run(), name="dashboard viewer")

    async def finish(self, timeout: float) -> None:
        """Wait for the end of all jobs. Fails if the invariant did not hold for one of them."""
        with contextlib.suppress(TimeoutError):  # the judges report a missing end
            await asyncio.wait_for(self._task, timeout)
        problems = []
        for verdict in self.verdicts.values():
            verdict.finish()
            problems += verdict.problems
        count(sum(verdict.deliveries for verdict in self.verdicts.values()))
        assert not problems, f"{len(problems)} problems, the first: " + "; ".join(problems[:5])

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        while self._waiting():
            try:
                await self._connect()
            except ConnectionClosed as closed:
                self.closes.append(closed.rcvd.code if closed.rcvd is not None else 1006)
            except (OSError, InvalidHandshake, InvalidMessage):
                pass
            await asyncio.sleep(RETRY * random.uniform(0.5, 1.5))

    def _waiting(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts.values() if not verdict.ended]

    async def _connect(self) -> None:
        address = self._where().replace("http://", "ws://") + "/api/events/ws"
        headers = {"Authorization": f"Bearer {token()}", "Sec-Fetch-Mode": "websocket"}
        async with connect(
            address, additional_headers=headers, max_size=None, close_timeout=0.2, ping_interval=None
        ) as socket:
            missing = len(self._waiting())
            for verdict in self._waiting():
                await self._subscribe(socket, verdict)
            while self._waiting():
                async with asyncio.timeout(SILENCE):
                    text = await socket.recv()
                assert isinstance(text, str), "the hub sends text"
                missing -= json.loads(text)["type"] == "subscribed"
                if not missing:
                    self.connected.set()
                await self._take(socket, text)

    async def _subscribe(self, socket: ClientConnection, verdict: Verdict) -> None:
        command = {"op": "subscribe", "job": verdict.published.job}
        if verdict.cursor is not None:
            command["after"] = str(verdict.cursor)
        await socket.send(json.dumps(command))

    async def _take(self, socket: ClientConnection, text: str) -> None:
        name, event_id, body, fields = parse_text(text)
        if name == "heartbeat":
            self.heartbeats += 1
        elif name == "hello":
            pass
        elif name == "reconnect":
            assert fields is not None, "a control frame"
            self.told.append(Told(asyncio.get_running_loop().time(), fields["after_ms"], ""))
        elif fields is not None:
            self.verdicts[fields["job_id"]].control(name, fields, None)
        elif event_id is not None:
            self._take_event(json.loads(text)["job_id"], event_id, body or "")
        else:
            await self._take_answer(socket, json.loads(text))

    async def _take_answer(self, socket: ClientConnection, frame: dict) -> None:
        verdict = self.verdicts[frame["job_id"]]
        if frame["type"] == "error":  # it asks to resume, or Redis is away
            await self._subscribe(socket, verdict)
        elif (position := EventId.parse(frame["position"])) is not None:
            verdict.position(position)

    def _take_event(self, job: str, event_id, body: str) -> None:
        verdict = self.verdicts[job]
        verdict.event(event_id, body)
        if is_terminal(body):
            verdict.terminal()
