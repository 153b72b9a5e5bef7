"""Detached sockets on an epoll of their own. A viewer's socket needs a descriptor and little else, so it
costs a tenth of the loop's own transport in memory, and a write is one system call.

Invariant: a socket belongs to one transport at a time. Until the loop's transport has written what it holds,
and is gone, bytes wait here; then the descriptor is ours alone.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections import deque
from typing import Any, cast
from weakref import WeakKeyDictionary

HIGH_WATER = 64 * 1024
"""Unsent bytes over which the protocol is paused; asyncio's own bound."""

LOW_WATER = 16 * 1024
"""Unsent bytes at which the protocol is resumed; asyncio's own bound."""

READ_SIZE = 64 * 1024
"""Bytes of one read."""

SLICE = 64
"""Sockets that are looked at before the loop gets a turn."""

_READ, _WRITE = 1, 4  # EPOLLIN and EPOLLOUT


class Sockets:
    """The open sockets of one loop, on an epoll that ends with it. Raises OSError if there can be none."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._by_descriptor: list[EpollTransport | None] = []  # a list takes a tenth of a dictionary
        asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._look)

    def add(self, descriptor: int, transport: EpollTransport, events: int) -> None:
        """Watch a socket for `events`. Raises OSError if the kernel watches no more."""
        self._epoll.register(descriptor, events)
        self._by_descriptor += [None] * (descriptor + 1 - len(self._by_descriptor))
        self._by_descriptor[descriptor] = transport

    def watch(self, descriptor: int, events: int) -> None:
        """Watch a socket for other events than before."""
        self._epoll.modify(descriptor, events)

    def remove(self, descriptor: int) -> None:
        """Watch a socket no longer. It is still open, so its descriptor is not given to another one yet."""
        self._epoll.unregister(descriptor)
        self._by_descriptor[descriptor] = None

    def _look(self) -> None:
        for descriptor, events in self._epoll.poll(0, SLICE):
            transport = self._by_descriptor[descriptor]
            if transport is not None:  # else another one's event has ended it
                transport.on_events(events)


class EpollTransport(asyncio.Transport):
    """An asyncio transport on a descriptor of `Sockets`. It has what a `SocketWire` uses of a transport."""

    __slots__ = (
        "_before",
        "_descriptor",
        "_events",
        "_is_closing",
        "_is_lost",
        "_is_paused",
        "_protocol",
        "_rest",
        "_sockets",
        "_unsent",
    )

    def __init__(self, sockets: Sockets, descriptor: int, before: asyncio.Transport) -> None:
        self._sockets = sockets
        self._descriptor = descriptor
        self._before: asyncio.Transport | None = before  # the loop's transport, until it is gone
        self._protocol: asyncio.Protocol | None = None
        self._rest: deque[bytes | memoryview] | None = deque()  # None: a write goes to the kernel at once
        self._unsent = 0  # bytes of it
        self._events = _READ
        self._is_paused = False  # the protocol
        self._is_closing = False
        self._is_lost = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give what comes from now on to `protocol`."""
        self._protocol = cast(asyncio.Protocol, protocol)

    def write(self, data: Any) -> None:
        """Write to the kernel; what it does not take now is kept and written later."""
        if self._rest is None:
            try:
                taken = os.write(self._descriptor, data)
            except BlockingIOError:
                taken = 0
            except OSError:
                self.abort()
                return
            if taken == len(data):
                return
            data = memoryview(data)[taken:]
            self._rest = deque()
            self._watch(self._events | _WRITE)
        if not self._is_closing:
            self._keep(data)

    def _keep(self, data: bytes | memoryview) -> None:
        assert self._rest is not None, "a write that waits"
        self._rest.append(data)
        self._unsent += len(data)
        if self._unsent > HIGH_WATER and not self._is_paused and self._protocol is not None:
            self._is_paused = True
            self._protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        """The number of bytes that the kernel has not taken yet."""
        return self._unsent + (0 if self._before is None else self._before.get_write_buffer_size())

    @property
    def descriptor(self) -> int:
        """The socket's, which is open until after `connection_lost`."""
        return self._descriptor

    def is_closing(self) -> bool:
        """Returns True after `close`, `abort`, or when the connection is lost."""
        return self._is_closing

    def close(self) -> None:
        """Write what waits, and close."""
        if self._is_closing:
            return
        self._is_closing = True
        self.pause_reading()
        if self._rest is None:
            self._lose()

    def abort(self) -> None:
        """Close, and drop what waits."""
        self._unsent = 0
        self._lose()

    def pause_reading(self) -> None:
        """Take no bytes from the client; the kernel's buffers fill, and then the client waits."""
        self._watch(self._events & ~_READ)

    def resume_reading(self) -> None:
        """Take bytes again."""
        self._watch(self._events | _READ)

    def _watch(self, events: int) -> None:
        if events != self._events and not self._is_lost:
            self._events = events
            if self._before is None:
                self._sockets.watch(self._descriptor, events)

    # --- the loop's transport, the one before

    def take_over(self) -> None:
        """The loop's transport is gone: its bytes are in the kernel, and the descriptor is ours alone."""
        self._before = None
        if self._is_lost:
            return
        try:
            self._sockets.add(self._descriptor, self, self._events)
        except OSError:  # else this viewer would wait for ever
            self._end()
        else:
            self._write_rest()

    # --- what epoll says

    def on_events(self, events: int) -> None:
        """Write, read, or notice that the connection is lost."""
        try:
            if events & _WRITE and self._rest is not None:
                self._write_rest()
            if events & ~_WRITE and not self._is_lost:
                self._read()
        except Exception as error:  # noqa: BLE001
            # As asyncio does. One viewer's fault must not keep the others from being looked at.
            message = {"message": "a viewer's socket failed", "exception": error, "transport": self}
            asyncio.get_running_loop().call_exception_handler(message)
            self.abort()

    def _read(self) -> None:
        """Also called for a reset connection, whatever is watched: the read then raises."""
        try:
            data = os.read(self._descriptor, READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            self.abort()
            return
        assert self._protocol is not None, "the wire became the protocol when it got this transport"
        if data and not self._is_closing:
            self._protocol.data_received(data)
        elif not data:
            self.close()

    def _write_rest(self) -> None:
        assert self._rest is not None, "bytes that waited"
        rest = self._rest
        while rest:
            try:
                taken = os.write(self._descriptor, rest[0])
            except BlockingIOError:
                self._watch(self._events | _WRITE)
                break
            except OSError:
                self.abort()
                return
            self._unsent -= taken
            if taken == len(rest[0]):
                rest.popleft()
            else:
                rest[0] = memoryview(rest[0])[taken:]
        if not rest and self._is_closing:
            self._lose()
        elif not rest:
            self._rest = None
            self._watch(self._events & ~_WRITE)
        if self._is_paused and self._unsent <= LOW_WATER and not self._is_lost:
            self._is_paused = False
            assert self._protocol is not None, "it was paused"
            self._protocol.resume_writing()

    def _lose(self) -> None:
        if self._is_lost:
            return
        if self._before is None:
            self._sockets.remove(self._descriptor)
        else:
            self._before.abort()
        self._end()

    def _end(self) -> None:
        self._is_closing = self._is_lost = True
        self._rest = deque()  # so that nothing is written any more
        asyncio.get_running_loop().call_soon(self._lost)  # never within a call of the protocol

    def _lost(self) -> None:
        protocol, self._protocol = self._protocol, None
        try:
            if protocol is not None:
                protocol.connection_lost(None)
        finally:
            os.close(self._descriptor)


class _Leaving(asyncio.Protocol):
    """The last protocol of the loop's transport: it waits until that is gone."""

    def __init__(self, successor: EpollTransport) -> None:
        self._successor = successor

    def connection_lost(self, _exc: Exception | None) -> None:
        self._successor.take_over()


_SOCKETS: WeakKeyDictionary[asyncio.AbstractEventLoop, Sockets] = WeakKeyDictionary()


def _sockets() -> Sockets:
    loop = asyncio.get_running_loop()
    sockets = _SOCKETS.get(loop)
    if sockets is None:
        _SOCKETS[loop] = sockets = Sockets()
    return sockets


def moved(transport: asyncio.Transport) -> asyncio.Transport:
    """Returns a transport of ours for the socket of `transport`, which ends; or `transport` itself, where
    there is no epoll or no descriptor left.
    """
    socket = transport.get_extra_info("socket")
    if socket is None or not hasattr(select, "epoll"):
        return transport
    try:
        sockets = _sockets()
        descriptor = os.dup(socket.fileno())
    except OSError:
        return transport
    ours = EpollTransport(sockets, descriptor, transport)
    transport.set_protocol(_Leaving(ours))
    transport.close()  # writes what it holds; the connection stays open, as our descriptor is the same socket's
    return ours
