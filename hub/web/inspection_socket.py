"""The inspector's figures, live over a WebSocket, while its page is seen.

The page sends which job it shows, `{"job": "..."}` or `{"job": null}`, and gets an answer at once, and then
one a second: what `GET /admin/api/overview` says, with `job` as `GET /admin/api/jobs/{id}` says, or null.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from starlette.websockets import WebSocketClose

from hub.ending import end_tasks
from hub.engine.survey import Survey
from hub.job.event import JobId
from hub.job.event import job_id as parse_job_id
from hub.web.context import get_context
from hub.web.inspection import of_all, of_one
from hub.web.operators import is_operator

EVERY = 1.0
"""Seconds between two answers."""

MOST_JOBS, MOST_VIEWERS = 50, 200
"""Rows of an answer, from each process."""


def add_inspector_socket(router: APIRouter) -> None:
    """Add the endpoint to the operator's."""

    @router.websocket("/admin/api/live")
    async def live(socket: WebSocket) -> None:
        if not is_operator(socket.scope):  # as a path that does not exist
            await WebSocketClose()(socket.scope, socket.receive, socket.send)
            return
        await socket.accept()
        await _Page(socket, get_context(socket).own_service().hub.survey).run()


class _Page:
    """One page that is seen. `_asked` is set when it wants an answer now."""

    def __init__(self, socket: WebSocket, survey: Survey) -> None:
        self._socket = socket
        self._survey = survey
        self._job: JobId | None = None
        self._asked = asyncio.Event()

    async def run(self) -> None:
        """Answer until the page has gone."""
        listening = asyncio.create_task(self._listen())
        listening.add_done_callback(lambda _: self._asked.set())
        try:
            while not listening.done():
                answer = json.dumps(await self._answer(), separators=(",", ":"))
                with contextlib.suppress(WebSocketDisconnect):  # `_listen` learns it, too
                    await self._socket.send_text(answer)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(EVERY):
                        await self._asked.wait()
                self._asked.clear()
        finally:
            await end_tasks(listening)

    async def _answer(self) -> dict[str, Any]:
        job = self._job
        answer = of_all(await self._survey.ask(None, MOST_JOBS), MOST_JOBS)
        found = None if job is None else of_one(await self._survey.ask(job, MOST_VIEWERS))
        return {**answer, "job_id": job, "job": found}

    async def _listen(self) -> None:
        while (message := await self._socket.receive())["type"] != "websocket.disconnect":
            self._job = _wanted(message.get("text") or "")
            self._asked.set()


def _wanted(text: str) -> JobId | None:
    try:
        return parse_job_id(json.loads(text)["job"] or "")
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
