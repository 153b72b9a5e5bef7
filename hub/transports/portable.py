"""The portable wire, for any ASGI server or test client. One task sends, another one listens.

Invariant: at any time only one task sends, so the bytes of a connection never interleave. A payload is a list
of ASGI messages that all viewers of an audience share. At most one payload and some short answers wait in a
wire, because the wire is paused while anything waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, MutableMapping
from typing import Any

from starlette.types import Send
from starlette.websockets import WebSocketDisconnect

from hub.ending import end_tasks
from hub.fanout.blocked import TOOK_NOTHING, Blocked
from hub.fanout.wire import Reason
from hub.quiet import quiet_log
from hub.transports.handoff import Handoff

logger = quiet_log("hub.transports")

Message = MutableMapping[str, Any]
Messages = list[Message]


class AsgiWire:
    """A `Wire` on an ASGI `send`. `last_words` makes the messages that end the connection for a reason.

    A send that takes longer than `blocked` allows is aborted: by `handoff`, which resets the connection if
    the server offers that, else by cancelling the task that sends.
    """

    __slots__ = (
        "_blocked",
        "_broken_off",
        "_first",
        "_flushed",
        "_handoff",
        "_last_words",
        "_late",
        "_pending",
        "_send",
        "_sending",
        "_sent",
        "_task",
        "_wake",
        "_was_cut",
        "catch_up",
        "reason",
        "whose",
        "writes",
    )

    def __init__(
        self,
        send: Send,
        blocked: Blocked,
        *,
        last_words: Callable[[Reason], Messages],
        handoff: Handoff | None = None,
        late: float = 0.0,
        whose: tuple[str, str] = ("", ""),
    ) -> None:
        self.whose = whose  # the job and the user
        self.catch_up: Callable[[], None] = _nothing  # the seat's: writes what the log has for this viewer
        self.reason: Reason | None = None
        self._first: Reason | None = None  # `reason` becomes LEFT where the last words reach nobody
        self._was_cut = False
        self.writes = 0
        self._send = send
        self._blocked = blocked
        self._broken_off = False
        self._handoff = handoff
        self._task: asyncio.Task[Any] | None = None  # the task that sends
        self._last_words = last_words
        self._late = late  # seconds until the close of a job that was over on arrival
        self._pending: Messages = []
        self._sending = False
        self._sent = 0  # number of times that all waiting messages were sent
        self._wake = asyncio.Event()
        self._flushed = asyncio.Event()

    @property
    def paused(self) -> bool:
        """Returns True while messages wait to be sent, and always after `finish`."""
        return self._sending or bool(self._pending) or self.reason is not None

    @property
    def finished(self) -> bool:
        """Returns True after `finish`: only the last words may still be sent."""
        return self.reason is not None

    @property
    def unsent(self) -> int:
        """The number of bytes that the kernel has not taken yet, as the
        server tells it; else 0: ASGI does not.
        """
        return 0 if self._handoff is None else self._handoff.unsent

    def write(self, payload: Messages) -> None:
        """Queue messages; `run` sends them. Does not wait."""
        self.writes += 1
        self._pending += payload
        self._wake.set()

    def beat(self, payload: Messages) -> None:
        """Write a heartbeat. The server sends the Pings itself, and closes dead connections."""
        self.write(payload)

    def finish(self, reason: Reason) -> None:
        """End the connection after all written messages are sent. Only the first call has an effect."""
        if self.reason is None:
            self.reason = self._first = reason
            self._wake.set()

    @property
    def why(self) -> str:
        """Why it ended, for the operator."""
        return TOOK_NOTHING if self._was_cut else (self._first or Reason.LEFT).words

    async def flush(self) -> None:
        """Return when all messages that wait now are sent, or when the client has left. Cancel-safe."""
        goal = self._sent + self._sending + bool(self._pending)
        while self._sent < goal and self.reason is not Reason.LEFT:
            self._flushed.clear()
            await self._flushed.wait()

    async def send_now(self, messages: Messages) -> None:
        """Send messages before `run` starts: the beginning of a stream.

        Raises OSError if the client has left or is too slow.
        """
        self._task = asyncio.current_task()
        await self._send_all(messages)

    async def run(self, listen: Coroutine[Any, Any, Reason]) -> None:
        """Send messages until the connection ends; `listen` reads the client and returns the reason."""
        self._task = asyncio.current_task()
        listener = asyncio.create_task(listen)
        listener.add_done_callback(self._listener_ended)
        try:
            await self._run()
            if self.reason is Reason.ENDED and self._late:
                await asyncio.wait([listener], timeout=self._late)
            if self.reason is not Reason.LEFT:
                await self._send_all(self._last_words(self.reason or Reason.LEFT))
        except (OSError, WebSocketDisconnect):
            # The client is gone: uvicorn raises OSError, starlette WebSocketDisconnect.
            self.reason = Reason.LEFT
        finally:
            self._flushed.set()
            if self.reason is None:
                self.reason = Reason.LEFT
            await end_tasks(listener)
            self.catch_up = _nothing  # breaks the reference cycle of seat and wire

    def _listener_ended(self, listener: asyncio.Task[Reason]) -> None:
        if listener.cancelled():
            return
        error = listener.exception()
        if error is not None:
            logger.error("a client's command failed, its connection is closed", exc_info=error)
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

    def abort(self) -> None:
        """Break off the send that waits for a client that takes no bytes."""
        self._was_cut = self._first is None
        if self._handoff is not None:
            self._handoff.cut()
        elif self._task is not None and not self._broken_off:
            self._broken_off = True
            self._task.cancel()

    async def _send_all(self, messages: Messages) -> None:
        # Backpressure: `send` waits while the client does not read, and `blocked` limits that time. The
        # heartbeat checks `blocked` once a second; asyncio.timeout would make and cancel two timers for each
        # delivery.
        self._blocked.add(self)
        try:
            for message in messages:
                await self._send(message)
        except asyncio.CancelledError:
            if self._broken_off and self._task is not None and self._task.uncancel() == 0:
                raise ConnectionAbortedError("blocked for the send timeout") from None
            raise
        except RuntimeError as error:
            # uvicorn raises RuntimeError for a message after the client left during the accept, and after
            # uvicorn itself closed the socket because of what the client sent.
            if "'websocket." not in str(error):
                raise
            raise ConnectionAbortedError("closed by the ASGI server") from error
        finally:
            self._blocked.discard(self)


def _nothing() -> None:
    """The `catch_up` of a wire without a seat."""
