"""What the routes of one application share, and the FastAPI dependencies that hand it out.

`require_auth` and `get_redis` are the two that an embedding application, or a test, overrides with
`app.dependency_overrides`. Overriding `get_redis` moves everything: the hub of a request is the one on its client.
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
from hub.totals import Totals
from hub.transports.dashboard import DashboardSockets
from hub.transports.sse import SseTransport
from hub.transports.websocket import WebSocketTransport
from hub.web.auth import Authenticator, User
from hub.web.metrics import Board

log = logging.getLogger("hub")


@dataclass(frozen=True, slots=True)
class Service:
    """A hub with its transports."""

    hub: Hub
    sse: SseTransport
    websocket: WebSocketTransport
    dashboards: DashboardSockets

    async def drain(self) -> None:
        """Move every viewer away, over the drain window."""
        self.dashboards.drain()
        await self.hub.drain()

    async def aclose(self) -> None:
        """End everything this service began."""
        await self.sse.heartbeat.aclose()
        await self.websocket.heartbeat.aclose()
        self.dashboards.drain()
        await self.hub.aclose()


class Context:
    """Settings, authenticator, and a service for each Redis client in use (one, unless somebody overrides)."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.authenticator = Authenticator(settings)
        self.place: tuple[Board, int] | None = None  # where this process puts its totals, among several
        self._client: AsyncRedis | None = None
        self._services: dict[int, Service] = {}

    @property
    def services(self) -> list[Service]:
        """The services begun so far."""
        return list(self._services.values())

    def limit_viewers(self, most: int) -> None:
        """Let no more in than this process has open files for; refused is better than not accepted. Before any service."""
        if most < self.settings.max_viewers:
            log.warning(
                "HUB_MAX_VIEWERS is %d, open files are enough for %d: that holds",
                self.settings.max_viewers,
                most,
            )
            self.settings = self.settings.model_copy(update={"max_viewers": max(1, most)})

    def client(self) -> AsyncRedis:
        """The client of the configured URL; connects when first used."""
        if self._client is None:
            self._client = for_requests(self.settings.redis_url)
        return self._client

    def report(self) -> None:
        """Put this process's totals where the others can read them."""
        if self.place is not None:
            board, row = self.place
            board.write(row, sum((service.hub.statistics() for service in self.services), Totals()))

    def service(self, client: AsyncRedis) -> Service:
        """The service on this client, begun when first asked for.

        It belongs to the running loop: under a test client that brings a new loop with each request, so does the hub.
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
        """Refuse new viewers, move the present ones away."""
        await asyncio.gather(*(service.drain() for service in self.services))

    async def aclose(self) -> None:
        """End every service and the client."""
        services = self.services
        self._services.clear()
        for service in services:
            await service.aclose()
        client, self._client = self._client, None
        if client is not None:
            await close(client)


def get_context(connection: HTTPConnection) -> Context:
    """The context of the application that serves this request."""
    context = connection.app.state.push_hub
    assert isinstance(context, Context), "mount and create_app put it there"
    return context


# Dependencies are async although they wait for nothing: FastAPI runs plain ones in a thread, at 50 microseconds each.


async def get_redis(connection: HTTPConnection) -> AsyncRedis:
    """The Redis client that jobs are read from. Override to bring your own (`redis.asyncio.Redis`)."""
    return get_context(connection).client()


async def require_auth(connection: HTTPConnection) -> User:
    """The signed-in user, or 404. Override to bring your own identity."""
    try:
        return await get_context(connection).authenticator.authenticate(connection)
    except JobNotFound as error:
        raise refusal(error) from error


async def get_service(
    connection: HTTPConnection, client: Annotated[AsyncRedis, Depends(get_redis)]
) -> Service:
    """The hub and its transports on this request's Redis."""
    return get_context(connection).service(client)


def refusal(error: HubError) -> HTTPException:
    """The error as HTTP says it; on a WebSocket handshake Starlette makes a denial response of it."""
    return HTTPException(error.status, error.detail)
