"""What Redis says on a Pub/Sub connection, parsed where its bytes arrive: without a task, a wakeup and two
coroutines for each message.

redis-py connects and authenticates. Then this protocol takes the transport's bytes. redis-py goes on writing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import InvalidResponse

try:
    import hiredis
except ImportError:  # a worker that only publishes has none
    hiredis = None  # type: ignore[assignment]

Command = tuple[str | bytes | int | float, ...]
"""A command and its arguments."""

CAN_READ = hiredis is not None


def packed(command: Command) -> bytes:
    """The bytes that are sent for a command."""
    data: bytes = hiredis.pack_command(cast(Any, command))
    return data


Take = Callable[[Any], None]
"""Gets a reply; an error of Redis is an exception."""


class Replies(asyncio.Protocol):
    """Calls `take` with each reply. What `take` raises ends the connection, and `ended` raises it."""

    def __init__(
        self, transport: asyncio.Transport, parse_error: Callable[[str], Exception], take: Take
    ) -> None:
        self._transport = transport
        self._before: Any = transport.get_protocol()  # redis-py's, which a writer waits for
        self._take = take
        self._parser = hiredis.Reader(protocolError=InvalidResponse, replyError=parse_error)
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    def of(cls, connection: AbstractConnection, take: Take) -> Replies | None:
        """Take over a connection on which nothing is under way; None where it is not the one we know."""
        inside: Any = connection  # redis-py has no public names for these
        reader: Any = getattr(inside, "_reader", None)
        writer: Any = getattr(inside, "_writer", None)
        parse_error = getattr(getattr(inside, "_parser", None), "parse_error", None)
        is_known = type(reader) is asyncio.StreamReader and type(writer) is asyncio.StreamWriter
        if not is_known or hiredis is None or parse_error is None:
            return None
        if reader._buffer or reader.at_eof():  # noqa: SLF001
            return None
        replies = cls(writer.transport, parse_error, take)
        writer.transport.set_protocol(replies)
        return replies

    def write(self, data: bytes) -> None:
        """Send `data`; what does not go at once waits in the transport."""
        self._transport.write(data)

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    async def ended(self) -> None:
        """Return when Redis has closed the connection. Raises what ended it before. Cancel-safe."""
        await asyncio.shield(self._end)

    def data_received(self, data: bytes) -> None:
        """Bytes of Redis."""
        self._parser.feed(data)
        try:
            while (reply := self._parser.gets()) is not False:
                self._take(reply)
        except Exception as error:  # noqa: BLE001  # whoever awaits `ended` gets it
            self._finish(error)
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone, by either side."""
        self._finish(error)
        self._before.connection_lost(error)

    def pause_writing(self) -> None:
        """The transport's buffer is full: who writes waits."""
        self._before.pause_writing()

    def resume_writing(self) -> None:
        """The pair of `pause_writing`."""
        self._before.resume_writing()

    def _finish(self, error: Exception | None) -> None:
        if self._end.done():
            return
        if error is None:
            self._end.set_result(None)
        else:
            self._end.set_exception(error)
            self._end.exception()  # retrieved, for nobody may wait any more
