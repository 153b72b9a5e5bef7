"""The application: routes, lifespan, health. `create_app` makes one; `mount` puts the hub into yours.

Invariant: the hub's tasks begin with the lifespan (or the first request) and end with it.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import APIRouter, FastAPI
from fastapi.params import Depends
from fastapi.responses import JSONResponse, Response
from fastapi.telemetry import TelemetryConfig
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request

from hub.broker.connect import AsyncRedis
from hub.errors import HubError
from hub.settings import Settings
from hub.web.context import Context, get_context, get_redis
from hub.web.direct import direct_routes
from hub.web.metrics import registry
from hub.web.routes import router as jobs_router

log = logging.getLogger("hub")

DESCRIPTION = "Watch background jobs live, over Server-Sent Events or WebSocket."


def create_app(settings: Settings | None = None) -> FastAPI:
    """A FastAPI application that is the hub: the job endpoints, health, metrics, docs."""
    # No OpenTelemetry of FastAPI's own: a stream would be one span of hours, and /metrics has what there is to know.
    telemetry = TelemetryConfig(tracing=False, metrics=False, logs=False)
    app = FastAPI(title="push-hub", description=DESCRIPTION, version=version("push-hub"), telemetry=telemetry)
    mount(app, settings)
    # Here and not in `mount`: this application is ours, so nobody's guard is passed by.
    app.router.routes[:0] = direct_routes(app)
    app.include_router(_operations())
    return app


def mount(
    app: FastAPI, settings: Settings | None = None, *, dependencies: Sequence[Depends] | None = None
) -> Context:
    """Add the job endpoints to `app`, with their lifespan.

    `dependencies` (of `Depends(...)`) guard every endpoint of the hub, and so do those of `app` itself. The returned context has
    what a health check of your own needs.
    """
    context = Context(settings or Settings())
    app.state.push_hub = context

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[Mapping[str, object]]:
        # Connect at once, so that the first viewer finds it done and /readyz means something.
        context.service(await _client(app, context)).hub.broker.subscriber.start()
        try:
            yield {}
        finally:
            await context.aclose()

    app.include_router(APIRouter(lifespan=lifespan))
    app.include_router(jobs_router, dependencies=dependencies)
    return context


async def _client(app: FastAPI, context: Context) -> AsyncRedis:
    """The Redis client of this application's requests: the override's, if there is one."""
    override = app.dependency_overrides.get(get_redis)
    if override is None:
        return context.client()
    given = override()
    client: AsyncRedis = await given if inspect.isawaitable(given) else given
    return client


def _operations() -> APIRouter:
    router = APIRouter(tags=["operations"])

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the process lives."""
        return {"status": "ok"}

    @router.get("/readyz", responses={503: {"description": "Redis does not answer, or the hub is draining"}})
    async def readyz(request: Request) -> Response:
        """Whether new viewers are welcome: Redis answers, and nobody is being moved away."""
        context = get_context(request)
        hub = context.service(await _client(request.app, context)).hub
        redis = hub.broker.subscriber.connected
        if redis:
            try:
                await hub.broker.ping()
            except HubError:
                redis = False
        ready = redis and not hub.draining
        words = {"status": "ready" if ready else "not ready", "redis": redis, "draining": hub.draining}
        return JSONResponse(words, 200 if ready else 503)

    @router.get("/metrics", response_class=Response)
    async def metrics(request: Request) -> Response:
        """Prometheus metrics."""
        context = get_context(request)
        hub = context.service(await _client(request.app, context)).hub
        if context.place is None:
            read = hub.statistics
        else:
            board, _ = context.place
            context.report()
            read = board.sum
        return Response(generate_latest(registry(read)), media_type=CONTENT_TYPE_LATEST)

    return router
