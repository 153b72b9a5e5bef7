"""The operator's endpoints: metrics, the descriptions of the API, revocation.

Invariant: they exist for requests on the admin port and for those with the admin token. Everybody else gets
the answer of a path that does not exist.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field
from starlette.routing import Match
from starlette.types import Scope

from hub.contract import asyncapi
from hub.errors import InvalidSettings
from hub.job.log_level import LogLevel
from hub.settings import Settings
from hub.transports.headers import PRIVATE, SAFE
from hub.web.context import get_context, get_service
from hub.web.inspection import add_inspector
from hub.web.inspection_socket import add_inspector_socket
from hub.web.metrics import registry
from hub.web.operators import is_operator

ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
"""Files of `/docs`, in the package fastapi-offline: nothing is loaded from anybody else's host."""


class _AdminRoute(APIRoute):
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return super().matches(scope) if is_operator(scope) else (Match.NONE, {})


class Level(BaseModel, extra="forbid"):
    """How much every hub logs."""

    level: str = Field(description="debug, info, warning or error")
    seconds: float = Field(600, description="after that, each hub's own level is back")


class Draining(BaseModel):
    """A hub that ends."""

    seconds: float = Field(description="over which its viewers are moved away")


class Revoke(BaseModel, extra="forbid"):
    """Whose credentials are to be taken back."""

    user: str
    job: str | None = Field(None, description="only on this job")


def admin_router(settings: Settings) -> APIRouter:
    """The endpoints, for an application with these settings."""
    router = APIRouter(tags=["admin"], route_class=_AdminRoute)
    _add_metrics(router)
    _add_actions(router)
    add_inspector(router)
    add_inspector_socket(router)
    _add_documents(router, settings)
    return router


def _add_metrics(router: APIRouter) -> None:
    @router.get("/metrics", response_class=Response, dependencies=[Depends(get_service)])
    async def metrics(request: Request) -> Response:
        """Metrics in the Prometheus format."""
        context = get_context(request)
        context.report()
        if context.place is None:
            found = registry(context.statistics)
        else:
            board, _ = context.place
            found = registry(board.sum, board)
        return Response(
            generate_latest(found),
            headers=SAFE,
            media_type=CONTENT_TYPE_LATEST,
        )


def _add_actions(router: APIRouter) -> None:
    @router.post("/admin/revoke", status_code=204, response_class=Response)
    async def revoke(request: Request, wanted: Revoke) -> Response:
        """Take back what a user was given until now, on every hub within a second."""
        try:
            await get_context(request).revoke(wanted.user, wanted.job)
        except InvalidSettings as error:
            raise HTTPException(422, str(error)) from error
        return Response(status_code=204, headers=PRIVATE)

    @router.post("/admin/log", status_code=204, response_class=Response)
    async def log(request: Request, wanted: Level) -> Response:
        """Change the level of every hub's log for a while."""
        try:
            await get_context(request).change_log(LogLevel.of(wanted.level, wanted.seconds))
        except InvalidSettings as error:
            raise HTTPException(422, str(error)) from error
        return Response(status_code=204, headers=PRIVATE)

    @router.post("/admin/drain", status_code=202)
    async def drain(request: Request, response: Response) -> Draining:
        """Move all viewers of this hub away, then end it, with all its processes: as SIGTERM does."""
        context = get_context(request)
        if context.stop is None:
            raise HTTPException(409, "this hub is a part of an application, which ends it")
        response.headers.update(PRIVATE)
        context.stop()
        return Draining(seconds=context.settings.drain)


def _add_documents(router: APIRouter, settings: Settings) -> None:
    contract = cache(lambda: asyncapi.document(settings))

    @router.get("/asyncapi.json")
    async def asyncapi_json() -> Response:
        """The contract of both transports and every registered event type, as AsyncAPI 3."""
        return JSONResponse(contract(), headers=SAFE)

    @router.get("/openapi.json", include_in_schema=False)
    async def openapi_json(request: Request) -> Response:
        return JSONResponse(request.app.openapi(), headers=SAFE)

    @router.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return _page()

    @router.get("/docs/assets/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        if name not in ASSETS:
            raise HTTPException(404)
        data = files("fastapi_offline").joinpath("static", name).read_bytes()
        return Response(data, media_type=ASSETS[name], headers={**SAFE, "Cache-Control": "max-age=3600"})


@cache
def _page() -> HTMLResponse:
    """FastAPI's page, with files of ours, and a policy that allows its one script by its hash."""
    html = get_swagger_ui_html(
        openapi_url="openapi.json",
        title="push-hub",
        swagger_js_url="docs/assets/swagger-ui-bundle.js",
        swagger_css_url="docs/assets/swagger-ui.css",
        swagger_favicon_url="data:,",
    ).body
    script = re.search(rb"<script>(.*?)</script>", bytes(html), re.DOTALL)
    assert script is not None, "FastAPI's page has one script in it"
    digest = base64.b64encode(hashlib.sha256(script[1]).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'self' 'sha256-{digest}'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(bytes(html), headers={**SAFE, "Content-Security-Policy": policy})
