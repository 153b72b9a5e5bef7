"""The door (door.py) in uvicorn's HTTP protocol: no scope, no cycle and no application for a plain viewer.

The head is parsed and checked as any other. A request that the door does not let in goes on as if it had not
been there, with what the door has found out in its scope.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any, cast

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from hub.transports.door import VISIT, Visit, door_of
from hub.transports.handoff import is_plain
from hub.transports.uvicorn_http import HandoffHttpProtocol


class _AtTheDoor:
    """Stands for uvicorn's cycle of a request while the viewer is at the door."""

    __slots__ = ("disconnected", "keep_alive", "more_body", "response_complete", "response_started")

    def __init__(self, *, more_body: bool) -> None:
        self.disconnected = self.response_complete = self.response_started = False
        self.keep_alive = True
        self.more_body = more_body

    @property
    def message_event(self) -> _AtTheDoor:
        """Nobody waits for the request's body: see `set`."""
        return self

    def set(self) -> None:
        """Does nothing."""


class DoorHttpProtocol(HandoffHttpProtocol):
    """The HTTP protocol that `serve` uses."""

    _is_late = False  # True while the application's turn begins for a request that was at the door
    _turn: tuple[RequestResponseCycle, Any] | None = None

    def _begin(self) -> None:
        visit = None if self.parser.should_upgrade() else self._visit(upgrade=False)
        if visit is None:
            super()._begin()
        else:
            self._wait(self._answer(visit, waiting := _AtTheDoor(more_body=True)), waiting)

    def _become_websocket(self, early: bytes) -> None:
        visit = self._visit(upgrade=True)
        if visit is None:
            super()._become_websocket(early)
        else:
            self._held, self._next = early, 0
            self._wait(self._answer_handshake(visit, waiting := _AtTheDoor(more_body=False)), waiting)

    def _visit(self, *, upgrade: bool) -> Visit | None:
        """The viewer that makes this request, if it is for the door."""
        app = self.app.app if isinstance(self.app, ProxyHeadersMiddleware) else self.app
        door = door_of(app)
        if door is None or self.root_path or self.limit_concurrency is not None or self._is_answering:
            return None
        parser = self.parser
        if (
            parser.get_method() != b"GET"
            or parser.get_http_version() != "1.1"
            or not is_plain(self.transport)
        ):
            return None
        if self._is_logged(upgrade=upgrade) and any(name == b"x-forwarded-for" for name, _ in self.headers):
            return None  # uvicorn's middleware knows whose name the line has
        return door.visit(self.url, self.headers, upgrade=upgrade)

    def _wait(self, answer: Any, waiting: _AtTheDoor) -> None:
        self.cycle = waiting
        task = self.loop.create_task(answer)
        task.add_done_callback(self._answered)
        self.tasks.add(task)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.logger.error("A request at the door failed", exc_info=error)
            self.transport.abort()  # a client that gets no answer would wait

    async def _answer(self, visit: Visit, waiting: _AtTheDoor) -> None:
        try:
            is_for_here = await visit.ask()
            if waiting.disconnected or (is_for_here and self._let_in(visit, waiting, upgrade=False)):
                return
            await self._ask_the_application(visit, waiting)
        finally:
            visit.close()

    async def _answer_handshake(self, visit: Visit, waiting: _AtTheDoor) -> None:
        is_passed_on = False
        try:
            is_for_here = await visit.ask()
            if waiting.disconnected or (is_for_here and self._let_in(visit, waiting, upgrade=True)):
                return
            is_passed_on = True
        finally:
            if not is_passed_on:
                visit.close()
        early, self._held = self._held[self._next :], b""
        self.flow.resume_reading()
        self.ws_protocol_class: Any = partial(self.ws_protocol_class, visit=visit)
        super()._become_websocket(early)

    def _let_in(self, visit: Visit, waiting: _AtTheDoor, *, upgrade: bool) -> bool:
        """Begin the stream. Returns False if the socket cannot be given away now."""
        early = b""
        if upgrade:  # what the client sent behind its handshake is for the stream
            early, self._held = self._held[self._next :], b""
        detached = self.detach(waiting)
        if detached is None:
            if early:
                self._held, self._next = early, 0
            return False
        if self._is_logged(upgrade=upgrade):
            self._log(upgrade=upgrade)
        wire = visit.enter(detached, self.server_state.default_headers)
        if early:
            wire.data_received(early)
        return True

    async def _ask_the_application(self, visit: Visit, waited: _AtTheDoor) -> None:
        """Run the request as uvicorn would have, in this task."""
        self.cycle = None
        self._is_late = True
        super()._begin()
        self._is_late = False
        assert self._turn is not None, "`_begin` starts a request that is no upgrade"
        (cycle, app), self._turn = self._turn, None
        cycle.more_body = waited.more_body
        cycle.keep_alive &= waited.keep_alive  # False if the server is shutting down
        cast(Any, self.scope)[VISIT] = visit
        await cycle.run_asgi(app)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self._is_late:
            self._turn = cycle, app
        else:
            super()._start_asgi_task(cycle, app)

    # --- the log

    def _is_logged(self, *, upgrade: bool) -> bool:
        return self.logger.isEnabledFor(logging.INFO) if upgrade else bool(self.access_log)

    def _log(self, *, upgrade: bool) -> None:
        """Write uvicorn's line about a request."""
        client = "{}:{}".format(*self.client) if self.client else ""
        path = self.url.decode("ascii")
        if upgrade:
            self.logger.info('%s - "WebSocket %s" [accepted]', client, path)
        else:
            self.access_logger.info('%s - "%s %s HTTP/%s" %d', client, "GET", path, "1.1", 200)
