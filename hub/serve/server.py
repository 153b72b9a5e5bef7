"""Runs the hub on uvicorn: listening sockets, log configuration, shutdown.

Invariant: at SIGTERM viewers are first drained (told to reconnect elsewhere), and connections are closed
after that. uvicorn alone would cut every WebSocket at once, wait for event streams for ever, and run the
application's shutdown last.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType

import uvicorn
from fastapi import FastAPI

from hub.ending import end_tasks
from hub.errors import InvalidSettings
from hub.serve.logs import LogSwitch, log_config, logs_access
from hub.serve.protocols import protocols
from hub.serve.workers import Workers
from hub.settings import Settings
from hub.transports import uvicorn_limits
from hub.transports.commands import MAX_BYTES
from hub.web.context import Context
from hub.web.metrics import Board

logger = logging.getLogger("hub")

TCP_USER_TIMEOUT = 45_000
"""Milliseconds that sent bytes may stay unacknowledged before the kernel closes the connection: a viewer
whose cable was cut. A WebSocket that answers no ping is closed after 45 s too.
"""

NOT_SENT = 128 * 1024
"""Most unsent bytes that the kernel buffers per socket. Without this limit it would buffer up to 4 MB for a
viewer that reads nothing, and we would not notice that the viewer is blocked. Bytes in flight do not count,
so a viewer with a long round trip keeps its throughput.
"""

BACKLOG = 4096
"""Connections that may wait to be accepted: enough for the reconnect storm after a deploy."""

KEEP_ALIVE = 75
"""Seconds before an idle HTTP connection is closed: more than an ALB's 60, so that the ALB always closes
first and never sends a request into a connection that we are closing.
"""

GC_THRESHOLD = (10_000, 20, 50)
"""Thresholds of the garbage collector, by generation. A viewer's objects live long and a join makes no
cycles, so with Python's own 700, 10, 10 the collector walks over ten thousand viewers and frees nothing (3 %
of a storm of joins).
"""

SPARE_FILES = 100
"""Open files that are nobody's who connects: 51 connections to Redis, sockets that listen, the log."""

SAME_SIGNAL = 1.0
"""Seconds within which a second signal to a worker counts as the first one, delivered twice."""


class Server(uvicorn.Server):
    """uvicorn's server with a drain before its shutdown. After a signal `run` returns to its caller."""

    def __init__(
        self, config: uvicorn.Config, context: Context, *, freeze: bool = False, parent: int | None = None
    ) -> None:
        super().__init__(config)
        self._parent = parent
        self._signalled = 0.0
        self._context = context
        self._freeze = freeze  # True in a process of its own: what the start made, it keeps

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but does not raise the signal again at the end, so that the exit code is 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {sig: signal.signal(sig, self.handle_exit) for sig in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)

    def handle_exit(self, _sig: int, _frame: FrameType | None) -> None:
        """End in order at the first signal, at once at the second.

        A signal to the process group reaches a worker twice: from the terminal (or systemd), and forwarded by
        its parent. The two count as one.
        """
        now = time.monotonic()
        if self._parent is not None and self.should_exit and now - self._signalled < SAME_SIGNAL:
            return
        self._signalled = now
        self.force_exit = self.should_exit
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then exempt what exists from garbage collection: it lives as long as the process."""
        await super().startup(sockets)
        if self._freeze:
            gc.collect()
            gc.freeze()
            gc.set_threshold(*GC_THRESHOLD)

    async def on_tick(self, counter: int) -> bool:
        """uvicorn's tick, 10 a second. Once a second: report totals, and end if the parent is gone."""
        if counter % 10 == 0:
            self._context.report()
            if self._parent is not None and os.getppid() != self._parent:
                # Nobody would end or replace this orphan, and a restarted hub needs the port.
                self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, drain the viewers, then let uvicorn close what is left."""
        for server in self.servers:
            server.close()
        began = time.monotonic()
        draining = asyncio.create_task(self._context.drain(), name="hub-drain")
        while not draining.done() and not self.force_exit:
            await asyncio.wait([draining], timeout=0.1)
        await end_tasks(draining)
        services = self._context.services
        end = began + max((service.hub.settings.drain for service in services), default=0)
        while any(service.hub.blocked for service in services):  # until each takes its last bytes, or closes
            if self.force_exit or time.monotonic() > end:
                break
            await asyncio.sleep(0.1)
        for service in services:
            service.hub.blocked.abort_all()  # they had the whole drain window
        if self.force_exit:
            # With `force_exit` uvicorn would skip the application's shutdown and cancel its tasks halfway.
            await self._context.aclose()
            self.force_exit = False
        await super().shutdown(sockets)
        moved = sum(service.hub.statistics().moved for service in services)
        logger.info("%d viewers moved away in %.1f s, the process ends", moved, time.monotonic() - began)


def serve(
    app: FastAPI,
    settings: Settings,
    sockets: list[socket.socket],
    *,
    admin: socket.socket | None = None,
    parent: int | None = None,
) -> None:
    """Serve `app` on `sockets` until SIGTERM or SIGINT. A second signal ends the process at once.

    `admin`: the socket on which the operator's endpoints are.
    `parent`: the id of the process that supervises this one. When that process is gone, this one ends.
    """
    context: Context = app.state.push_hub
    # First, because `config` configures logging, and `limit_viewers` may log.
    server = Server(config(app, settings), context, freeze=True, parent=parent)
    context.stop = partial(os.kill, parent or os.getpid(), signal.SIGTERM)
    context.on_log_level = LogSwitch(settings).set
    files = _allow_many_files()
    uvicorn_limits.MOST_WAITING = min(uvicorn_limits.MOST_WAITING, max(20, files // 4))
    context.limit_viewers(files - SPARE_FILES - uvicorn_limits.MOST_WAITING)
    if admin is not None:
        context.admin_ports.add(admin.getsockname()[1])
        sockets = [*sockets, admin]
    server.run(sockets)


def _allow_many_files() -> int:
    """Raise the soft limit of open files to the hard one, and return it. A viewer is a file; often 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS reports "unlimited" and then refuses to set it
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def serve_many(
    create: Callable[[], FastAPI],
    settings: Settings,
    sockets: list[socket.socket],
    *,
    admins: list[socket.socket],
) -> None:
    """Serve with one process per socket. Each process makes its own application with `create`.

    `admins`: as many sockets on the admin port, or none.
    """
    board = Board(len(sockets))
    parent = os.getpid()

    def work(number: int) -> None:
        for other, sock in enumerate([*sockets, *admins]):
            if other % len(sockets) != number:
                sock.close()
        board.begin(number)
        app = create()
        app.state.push_hub.place = board, number
        admin = admins[number] if admins else None
        serve(app, settings, [sockets[number]], admin=admin, parent=parent)

    Workers(len(sockets), work, [*sockets, *admins]).run()


def config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """Returns uvicorn's configuration for `app`."""
    http, websocket = protocols()
    return uvicorn.Config(
        app,
        loop="auto",
        http=http,
        ws=websocket,
        ws_max_size=MAX_BYTES,
        ws_ping_interval=settings.heartbeat,
        ws_ping_timeout=2 * settings.heartbeat,
        ws_per_message_deflate=False,  # it costs 40 KB per viewer and 10 us per message
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=1,  # for plain requests and closing handshakes; viewers are drained by then
        backlog=BACKLOG,
        server_header=False,
        access_log=logs_access(settings.log_level),  # else lines are formatted and then dropped
        log_config=log_config(settings),
    )


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Returns a listening socket; port 0 means a free port. Raises InvalidSettings if it cannot listen there.

    `shared`: other sockets of this command listen on this port; the kernel spreads connections over them.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, proto)
    except OSError as error:
        raise InvalidSettings(f"expected an address to listen on, got {host}:{port} ({error})") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; accepted sockets inherit it
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOT_SENT)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        taken = error.errno == errno.EADDRINUSE
        problem = "which is in use" if taken else f"({error.strerror})"
        raise InvalidSettings(f"expected a free port, got {host}:{port} {problem}") from error
    return sock
