"""The `Context` that all routes of an application share, and the FastAPI dependencies that give access to it.

An embedding application (or a test) may override `require_auth` and `get_redis` in
`app.dependency_overrides`. There is one hub per Redis client, so overriding `get_redis` moves subscriptions
and viewers as well as reads.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, HTTPException
from starlette.requests import HTTPConnection

from hub.broker.connect import AsyncRedis, close, for_requests
from hub.broker.redis import RedisBroker
from hub.broker.script import Publication
from hub.engine.hub import Hub
from hub.errors import HubError, JobNotFound
from hub.settings import Settings
from hub.transports.dashboard import DashboardSockets
from hub.transports.sse import SseTransport
from hub.transports.websocket import WebSocketTransport
from hub.web.auth import Authenticator, User
from hub.web.metrics import Board

logger = logging.getLogger("hub")


@dataclass(frozen=True, slots=True)
class Service:
    """A hub with its transports."""

    hub: Hub
    sse: SseTransport
    websocket: WebSocketTransport
    dashboards: DashboardSockets

    async def drain(self) -> None:
        """Tell every viewer to reconnect elsewhere, spread over `settings.drain` seconds."""
        self.dashboards.drain()
        await self.hub.drain()

    async def aclose(self) -> None:
        """End every task and connection that this service started."""
        await self.sse.heartbeat.aclose()
        await self.websocket.heartbeat.aclose()
        self.dashboards.drain()
        await self.hub.aclose()


class Context:
    """Settings, authenticator, and a service per Redis client (one, unless `get_redis` is overridden)."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.authenticator = Authenticator(settings)
        self.place: tuple[Board, int] | None = None  # the board and our row, if there are several processes
        self._client: AsyncRedis | None = None
        self._services: dict[int, Service] = {}

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

    def client(self) -> AsyncRedis:
        """Returns the Redis client for `HUB_REDIS_URL`, which connects when it is first used."""
        if self._client is None:
            self._client = for_requests(self.settings.redis_url)
        return self._client

    def report(self) -> None:
        """Write this process's totals to the board, if there is one, where the other processes read them."""
        if self.place is not None:
            board, row = self.place
            for service in self.services:
                board.write(row, service.hub.totals())

    def service(self, client: AsyncRedis) -> Service:
        """Returns the service on this client, and starts it if there is none.

        A service belongs to one event loop. Starlette's test client may run each request in a new loop; then
        each request gets a new service.
        """
        service = self._services.get(id(client))
        if service is None or service.hub.loop is not asyncio.get_running_loop():
            hub = Hub(RedisBroker(client, Publication.of(self.settings)), self.settings)
            websocket = WebSocketTransport(hub)
            service = Service(hub, SseTransport(hub), websocket, DashboardSockets(websocket))
            self._services[id(client)] = service
            service.sse.heartbeat.start()
            service.websocket.heartbeat.start()
        return service

    async def drain(self) -> None:
        """Refuse new viewers and tell the connected ones to reconnect elsewhere."""
        await asyncio.gather(*(service.drain() for service in self.services))

    async def aclose(self) -> None:
        """End every service and close the client."""
        services = self.services
        self._services.clear()
        for service in services:
            await service.aclose()
        client, self._client = self._client, None
        if client is not None:
            await close(client)


def get_context(connection: HTTPConnection) -> Context:
    """Returns the context of the application that serves this request."""
    context = connection.app.state.push_hub
    assert isinstance(context, Context), "mount and create_app set it"
    return context


# These are async although most await nothing: FastAPI runs a plain function in a thread, which costs 50 us.


async def get_redis(connection: HTTPConnection) -> AsyncRedis:
    """Returns the Redis client that jobs are read with. Override it to use your own."""
    return get_context(connection).client()


async def require_auth(connection: HTTPConnection) -> User:
    """Returns the signed-in user, or raises 404. Override it to use your own authentication."""
    try:
        return await get_context(connection).authenticator.authenticate(connection)
    except JobNotFound as error:
        raise refusal(error) from error


async def get_service(
    connection: HTTPConnection, client: Annotated[AsyncRedis, Depends(get_redis)]
) -> Service:
    """Returns the hub, with its transports, on this request's Redis client."""
    return get_context(connection).service(client)


def refusal(error: HubError) -> HTTPException:
    """Returns `error` as an HTTPException, which Starlette sends as a denial of a WebSocket handshake too."""
    return HTTPException(error.status, error.detail)
