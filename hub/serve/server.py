"""Runs the hub under uvicorn: sockets, loop, log, and an orderly end.

Invariant: at SIGTERM viewers are moved away first and only then are connections closed. uvicorn by itself would cut every
WebSocket at once, wait for event streams for ever, and run the application's own shutdown last.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import re
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from hub.ending import end_tasks
from hub.errors import InvalidSettings
from hub.serve.protocols import protocols
from hub.serve.workers import Workers
from hub.settings import Settings
from hub.transports.commands import MAX_BYTES
from hub.web.context import Context
from hub.web.metrics import Board

log = logging.getLogger("hub")

TCP_USER_TIMEOUT = 45_000
"""Milliseconds that written bytes may stay unacknowledged: a viewer whose cable was cut is gone after it."""

NOT_SENT = 128 * 1024
"""Bytes that may wait in the kernel to be sent. It would take up to 4 MB per socket from a viewer who reads nothing, and we would
not see that it is blocked. What is on its way on a long line does not count, so a fast far viewer stays fast."""

BACKLOG = 4096
"""Connections that may wait for accept: a reconnect storm after a deploy, until the loop gets to them."""

KEEP_ALIVE = 75
"""Seconds an idle HTTP connection stays: longer than the ALB's 60, or it would send into a closing one."""

GC_THRESHOLD = (10_000, 20, 50)
"""Allocations between collections, by generation: what a viewer keeps is no garbage, and a join leaves no cycles, so Python's
own 700, 10, 10 walk through ten thousand viewers again and again for nothing (3 % of a storm of joins)."""

SPARE_FILES = 200
"""Open files beside viewers: 50 connections to Redis and one for Pub/Sub, health checks, plain requests, who is just refused."""

SAME_SIGNAL = 1.0
"""Seconds within which a second signal to a worker is the first one's echo."""

_SECRETS = re.compile(r"((?:token|ticket|access_token|jwt)=)[^&\s\"]+", re.IGNORECASE)


class Server(uvicorn.Server):
    """uvicorn, with the drain before its own shutdown, and an end that is ours: exit code 0, and callers can clean up."""

    def __init__(
        self, config: uvicorn.Config, context: Context, *, freeze: bool = False, parent: int | None = None
    ) -> None:
        super().__init__(config)
        self._parent = parent
        self._signalled = 0.0
        self._context = context
        self._freeze = freeze  # a process of its own, so what is made at the start stays

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but the signal is not raised again afterwards: we ended because of it, and in order."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {sig: signal.signal(sig, self.handle_exit) for sig in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # a signal handler's signature
        """The first signal ends it in order, the second at once.

        A worker hears a signal to the whole group twice, from the terminal (or systemd) and from its parent: that is one.
        """
        now = time.monotonic()
        if self._parent is not None and self.should_exit and now - self._signalled < SAME_SIGNAL:
            return
        self._signalled = now
        self.force_exit = self.should_exit
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Keep the garbage collector from walking again and again through what was made until now and stays."""
        await super().startup(sockets)
        if self._freeze:
            gc.collect()
            gc.freeze()
            gc.set_threshold(*GC_THRESHOLD)

    async def on_tick(self, counter: int) -> bool:
        """uvicorn's tick, ten a second: once a second this process says how it is."""
        if counter % 10 == 0:
            self._context.report()
            if self._parent is not None and os.getppid() != self._parent:
                # Who would end and replace us is gone; whoever starts the hub anew needs the port.
                self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, move viewers away, then let uvicorn close what is left."""
        for server in self.servers:
            server.close()
        began = time.monotonic()
        draining = asyncio.create_task(self._context.drain(), name="hub-drain")
        while not draining.done() and not self.force_exit:
            await asyncio.wait([draining], timeout=0.1)
        await end_tasks(draining)
        services = self._context.services
        end = began + max((service.hub.settings.drain for service in services), default=0)
        while any(service.hub.blocked for service in services):  # they take their last bytes, or say goodbye
            if self.force_exit or time.monotonic() > end:
                break
            await asyncio.sleep(0.1)
        for service in services:
            service.hub.blocked.abort_all()  # they had the window
        if self.force_exit:
            # uvicorn would leave out the application's own shutdown, and cancel what runs in the middle of it
            await self._context.aclose()
            self.force_exit = False
        await super().shutdown(sockets)
        moved = sum(service.hub.statistics().moved for service in services)
        log.info("%d viewers moved away in %.1f s, the process ends", moved, time.monotonic() - began)


def serve(
    app: FastAPI, settings: Settings, sockets: list[socket.socket], *, parent: int | None = None
) -> None:
    """Serve `app` on `sockets` until SIGTERM or SIGINT; the second signal ends it at once.

    `parent`: the process id that supervises this one; it ends when that one is gone.
    """
    context: Context = app.state.push_hub
    server = Server(config(app, settings), context, freeze=True, parent=parent)  # sets up the log as well
    context.limit_viewers(_allow_many_files() - SPARE_FILES)
    server.run(sockets)


def _allow_many_files() -> int:
    """A viewer is a file, and the usual soft limit is 1024: take what the hard limit gives. How many that is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS says "unlimited" and then refuses it
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def serve_many(create: Callable[[], FastAPI], settings: Settings, sockets: list[socket.socket]) -> None:
    """Serve with a process per socket, each with an application of its own, made by `create`."""
    board = Board(len(sockets))
    parent = os.getpid()

    def work(number: int, sock: socket.socket) -> None:
        board.begin(number)
        app = create()
        app.state.push_hub.place = board, number
        serve(app, settings, [sock], parent=parent)

    Workers(sockets, work).run()


def config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """uvicorn's configuration for `app`."""
    http, websocket = protocols()
    return uvicorn.Config(
        app,
        loop="auto",
        http=http,
        ws=websocket,
        ws_max_size=MAX_BYTES,
        ws_ping_interval=settings.heartbeat,
        ws_ping_timeout=2 * settings.heartbeat,
        ws_per_message_deflate=False,  # 40 KB and 10 microseconds per viewer
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=1,  # viewers are gone by then; this is for plain requests, and for goodbyes
        backlog=BACKLOG,
        server_header=False,
        access_log=settings.log_level in ("debug", "info"),  # else each line is made, and dropped
        log_config=_log_config(settings.log_level),
    )


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises InvalidSettings when the address is not to be had.

    `shared`: other sockets of ours listen there too, and the kernel spreads connections over them.
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


class Redact(logging.Filter):
    """Keeps credentials in query strings out of the access log."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace them in the record's arguments."""
        if isinstance(record.args, tuple):
            record.args = tuple(
                _SECRETS.sub(r"\1***", value) if isinstance(value, str) else value for value in record.args
            )
        return True


def _log_config(level: str) -> dict[str, Any]:
    loud = level.upper()
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"redact": {"()": "hub.serve.server.Redact"}},
        "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["redact"]},
        },
        "loggers": {
            "hub": {"handlers": ["stderr"], "level": loud, "propagate": False},
            "uvicorn": {"handlers": ["stderr"], "level": loud, "propagate": False},
            "uvicorn.access": {"handlers": ["stderr"], "level": loud, "propagate": False},
        },
    }
