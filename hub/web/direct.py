"""A short way to the two stream endpoints, past FastAPI's dependency solver, which is more than half of the cost of a join.

Invariant: it serves only where it skips nothing. `create_app` alone puts it in, on an application that it makes itself and so
without anybody's guards; once a dependency is overridden these routes match nothing, and FastAPI's, which stand behind them,
serve. `mount` never has it (tests/api/test_guards.py).
"""

from __future__ import annotations

from fastapi import FastAPI
from starlette.requests import Request
from starlette.routing import BaseRoute, Match, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
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


def _is_direct(scope: Scope, app: FastAPI) -> bool:
    """Returns True if FastAPI would do nothing but resolve the hub's own dependencies."""
    return scope["app"] is app and not app.dependency_overrides


class _DirectStream(Route):
    def __init__(self, app: FastAPI) -> None:
        super().__init__(STREAM_PATH, _Stream(), methods=["GET"], include_in_schema=False)
        self._of = app

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http" and scope["method"] == "GET" and _is_direct(scope, self._of):
            return super().matches(scope)
        return Match.NONE, {}


class _DirectSocket(WebSocketRoute):
    def __init__(self, app: FastAPI) -> None:
        super().__init__(WEBSOCKET_PATH, _Socket())
        self._of = app

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return super().matches(scope) if _is_direct(scope, self._of) else (Match.NONE, {})


def direct_routes(app: FastAPI) -> list[BaseRoute]:
    """The routes, to stand before FastAPI's. They are in no schema: the ones behind them are."""
    return [_DirectStream(app), _DirectSocket(app)]
