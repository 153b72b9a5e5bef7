"""A short way to the two stream endpoints, past FastAPI's dependency solver, which is more than half of what a join costs.

Invariant: the endpoints are those of routes.py, called with what their dependencies would have given. Whoever overrides a
dependency gets FastAPI's own route, which stands behind these in the table; so does any method but GET.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.routing import BaseRoute, Match, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from hub.web.context import get_context, require_auth
from hub.web.routes import STREAM_PATH, WEBSOCKET_PATH, stream_job_events, watch_job


class _Stream:
    """`stream_job_events` as an ASGI application. An object, or Starlette would wrap it as it wraps a function."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        user = await require_auth(request)
        context = get_context(request)
        service = context.service(context.client())
        response = await stream_job_events(user, scope["path_params"]["job_id"], service, request)
        await response(scope, receive, send)


class _Socket:
    """`watch_job` as an ASGI application."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        websocket = WebSocket(scope, receive, send)
        user = await require_auth(websocket)
        context = get_context(websocket)
        await watch_job(websocket, user, scope["path_params"]["job_id"], context.service(context.client()))


def _is_direct(scope: Scope) -> bool:
    return not scope["app"].dependency_overrides


class _DirectStream(Route):
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http" and scope["method"] == "GET" and _is_direct(scope):
            return super().matches(scope)
        return Match.NONE, {}


class _DirectSocket(WebSocketRoute):
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return super().matches(scope) if _is_direct(scope) else (Match.NONE, {})


def direct_routes() -> list[BaseRoute]:
    """The routes, to stand before FastAPI's. They are in no schema: the ones behind them are."""
    stream: ASGIApp = _Stream()
    socket: ASGIApp = _Socket()
    return [
        _DirectStream(STREAM_PATH, stream, methods=["GET"], include_in_schema=False),
        _DirectSocket(WEBSOCKET_PATH, socket),
    ]
