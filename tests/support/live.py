"""A hub on a real uvicorn with real sockets, in the test's own event loop, so that a test can inspect it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import fakeredis
import jwt
from fastapi import FastAPI
from redis.asyncio import Redis
from redis.exceptions import RedisError
from websockets.asyncio.client import ClientConnection, connect

from hub import JobStateMachine, Publisher, Settings, create_app, get_redis
from hub.broker import multiplexed
from hub.broker.cluster import Cluster
from hub.engine.hub import Hub
from hub.serve.server import Server, config, listen
from hub.transports.uvicorn_http import HandoffHttpProtocol
from hub.web.context import Context
from tests.support.sse import SseViewer

SECRET = "a secret that is long enough for HS256"
USER = "ada"
ADMIN = "the operator of the tests"


def token(user: str = USER, **claims) -> str:
    """Returns a valid token of `user`."""
    return jwt.encode({"sub": user, "exp": int(time.time()) + 86_400, **claims}, SECRET, "HS256")


def settings(**values) -> Settings:
    """Returns the defaults, except for what would make a test wait or log too much."""
    return Settings(
        **{"jwt_secret": SECRET, "admin_token": ADMIN, "drain": 0, "log_level": "warning", **values}
    )


@dataclass
class Live:
    """A running hub, with clients and publishers for it."""

    app: FastAPI
    client: Redis
    port: int
    server: Server

    @property
    def context(self) -> Context:
        return self.app.state.push_hub

    @property
    def hub(self) -> Hub:
        """The running hub, on the client that it uses itself."""
        return self.context.service(self.client if self.is_overridden else self.context.client()).hub

    @property
    def is_overridden(self) -> bool:
        """Returns True if requests get this test's own client."""
        return get_redis in self.app.dependency_overrides

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def jobs(self) -> JobStateMachine:
        return JobStateMachine(self.client)

    @property
    def publisher(self) -> Publisher:
        return Publisher(self.client, strict=True)

    def sse(self, job: str, query: str = "", *, user: str = USER, **more) -> SseViewer:
        """A viewer over SSE, with a header of browsers."""
        headers = {"Sec-Fetch-Mode": "cors"}
        return SseViewer(
            f"{self.url}/api/jobs/{job}/events/stream{query}", token(user), headers=headers, **more
        )

    def websocket(
        self, job: str, query: str = "", *, user: str = USER, more: dict[str, str] | None = None, **claims
    ) -> connect:
        """A viewer over WebSocket (`websockets` client), with a header of browsers and `more` headers."""
        return self._connect(f"/api/jobs/{job}/events/ws{query}", user, more, **claims)

    def dashboard(self, *, user: str = USER, **claims) -> connect:
        """A dashboard WebSocket."""
        return self._connect("/api/events/ws", user, None, **claims)

    def _connect(self, path: str, user: str, more: dict[str, str] | None, **claims) -> connect:
        headers = {"Authorization": f"Bearer {token(user, **claims)}", "Sec-Fetch-Mode": "websocket"}
        headers |= more or {}
        url = f"ws://127.0.0.1:{self.port}{path}"
        # A viewer that leaves early has unread frames: it need not wait the default 10 s for its handshake.
        return connect(url, additional_headers=headers, max_size=None, close_timeout=1)

    async def until(self, condition, *, timeout: float = 10) -> None:
        """Return when `condition()` is true; it is checked every 5 ms."""
        async with asyncio.timeout(timeout):
            while not condition():
                await asyncio.sleep(0.005)


async def _open(hub: Hub) -> None:
    """Open the connections for commands. Each has a task, which must not look like one of a hub that starts
    after this one."""
    nodes = hub.broker.nodes
    for client in nodes.clients if isinstance(nodes, Cluster) else [nodes]:
        if (connection := multiplexed._of(client)) is not None:
            with suppress(RedisError):
                await connection._connected()


@asynccontextmanager
async def live_hub(
    client: Redis,
    *,
    wire: str | None = None,
    middleware: tuple | None = None,
    overridden: bool = False,
    **values,
) -> AsyncIterator[Live]:
    """Run a hub on `client`. Fails at the end if a task, viewer or feed of the hub is left.

    `wire` is "door" (a plain viewer comes in without ASGI), "fast" (the socket is handed over by the
    application) or "portable". By default the fake Redis gets the portable wire and the real Redis the door,
    so that a suite over both kinds of Redis covers both wires. In the same way the fake Redis covers FastAPI's
    own routes (its dependency is overridden), and the real Redis covers the direct routes.
    """
    is_fake = isinstance(client, fakeredis.FakeAsyncRedis)
    wire = wire or ("portable" if is_fake else "door")
    before = asyncio.all_tasks()
    chosen = settings(**({} if is_fake else {"redis_url": _url(client)}) | values)
    app = create_app(chosen)
    if middleware is not None:
        app.add_middleware(middleware[0], **middleware[1])
    if is_fake or overridden:
        app.dependency_overrides[get_redis] = lambda: client
    sock = listen("127.0.0.1", 0)
    chosen_config = config(app, chosen)
    if wire == "portable":  # uvicorn's own protocol classes, which cannot hand over
        chosen_config.http, chosen_config.ws = "httptools", "websockets-sansio"
    elif wire == "fast":
        chosen_config.http = HandoffHttpProtocol
    server = Server(chosen_config, app.state.push_hub)
    running = asyncio.create_task(server._serve([sock]))
    while not server.started:
        await asyncio.sleep(0.005)
    live = Live(app, client, sock.getsockname()[1], server)
    hub = live.hub
    await _open(hub)
    try:
        yield live
    finally:
        server.should_exit = True
        await asyncio.wait_for(running, 20)
    await asyncio.sleep(0)
    left = [task for task in asyncio.all_tasks() - before if "hub" in task.get_name()]
    assert not left, f"tasks left behind: {left}"
    assert hub.statistics().viewers == 0
    assert not hub._views
    assert not hub.mine._followers
    assert not hub.presence._asking
    assert not hub.statistics().jobs


def _url(client: Redis) -> str:
    place = client.connection_pool.connection_kwargs
    return f"redis://{place['host']}:{place['port']}/{place.get('db', 0)}"


def operator() -> dict[str, str]:
    """Returns the header that opens the operator's endpoints."""
    return {"Authorization": f"Bearer {ADMIN}"}


async def frames(socket: ClientConnection, *, timeout: float = 10) -> list[dict]:
    """Returns every frame but `hello` until the hub closes the socket."""
    async with asyncio.timeout(timeout):
        seen = [json.loads(text) async for text in socket]
    return [frame for frame in seen if frame["type"] != "hello"]
