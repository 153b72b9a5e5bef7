"""The application: `create_app` makes one that is the hub, `mount` adds the hub to yours.

Invariant: the hub's tasks start with the lifespan (or the first request) and end with the lifespan.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import APIRouter, FastAPI
from fastapi.params import Depends as DependsOn
from fastapi.telemetry import TelemetryConfig

from hub.errors import BrokerUnavailable, KeysUnavailable
from hub.job.catalogue import load
from hub.settings import Settings
from hub.web.admin import admin_router
from hub.web.client import router as client_router
from hub.web.commands import router as commands_router
from hub.web.context import Context, get_redis
from hub.web.direct import direct_routes
from hub.web.door import add_door
from hub.web.headers import SafeCors, add_safe_headers
from hub.web.health import router as health_router
from hub.web.mine import router as mine_router
from hub.web.refusals import unavailable
from hub.web.routes import router as jobs_router
from hub.web.session import router as session_router
from hub.web.shutdown import on_shutdown
from hub.web.tickets import router as tickets_router
from hub.web.tickets import ticket_routes

PREFLIGHT_AGE = 600
"""Seconds that a browser may remember the answer to a preflight; Chromium remembers it for two hours at most.
"""

DESCRIPTION = "Watch background jobs live, over Server-Sent Events or WebSocket."


def create_app(settings: Settings | None = None) -> FastAPI:
    """Returns a FastAPI application that is the hub: the job endpoints, health, the operator's.

    Without `settings` they come from the environment. Raises InvalidSettings or pydantic's ValidationError.
    """
    # FastAPI's own OpenTelemetry is off: a stream would be one span of hours, and /metrics has the figures.
    telemetry = TelemetryConfig(tracing=False, metrics=False, logs=False)
    app = FastAPI(
        title="push-hub",
        description=DESCRIPTION,
        version=version("push-hub"),
        telemetry=telemetry,
        openapi_url=None,  # the operator's (admin.py)
        redirect_slashes=False,
    )
    mount(app, settings)
    # Not in `mount`: direct routes skip the application's own dependencies, and only this one has none.
    app.router.routes[:0] = direct_routes(app)
    settings = app.state.push_hub.settings
    app.include_router(health_router)
    app.include_router(admin_router(settings))
    if settings.allowed_origins:
        app.add_middleware(
            SafeCors,
            allow_origins=sorted(settings.allowed_origins),
            allow_credentials=True,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID"],
            max_age=PREFLIGHT_AGE,
        )
    add_safe_headers(app)
    add_door(app)
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
            context.own_service()
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
    app.include_router(commands_router, prefix=path, dependencies=dependencies)
    app.include_router(mine_router, prefix=path, dependencies=dependencies)
    app.include_router(session_router, prefix=path, dependencies=dependencies)
    app.include_router(client_router, prefix=path, dependencies=dependencies)
    return context
