"""The `Context` that all routes of an application share, and the FastAPI dependencies that give access to it.

An embedding application (or a test) may override `require_auth` and `get_redis` in
`app.dependency_overrides`. There is one hub per Redis client, so overriding `get_redis` moves subscriptions
and viewers as well as reads.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Hashable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import HTTPConnection
from starlette.types import Scope

from hub.broker.connect import AsyncClient, Nodes, PerLoop, close, for_requests, nodes_of, place_of, sibling
from hub.broker.redis import RedisBroker
from hub.broker.script import Publication
from hub.engine.caller import Caller
from hub.engine.hub import Hub
from hub.errors import JobNotFound
from hub.job.event import JobId
from hub.job.log_level import LogLevel
from hub.job.revocation import Revocation
from hub.settings import Settings
from hub.totals import Totals
from hub.transports.dashboard import DashboardSockets
from hub.transports.sse import SseTransport
from hub.transports.websocket import WebSocketTransport
from hub.web.auth import Authenticator, User, who
from hub.web.metrics import Board
from hub.web.readiness import Readiness
from hub.web.refusals import refusal

logger = logging.getLogger("hub")

ONLY = "push_hub.only"
"""Entry of a scope: the one job that a request's ticket is good for."""


@dataclass(frozen=True, slots=True)
class Service:
    """A hub with its transports."""

    hub: Hub
    sse: SseTransport
    websocket: WebSocketTransport
    dashboards: DashboardSockets
    readiness: Readiness
    client: Nodes | None = None  # that was made for it, and ends with it

    async def drain(self) -> None:
        """Tell every viewer to reconnect elsewhere, spread over `settings.drain` seconds."""
        self.dashboards.drain()
        await self.hub.drain()

    async def aclose(self) -> None:
        """End every task and connection that this service started."""
        await self.sse.heartbeat.aclose()
        await self.websocket.aclose()
        self.dashboards.drain()
        await self.hub.aclose()
        if self.client is not None:
            await close(self.client)


class Context:
    """Settings, authenticator, and a service per Redis (one, unless `get_redis` is overridden)."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.authenticator = Authenticator(settings)
        self.admin_ports: set[int] = set()  # ports of ours on which the operator's endpoints are
        self.place: tuple[Board, int] | None = None  # the board and our row, if there are several processes
        # What `serve` adds, whose process it is: how the hub is told to end, and how its log changes.
        self.stop: Callable[[], Any] | None = None
        self.on_log_level: Callable[[LogLevel], Any] = lambda _: None
        self._clients: PerLoop | None = None
        self._services: dict[Hashable, Service] = {}
        self._own: Service | None = None  # on `HUB_REDIS_URL`
        self._given: dict[Hashable, int] = {}  # per Redis: the client that an override gave first

    @property
    def services(self) -> list[Service]:
        """The services started so far."""
        return list(self._services.values())

    def limit_viewers(self, most: int) -> None:
        """Lower `max_viewers` to `most`, the open files left for viewers. Call it before the first service.

        Without files a connection is not even accepted, so its client waits; a refused client can retry.
        """
        if most < self.settings.max_viewers:
            logger.warning(
                "HUB_MAX_VIEWERS is %d, but the limit of open files allows %d viewers: using %d",
                self.settings.max_viewers,
                most,
                most,
            )
            self.settings = self.settings.model_copy(update={"max_viewers": max(1, most)})

    def client(self) -> Nodes:
        """Returns the running loop's client for `HUB_REDIS_URL`, which connects when it is first used."""
        if self._clients is None:
            self._clients = PerLoop(for_requests(self.settings.redis_url))
        return self._clients.get()

    def report(self) -> None:
        """Write this process's totals to the board, if there is one, where the other processes read them."""
        if self.place is not None:
            board, row = self.place
            board.write(row, self.statistics())

    def statistics(self) -> Totals:
        """What this process holds and has done: its services, and its refusals."""
        return sum((service.hub.statistics() for service in self.services), self.authenticator.totals)

    def service(self, client: AsyncClient) -> Service:
        """Returns the service on the Redis of `client`, and starts it if there is none.

        A service belongs to one event loop. Starlette's test client may run each request in a new loop; then
        each request gets a new service. A client of an application's own keeps its connections to itself: the
        service makes others like them, so that closing the client, or its `decode_responses`, is no matter.
        """
        place = place_of(client)
        service = self._services.get(place)
        if service is None or service.hub.loop is not asyncio.get_running_loop():
            is_ours = self._clients is not None and client is self._clients.get()
            service = self._start(
                nodes_of(client) if is_ours else sibling(nodes_of(client), decode_responses=False),
                is_ours=is_ours,
            )
            self._services[place] = service
            self._given[place] = id(client)
        elif self._given[place] not in (id(client), 0):
            self._given[place] = 0
            logger.warning("get_redis gives another client with each request; one hub serves them all")
        return service

    def own_service(self) -> Service:
        """Returns the service on `HUB_REDIS_URL`, and starts it if there is none."""
        if self._own is None or self._own.hub.loop is not asyncio.get_running_loop():
            self._own = self.service(self.client())
        return self._own

    def _start(self, client: Nodes, *, is_ours: bool) -> Service:
        broker = RedisBroker(client, Publication.of(self.settings), bare=self.settings.bare)
        hub = Hub(broker, self.settings)
        hub.control.on_log_level = self.on_log_level
        verify = self._verify if self.settings.authenticates else None
        websocket = WebSocketTransport(hub, verify)
        own = None if is_ours else client
        service = Service(hub, SseTransport(hub), websocket, DashboardSockets(websocket), Readiness(hub), own)
        service.sse.heartbeat.start()
        service.websocket.heartbeat.start()
        hub.broker.subscriber.start()
        return service

    async def _verify(self, token: str) -> Caller | None:
        user = await self.authenticator.verify(token)
        return None if user is None else caller_of(user, self.settings)

    async def revoke(self, user: str, job: str | None = None) -> None:
        """End the streams of `user` (of `job` only, if given) on every hub within a second, and refuse the
        credentials that the user has now until they have expired.

        Raises BrokerUnavailable, and InvalidSettings for what is no user's or job's id.
        """
        one = Revocation.now(user, job)
        services = self.services or [self.own_service()]
        for service in services:
            service.hub.revocations.add(one)
            await service.hub.broker.revoke(one, valid=self.settings.jwt_max_age + self.settings.jwt_leeway)

    async def change_log(self, level: LogLevel) -> None:
        """Change the level of every hub's log for a while. Raises BrokerUnavailable."""
        self.on_log_level(level)
        for service in self.services or [self.own_service()]:
            await service.hub.broker.announce(level.message())

    def begin_drain(self) -> None:
        """Refuse new viewers and move the present ones away, in the background."""
        for service in self.services:
            service.hub.begin_drain()

    async def drain(self) -> None:
        """Refuse new viewers and tell the connected ones to reconnect elsewhere."""
        await asyncio.gather(*(service.drain() for service in self.services))

    async def aclose(self) -> None:
        """End every service and close the client."""
        services = self.services
        self._services.clear()
        self._own = None
        for service in services:
            await service.aclose()
        clients, self._clients = self._clients, None
        if clients is not None:
            await close(clients.get())


def get_context(connection: HTTPConnection) -> Context:
    """Returns the context of the application that serves this request."""
    context = connection.app.state.push_hub
    assert isinstance(context, Context), "mount and create_app set it"
    return context


# These are async although most await nothing: FastAPI runs a plain function in a thread, which costs 50 us.


async def get_redis(connection: HTTPConnection) -> AsyncClient:
    """Returns the Redis client that jobs are read with. Override it to use your own, also redis-py's client
    of a cluster.
    """
    return get_context(connection).client()


async def require_auth(connection: HTTPConnection) -> User:
    """Returns the signed-in user, or raises 404. Override it to use your own authentication.

    Raises KeysUnavailable as it is: `mount` has a handler for it, which tells streams to come back.
    """
    try:
        return await get_context(connection).authenticator.authenticate(connection)
    except JobNotFound as error:
        raise refusal(error) from error


def caller_of(
    user: User,
    settings: Settings,
    ask: Callable[[JobId], Awaitable[bool]] | None = None,
    known_as: tuple[str, str] = ("", ""),
) -> Caller:
    """The same, without an application. A caller's credentials are good for the leeway after they expire.

    `known_as`: see `request_id`.
    """
    return Caller(
        who(user),
        issued=getattr(user, "issued", math.inf),
        expires=getattr(user, "expires", math.inf) + settings.jwt_leeway,
        shared=getattr(user, "shared", {}),
        ask=ask,
        request=known_as[0],
        trace=known_as[1],
    )


async def get_service(
    connection: HTTPConnection, client: Annotated[AsyncClient, Depends(get_redis)]
) -> Service:
    """Returns the hub, with its transports, on this request's Redis client."""
    return get_context(connection).service(client)


async def close_dependencies(scope: Scope) -> None:
    """End the `yield` dependencies of a request before its stream begins: a database session is not held for
    hours.

    FastAPI ends them when the response is sent (https://fastapi.tiangolo.com/tutorial/dependencies/).
    """
    for name in ("fastapi_function_astack", "fastapi_inner_astack"):
        if isinstance(stack := scope.get(name), AsyncExitStack):
            await stack.aclose()
