"""Answers the commands on the WebSocket of one job: at once, or in order where something is waited for."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Protocol

from hub.ending import end_tasks
from hub.engine.caller import Caller
from hub.engine.hub import Hub
from hub.engine.view import View
from hub.fanout.wire import Reason
from hub.transports.answers import answer_text, error_text, give, read_state, state_text
from hub.transports.commands import Command, Malformed, parse
from hub.transports.renewal import Verify, renew

MOST_WAITING = 16
"""Commands of a detached socket that wait for an answer."""


class Answered(Protocol):
    """A detached socket."""

    @property
    def finished(self) -> bool: ...

    def answer(self, data: bytes, /) -> None:
        """Write an answer, for which the client is charged."""

    def finish(self, reason: Reason, /) -> None: ...


class Answering:
    """The commands of all sockets of one transport. `frame` makes JSON text bytes for a detached socket."""

    def __init__(self, hub: Hub, verify: Verify | None, frame: Callable[[bytes], bytes]) -> None:
        self._frame = frame
        self._hub = hub
        self._verify = verify
        self._waiting: dict[View, deque[Command]] = {}  # for an answer, on detached sockets
        self._answering: set[asyncio.Task[None]] = set()

    def answer(self, wire: Answered, view: View, data: str) -> bytes:
        """The answer to one message, as bytes for a detached socket; b"" if it comes later."""
        answer = self._answer(wire, view, data)
        return self._frame(answer) if answer else b""

    def _answer(self, wire: Answered, view: View, data: str) -> bytes:
        try:
            command = parse(data)
        except Malformed as error:
            return error_text(error.code, str(error), error.ref)
        if (answer := answer_at_once(view, command)) is not None:
            return answer
        waiting = self._waiting.setdefault(view, deque())
        if len(waiting) >= MOST_WAITING:
            words = f"expected at most {MOST_WAITING} commands that wait for an answer"
            return error_text("unavailable", words, command.ref)
        waiting.append(command)
        if len(waiting) == 1:
            task = asyncio.create_task(self._answer_on(wire, view, waiting), name="hub-answers")
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        return b""

    async def _answer_on(self, wire: Answered, view: View, waiting: deque[Command]) -> None:
        """Answer one command after the other, in their order."""
        try:
            while waiting:
                answer = await self.execute(view, waiting[0])
                waiting.popleft()
                if wire.finished:
                    return
                if answer is not None:
                    wire.answer(self._frame(answer))
                else:
                    wire.finish(Reason.EXPIRED)
        finally:
            del self._waiting[view]

    async def execute(self, view: View, command: Command) -> bytes | None:
        """The answer; None if the socket must end."""
        if (answer := answer_at_once(view, command)) is not None:
            return answer
        if command.op == "authenticate":
            return await self._renew(view, command)
        if command.op == "command":
            return await give(self._hub, _caller(view), view.job_id, command)
        return await read_state(view, command.ref)

    async def _renew(self, view: View, command: Command) -> bytes | None:
        return await renew(
            self._hub, self._verify, _caller(view), command, lambda new: self._accept(view, new)
        )

    def _accept(self, view: View, caller: Caller) -> None:
        view.renew(caller, self._hub.age.expiry(caller.expires))

    async def aclose(self) -> None:
        """End the tasks."""
        await end_tasks(*self._answering)


def _caller(view: View) -> Caller:
    """Whose socket it is. A revocation has ended it if it concerns these credentials."""
    return view.guest or Caller(view.user, issued=math.inf)


def answer_at_once(view: View, command: Command) -> bytes | None:
    """The answer to a command on the socket of one job; None if something must be waited for."""
    match command.op:
        case "ping":
            return answer_text("pong", command.ref)
        case "state":
            return state_text(view, command.ref) if view.is_whole else None
        case "authenticate" | "command":
            return None
        case _:
            return error_text(
                "unsupported", "expected state, ping or command on the socket of one job", command.ref
            )
