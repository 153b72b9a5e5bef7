"""The portable wire: any ASGI server, any test client. One task sends, one listens.

Invariant: only `run` sends, so bytes of one connection never interleave. A payload is a list of ASGI messages, shared by
all viewers of an audience. At most one payload and some short answers wait here; beyond that the wire is paused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, MutableMapping
from typing import Any

from starlette.types import Send
from starlette.websockets import WebSocketDisconnect

from hub.ending import end_tasks
from hub.fanout.blocked import Blocked
from hub.fanout.wire import Reason
from hub.quiet import quiet_log

log = quiet_log("hub.transports")

Message = MutableMapping[str, Any]
Messages = list[Message]


class AsgiWire:
    """A `Wire` on an ASGI `send`. `last_words` gives the messages that end the connection for a reason.

    A send that takes longer than `blocked` allows is broken off: by `cut`, which resets the connection where the server below
    lets us, else by cancelling the send.
    """

    __slots__ = (
        "_blocked",
        "_broken_off",
        "_cut",
        "_flushed",
        "_last_words",
        "_pending",
        "_send",
        "_sending",
        "_sent",
        "_task",
        "_wake",
        "catch_up",
        "reason",
        "writes",
    )

    def __init__(
        self,
        send: Send,
        blocked: Blocked,
        *,
        last_words: Callable[[Reason], Messages],
        cut: Callable[[], None] | None = None,
    ) -> None:
        self.catch_up: Callable[[], None] = _nothing  # writes what the log has for this viewer; the seat's
        self.reason: Reason | None = None
        self.writes = 0
        self._send = send
        self._blocked = blocked
        self._broken_off = False
        self._cut = cut
        self._task: asyncio.Task[Any] | None = None  # that sends
        self._last_words = last_words
        self._pending: Messages = []
        self._sending = False
        self._sent = 0  # payloads, with what else was waiting
        self._wake = asyncio.Event()
        self._flushed = asyncio.Event()

    @property
    def paused(self) -> bool:
        """Whether something still waits to be sent, or nothing ever will."""
        return self._sending or bool(self._pending) or self.reason is not None

    @property
    def finished(self) -> bool:
        """Whether only the last words are missing."""
        return self.reason is not None

    @property
    def unsent(self) -> int:
        """The server below does not say."""
        return 0

    def write(self, payload: Messages) -> None:
        """Send these as soon as possible."""
        self.writes += 1
        self._pending += payload
        self._wake.set()

    def beat(self, payload: Messages) -> None:
        """The server below sends the Pings, and knows who does not answer."""
        self.write(payload)

    def finish(self, reason: Reason) -> None:
        """End the connection when all that was written is sent. The first reason stands."""
        if self.reason is None:
            self.reason = reason
            self._wake.set()

    async def flush(self) -> None:
        """Return when what waits now is sent, or nothing ever will be. Cancel-safe."""
        goal = self._sent + self._sending + bool(self._pending)
        while self._sent < goal and self.reason is not Reason.LEFT:
            self._flushed.clear()
            await self._flushed.wait()

    async def send_now(self, messages: Messages) -> None:
        """Send before `run`: what a viewer is given at the beginning. Raises OSError when it is gone or too slow."""
        self._task = asyncio.current_task()
        await self._send_all(messages)

    async def run(self, listen: Coroutine[Any, Any, Reason]) -> None:
        """Send until there is a reason to end; `listen` reads the client and returns why it is to end."""
        self._task = asyncio.current_task()
        listener = asyncio.create_task(listen)
        listener.add_done_callback(self._heard)
        try:
            await self._run()
        except (OSError, WebSocketDisconnect):
            # The client is gone: uvicorn says it one way, starlette the other.
            self.reason = Reason.LEFT
        finally:
            self._flushed.set()
            if self.reason is None:
                self.reason = Reason.LEFT
            await end_tasks(listener)
            self.catch_up = _nothing  # the seat holds this wire

    def _heard(self, listener: asyncio.Task[Reason]) -> None:
        if listener.cancelled():
            return
        error = listener.exception()
        if error is not None:
            log.error("a client's command failed, its connection is closed", exc_info=error)
        self.finish(listener.result() if error is None else Reason.FAILED)
        if self.reason is Reason.LEFT:
            self._pending.clear()

    async def _run(self) -> None:
        while True:
            if not self._pending:
                self.catch_up()
            if self._pending:
                pending, self._pending = self._pending, []
                self._sending = True
                await self._send_all(pending)
                self._sending = False
                self._sent += 1
                self._flushed.set()
            elif self.reason is not None:
                break
            else:
                self._wake.clear()
                await self._wake.wait()
        if self.reason is not Reason.LEFT:
            await self._send_all(self._last_words(self.reason))

    def abort(self) -> None:
        """The viewer takes nothing; break off the send that waits for it."""
        if self._cut is not None:
            self._cut()
        elif self._task is not None and not self._broken_off:
            self._broken_off = True
            self._task.cancel()

    async def _send_all(self, messages: Messages) -> None:
        # The one bound on a viewer that does not read: the server's own back-pressure holds `send` here. Not asyncio.timeout, which
        # is two timers made and cancelled for each delivery; the heartbeat looks at who is blocked once a second.
        self._blocked.add(self)
        try:
            for message in messages:
                await self._send(message)
        except asyncio.CancelledError:
            if self._broken_off and self._task is not None and self._task.uncancel() == 0:
                raise ConnectionAbortedError("blocked for the send timeout") from None
            raise
        except RuntimeError as error:
            # uvicorn complains of what follows when it took the accept of a client who was just leaving for nothing, or has closed
            # the socket itself for what the client had sent.
            if "'websocket." not in str(error):
                raise
            raise ConnectionAbortedError("closed by the server below") from error
        finally:
            self._blocked.discard(self)


def _nothing() -> None:
    """There is no seat yet, or no longer."""
