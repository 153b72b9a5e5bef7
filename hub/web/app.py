"""The application: `create_app` makes one that is the hub, `mount` adds the hub to yours.

Invariant: the hub's tasks start with the lifespan (or the first request) and end with the lifespan.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi.params import Depends as DependsOn
from fastapi.responses import JSONResponse, Response
from fastapi.telemetry import TelemetryConfig
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request

from hub.contract import asyncapi
from hub.errors import BrokerUnavailable, HubError, KeysUnavailable
from hub.job.catalogue import load
from hub.settings import Settings
from hub.web.context import Context, get_context, get_redis, get_service
from hub.web.direct import direct_routes
from hub.web.metrics import registry
from hub.web.refusals import unavailable
from hub.web.routes import Here
from hub.web.routes import router as jobs_router
from hub.web.session import router as session_router
from hub.web.shutdown import on_shutdown
from hub.web.tickets import router as tickets_router
from hub.web.tickets import ticket_routes

PREFLIGHT_AGE = 600
"""Seconds that a browser may remember the answer to a preflight; Chromium remembers it for two hours at most."""

DESCRIPTION = "Watch background jobs live, over Server-Sent Events or WebSocket."


def create_app(settings: Settings | None = None) -> FastAPI:
    """Returns a FastAPI application that is the hub: the job endpoints, health, metrics, docs.

    Without `settings` they come from the environment. Raises InvalidSettings or pydantic's ValidationError.
    """
    # FastAPI's own OpenTelemetry is off: a stream would be one span of hours, and /metrics has the figures.
    telemetry = TelemetryConfig(tracing=False, metrics=False, logs=False)
    app = FastAPI(title="push-hub", description=DESCRIPTION, version=version("push-hub"), telemetry=telemetry)
    mount(app, settings)
    # Not in `mount`: direct routes skip the application's own dependencies, and only this one has none.
    app.router.routes[:0] = direct_routes(app)
    settings = app.state.push_hub.settings
    app.include_router(_operations(settings))
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(settings.allowed_origins),
            allow_credentials=True,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "Last-Event-ID"],
            max_age=PREFLIGHT_AGE,
        )
    return app


def mount(
    app: FastAPI,
    settings: Settings | None = None,
    *,
    path: str = "",
    dependencies: Sequence[DependsOn] | None = None,
) -> Context:
    """Add the job endpoints to `app` below `path` ("/push"), and the hub's start and end to its lifespan.

    Every endpoint of the hub runs `dependencies` (a list of `Depends(...)`) and those of `app` itself first.
    With an override of `get_redis` the hub starts with the first request, which has the client.
    The returned context has what a health check of your own needs. Raises InvalidSettings.
    """
    settings = settings or Settings()
    load(settings.catalogue)
    context = Context(settings)
    app.state.push_hub = context

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[Mapping[str, object]]:
        # Connects to Redis now: the first viewer need not wait for it, and /readyz can report on it.
        if get_redis not in app.dependency_overrides:
            context.service(context.client())
        try:
            with on_shutdown(context.begin_drain):
                yield {}
        finally:
            await context.aclose()

    for kind in (KeysUnavailable, BrokerUnavailable):
        app.add_exception_handler(kind, unavailable)  # type: ignore[arg-type]  # takes both kinds of connection
    app.include_router(APIRouter(lifespan=lifespan))
    app.router.routes += ticket_routes(app, path, dependencies or [])
    app.include_router(jobs_router, prefix=path, dependencies=dependencies)
    app.include_router(tickets_router, prefix=path, dependencies=dependencies)
    app.include_router(session_router, prefix=path, dependencies=dependencies)
    return context


def _operations(settings: Settings) -> APIRouter:
    router = APIRouter(tags=["operations"])

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Always 200: the process is alive."""
        return {"status": "ok"}

    @router.get("/readyz", responses={503: {"description": "Redis does not answer, or the hub is draining"}})
    async def readyz(service: Here) -> Response:
        """200 if new viewers can be served: Redis answers and the hub is not draining. Else 503."""
        hub = service.hub
        redis = hub.broker.subscriber.connected
        if redis:
            try:
                await hub.broker.ping()
            except HubError:
                redis = False
        ready = redis and not hub.draining
        words = {"status": "ready" if ready else "not ready", "redis": redis, "draining": hub.draining}
        return JSONResponse(words, 200 if ready else 503)

    @router.get("/metrics", response_class=Response, dependencies=[Depends(get_service)])
    async def metrics(request: Request) -> Response:
        """Metrics in the Prometheus format."""
        context = get_context(request)
        if context.place is None:
            read = context.statistics
        else:
            board, _ = context.place
            context.report()
            read = board.sum
        return Response(generate_latest(registry(read)), media_type=CONTENT_TYPE_LATEST)

    contract = cache(lambda: asyncapi.document(settings))

    @router.get("/asyncapi.json")
    async def asyncapi_json() -> dict[str, Any]:
        """The contract of both transports and every registered event type, as AsyncAPI 3."""
        return contract()

    return router
