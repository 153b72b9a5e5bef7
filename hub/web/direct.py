"""Routes to the two stream endpoints without FastAPI's dependency solver, over half of the cost of a join.

Invariant: the skipped solver had nothing to solve but the hub's own dependencies. Only `create_app` adds
these routes, to an application that it made itself and that has no guards of somebody else. If any dependency
is overridden they match nothing, and FastAPI's own routes, which follow them, serve. `mount` never adds them
(tests/api/test_guards.py).
"""

from __future__ import annotations

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from hub.errors import HubError, KeysUnavailable
from hub.transports.door import VISIT
from hub.web.context import get_context, require_auth
from hub.web.door import Visit
from hub.web.refusals import refuse_socket, stream_refused
from hub.web.routes import STREAM_PATH, WEBSOCKET_PATH, answer_stream, late, stream_job_events, watch_job
from hub.web.tickets import has_ticket


class _Stream:
    """`stream_job_events` as an ASGI application. An object, because Starlette would wrap a function."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        response = await self._answer(request, scope.get(VISIT))
        await response(scope, receive, send)

    async def _answer(self, request: Request, visit: Visit | None) -> Response:
        if visit is None:
            user = await require_auth(request)
            service = get_context(request).own_service()
            return await stream_job_events(user, request.path_params["job_id"], service, request)
        service = get_context(request).own_service()
        try:
            view = visit.take()
        except KeysUnavailable:
            raise
        except HubError as error:
            return stream_refused(service.hub.settings, request, error)
        return await answer_stream(request, service, view)


class _Socket:
    """`watch_job` as an ASGI application."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        websocket = WebSocket(scope, receive, send)
        service, visit = get_context(websocket).own_service(), scope.get(VISIT)
        if visit is None:
            user = await require_auth(websocket)
            await watch_job(websocket, user, websocket.path_params["job_id"], service)
            return
        try:
            view = visit.take()
        except KeysUnavailable:
            raise
        except HubError as error:
            await refuse_socket(websocket, error, late=late(service))
        else:
            await service.websocket.serve(websocket, view)


def _is_direct(scope: Scope, app: FastAPI) -> bool:
    """Returns True if FastAPI would only resolve the hub's own dependencies."""
    return scope["app"] is app and not app.dependency_overrides and not has_ticket(scope)


class _DirectStream(Route):
    def __init__(self, app: FastAPI) -> None:
        super().__init__(STREAM_PATH, _Stream(), methods=["GET"], include_in_schema=False)
        self._app = app

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http" and scope["method"] == "GET" and _is_direct(scope, self._app):
            return super().matches(scope)
        return Match.NONE, {}


class _DirectSocket(WebSocketRoute):
    def __init__(self, app: FastAPI) -> None:
        super().__init__(WEBSOCKET_PATH, _Socket())
        self._app = app

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return super().matches(scope) if _is_direct(scope, self._app) else (Match.NONE, {})


def direct_routes(app: FastAPI) -> list[BaseRoute]:
    """Returns the routes, to be put before FastAPI's. Only FastAPI's are in the OpenAPI schema."""
    return [_DirectStream(app), _DirectSocket(app)]
