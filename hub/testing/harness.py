"""A hub for tests: real sockets on a port of its own, in the test's event
loop, with faults by name and time by hand.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import jwt
from fastapi import FastAPI

from hub.broker.connect import AsyncRedis, single
from hub.demo.embedded import EmbeddedServer
from hub.engine.hub import Hub
from hub.fanout.wire import Reason
from hub.feed.inbox import Inbox
from hub.job.event import UserId
from hub.produce.jobs import JobStateMachine
from hub.produce.publisher import Publisher
from hub.serve.server import Server, config, listen
from hub.settings import Settings
from hub.testing.clock import Clock
from hub.totals import Totals
from hub.web.app import create_app
from hub.web.auth import Refused
from hub.web.context import Context, get_redis

SIGNED_WITH = "push-hub signs the tokens of tests with this"
USER = "ada"
STREAM = "/api/jobs/{job_id}/events/stream"


class PushHub:
    """A running hub. `redis` is the client of its Redis, `app` the application that it is in.

    With an application of your own, your settings and your authentication hold. Without one, `token` signs in
    whom you name.
    """

    user = USER

    def __init__(
        self, redis: str | EmbeddedServer | None, app: FastAPI | None, settings: dict[str, Any]
    ) -> None:
        self._server_of_redis = redis if isinstance(redis, EmbeddedServer) else None
        self._url = redis if isinstance(redis, str) else None if redis is None else redis.url
        values = {"jwt_secret": SIGNED_WITH, "drain": 0, "log_level": "warning", **settings}
        self.app = app or create_app(Settings(**values))
        self._numbers = itertools.count(1)
        self._to_lose = 0
        self._expired: set[str] = set()
        self.redis: AsyncRedis
        self.publisher: Publisher
        self._server: Server
        self._serving: asyncio.Task[None]
        self._clock: Clock
        self._port = 0
        self._undo: list[Callable[[], None]] = []

    @property
    def url(self) -> str:
        """Where the hub is: the URL that `watch` takes, with the path below which you mounted it."""
        paths = [str(getattr(route, "path", "")) for route in self.app.routes]
        prefix = next((path.removesuffix(STREAM) for path in paths if path.endswith(STREAM)), "")
        return f"http://127.0.0.1:{self._port}{prefix}"

    @property
    def _context(self) -> Context:
        context: Context = self.app.state.push_hub
        return context

    @property
    def _hub(self) -> Hub:
        return self._context.service(self.redis).hub

    def statistics(self) -> Totals:
        """What the hub holds and has done."""
        return self._context.statistics()

    # --- the start and the end

    async def __aenter__(self) -> PushHub:
        loop = asyncio.get_running_loop()
        self._clock = Clock(loop, pause=0.0 if self._url is None else 0.002)
        self._undo.append(lambda: loop.__dict__.pop("time", None))
        self.redis = _fake() if self._url is None else single(self._url)
        self.publisher = Publisher(self.redis, strict=True)
        self._override()
        self._lose_messages()
        await self._start(listen("127.0.0.1", 0))
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._stop()
        finally:
            for undo in reversed(self._undo):
                undo()
            await self.redis.aclose()

    def _override(self) -> None:
        overrides, context = self.app.dependency_overrides, self._context
        before, settings, check = dict(overrides), context.settings, context.authenticator.check
        overrides[get_redis] = lambda: self.redis
        context.settings = settings.model_copy(update={"drain": 0.0})

        async def checked(token: str | None) -> Any:
            if token in self._expired:
                raise Refused("expired")
            return await check(token)

        setattr(context.authenticator, "check", checked)  # noqa: B010  # for this hub alone

        def undo() -> None:
            overrides.clear()
            overrides.update(before)
            context.settings = settings
            del context.authenticator.__dict__["check"]

        self._undo.append(undo)

    def _lose_messages(self) -> None:
        receive = Inbox.receive

        def receive_or_lose(inbox: Inbox, data: bytes) -> None:
            if self._to_lose:
                self._to_lose -= 1
            else:
                receive(inbox, data)

        setattr(Inbox, "receive", receive_or_lose)  # noqa: B010
        self._undo.append(lambda: setattr(Inbox, "receive", receive))

    async def _start(self, sock: socket.socket) -> None:
        self._port = sock.getsockname()[1]
        self._server = Server(config(self.app, self._context.settings), self._context)
        self._serving = asyncio.create_task(self._server._serve([sock]), name="push-hub-server")  # noqa: SLF001
        while not self._server.started:
            if self._serving.done():
                await self._serving
            await asyncio.sleep(0.001)

    async def _stop(self) -> None:
        self._server.should_exit = True
        while not self._serving.done():
            await self._clock.advance(0.25)  # what it waits for on its way
        await self._serving

    # --- jobs and people

    async def create_job(
        self, job: str = "", *, user_id: str = USER, status: str = "building", **fields: str
    ) -> str:
        """Create a job, as your application does. Returns its id."""
        job = job or f"job-{os.getpid()}-{time.time_ns()}-{next(self._numbers)}"
        await JobStateMachine(self.redis).create_job(job, user_id=user_id, status=status, **fields)
        return job

    def token(self, user: str = USER, **claims: Any) -> str:
        """Returns a new token that signs `user` in, for a day, unless `exp` is among the `claims`."""
        fixed = {"sub": user, "exp": int(time.time()) + 86_400, "jti": str(next(self._numbers))}
        return jwt.encode({**fixed, **claims}, SIGNED_WITH, "HS256")

    # --- time and faults

    async def advance(self, seconds: float) -> None:
        """Let `seconds` of the event loop's time pass: heartbeats,
        lingering, checks, retries. Takes milliseconds.
        """
        await self._clock.advance(seconds)

    async def cut(self) -> None:
        """Break every connection, as a lost network does. Viewers come back and resume."""
        connections = self._server.server_state.connections
        lost = set(connections)
        for connection in lost:
            connection.transport.abort()
        async with asyncio.timeout(10):
            while lost & connections:  # noqa: ASYNC110  # uvicorn's set tells nobody; who is back is not waited for
                await asyncio.sleep(0.001)

    def lose(self, number: int = 1) -> None:
        """Lose the announcements of the next `number` events on their way from Redis; the log has the events.

        The hub notices with the event after them, or at its next check (`advance(30)`).
        """
        self._to_lose += number

    @asynccontextmanager
    async def freeze_redis(self) -> AsyncIterator[None]:
        """Redis does not answer until the block ends. A fake one refuses instead. Raises RuntimeError for the
        Redis of a URL: others may use it.
        """
        if self._url is None:
            server = self.redis.connection_pool.connection_kwargs["server"]
            server.connected = False
            try:
                yield
            finally:
                server.connected = True
        elif self._server_of_redis is not None:
            process = self._server_of_redis.process
            process.send_signal(signal.SIGSTOP)
            try:
                yield
            finally:
                process.send_signal(signal.SIGCONT)
        else:
            raise RuntimeError("expected a fake or a private Redis, got one of a URL, which others may use")

    async def drain(self) -> None:
        """A deploy: the hub tells its viewers to reconnect and ends, and
        another one begins on the same port.
        """
        port = self._port
        await self._stop()
        await self._start(listen("127.0.0.1", port))

    async def expire(self, token: str) -> None:
        """`token` is no longer valid: the streams of its user end, as at `exp`, and it opens no others."""
        self._expired.add(token)
        user = jwt.decode(token, options={"verify_signature": False})["sub"]
        for view in list(self._hub._views):  # noqa: SLF001
            if view.user == UserId(user):
                view.expel(Reason.EXPIRED)


def _fake() -> AsyncRedis:
    """A client of a Redis inside this process."""
    try:
        import fakeredis
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the fixture push_hub needs {error.name}: pip install 'push-hub[testing]', or use --push-hub-redis",
            name=error.name,
        ) from error
    client: AsyncRedis = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer())
    return client
