"""Who may come in by the door (transports/door.py): a viewer of one job with a plain request.

Invariant: a request is for the door only if the application would do what `direct.py` does and no more. The
middleware, routes and dependencies are those that `create_app` made, and each header and parameter has one
meaning. One function says so, `Door.visit`; everything else goes through the application.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping

from fastapi import FastAPI
from starlette.requests import HTTPConnection

from hub.engine.view import View
from hub.errors import HubError, JobNotFound
from hub.job.cursor import Wish
from hub.job.event import JobId
from hub.job.event import job_id as parse_job_id
from hub.transports.door import DOOR, Headers
from hub.transports.handoff import Detached
from hub.web.auth import User
from hub.web.context import Context, Service, caller_of
from hub.web.credentials import ForeignPage, token_of
from hub.web.request_id import request_id
from hub.web.routes import wish_of

_URL = re.compile(rb"/api/jobs/([A-Za-z0-9_.:@~-]+)/events/(?:stream|(ws))(?:\?([A-Za-z0-9_.:@~,=&-]+))?")

_PARAMETERS = frozenset({"last_event_id", "lastEventId", "from", "types"})

_UNUSUAL = frozenset({b"content-length", b"transfer-encoding", b"expect", b"sec-websocket-protocol"})
"""Headers of a request that takes the way through the application."""

_NOTED = (b"last-event-id", b"x-request-id", b"traceparent")

_SCHEMES = (None, b"http", b"https")
"""Values of X-Forwarded-Proto whose meaning is clear."""

_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")

_MAKERS = frozenset({"starlette", "fastapi", "hub"})
"""Packages whose middleware an application of ours has: none of it does anything for a stream of ours."""


class Door:
    """The door of `app` as it is now: complete, with the direct routes first, and not yet anybody else's."""

    def __init__(self, app: FastAPI, context: Context) -> None:
        self._app = app
        self._context = context
        self._routes = app.router.routes[:2]
        self._layers = _layers(app, app.build_middleware_stack())
        self._stack: object = None  # the middleware that was looked at
        self._is_ours = False

    def visit(self, url: bytes, headers: Headers, *, upgrade: bool) -> Visit | None:
        """Returns the viewer that makes this GET request, or None if it is not for the door."""
        asked = _URL.fullmatch(url)
        if asked is None or upgrade is (asked[2] is None) or not self._is_open():
            return None
        job, query, given = parse_job_id(asked[1].decode()), _parameters(asked[3]), dict(headers)
        if job is None or query is None or len(given) != len(headers) or not _UNUSUAL.isdisjoint(given):
            return None
        token = self._token(headers, given, upgrade=upgrade)
        if token is None or not (_is_handshake(given) if upgrade else self._is_stream(given)):
            return None
        cursor, known_as, trace = (given.get(name, b"").decode("latin-1") for name in _NOTED)
        wish, key = wish_of(cursor, query), given.get(b"sec-websocket-key")
        return Visit(self._context, token, job, wish, key, request_id(known_as, trace))

    def _is_open(self) -> bool:
        """Returns True if nobody has changed the application."""
        app = self._app
        if app.middleware_stack is not self._stack:
            self._stack = app.middleware_stack
            self._is_ours = (
                type(app) is FastAPI
                and _layers(app, self._stack) == self._layers
                and all(layer.__module__.partition(".")[0] in _MAKERS for layer in self._layers)
            )
        return self._is_ours and not app.dependency_overrides and app.router.routes[:2] == self._routes

    def _token(self, headers: Headers, given: Mapping[bytes, bytes], *, upgrade: bool) -> str | None:
        """The token, if it counts whatever the page. The application looks closer at the others."""
        scheme, _, token = given.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer" and token:
            return token.decode("latin-1").strip()
        if b"cookie" not in given or given.get(b"x-forwarded-proto") not in _SCHEMES:
            return None
        scope = {"type": "websocket", "scheme": "ws"} if upgrade else {"type": "http", "scheme": "http"}
        try:
            return token_of(HTTPConnection({**scope, "headers": headers}), self._context.settings)
        except ForeignPage:
            return None

    def _is_stream(self, given: Mapping[bytes, bytes]) -> bool:
        """Returns True unless the answer ends the connection, or CORS has something to say."""
        if b"upgrade" in given or b"close" in given.get(b"connection", b"").lower():
            return False
        return b"origin" not in given or not self._context.settings.allowed_origins


def _layers(app: FastAPI, layer: object) -> list[type]:
    """The types of the middleware from `layer` to the router of `app`."""
    found = []
    while layer is not None and layer is not app.router:
        found.append(type(layer))
        layer = getattr(layer, "app", None)
    return found


def _parameters(query: bytes | None) -> dict[str, str] | None:
    """The parameters of a query; None if another one is among them, or one of them twice."""
    found: dict[str, str] = {}
    for part in query.decode().split("&") if query else ():
        name, _, value = part.partition("=")
        if name not in _PARAMETERS or name in found:
            return None
        found[name] = value
    return found


def _is_handshake(given: Mapping[bytes, bytes]) -> bool:
    """Returns True for an opening handshake without subprotocols (RFC 6455, 4.2.1)."""
    return (
        given.get(b"upgrade", b"").lower() == b"websocket"
        and given.get(b"connection", b"").lower() in (b"upgrade", b"keep-alive, upgrade")
        and given.get(b"sec-websocket-version") == b"13"
        and _KEY.fullmatch(given.get(b"sec-websocket-key", b"")) is not None
    )


class Visit:
    """A viewer at the door."""

    __slots__ = ("_context", "_found", "_job", "_key", "_known_as", "_token", "_wish", "user")

    def __init__(
        self,
        context: Context,
        token: str,
        job: JobId,
        wish: Wish,
        key: bytes | None,
        known_as: tuple[str, str],
    ) -> None:
        self.user: User | None = None
        self._known_as = known_as
        self._context = context
        self._token = token
        self._job = job
        self._wish = wish
        self._key = key  # of a WebSocket's handshake
        self._found: View | HubError | None = None

    async def ask(self) -> bool:
        """Find out whether the viewer may come in, and where it begins. Returns True if all that it needs is
        in the window. Cancel-safe.
        """
        try:
            self._found = view = await self._view()
        except HubError as error:
            self._found = error.with_traceback(None)  # whose frames hold this visit
            return False
        return view.begin.after is None and not (self._key is None and view.begin.over)

    async def _view(self) -> View:
        user = await self._context.authenticator.verify(self._token)
        if user is None:
            raise JobNotFound("expected valid credentials")
        caller = caller_of(user, self._context.settings, known_as=self._known_as)
        return await self._service.hub.view(caller, self._job, self._wish)

    @property
    def _service(self) -> Service:
        return self._context.own_service()

    def take(self) -> View:
        """Returns the viewer, which is the caller's to close from now on. Raises what was found instead."""
        found, self._found = self._found, None
        if isinstance(found, HubError):
            try:
                raise found
            finally:
                del found  # or the error holds its own frame
        assert found is not None, "a visit is taken once, after `ask`"
        return found

    def enter(self, detached: Detached, headers: Headers) -> asyncio.Protocol:
        """Write the answer, and begin the stream on its own socket."""
        service, view = self._service, self.take()
        if self._key is None:
            return service.sse.begin(detached, view, headers)
        return service.websocket.begin(detached, view, headers, self._key)

    def close(self) -> None:
        """Give back the view, unless it was taken."""
        found, self._found = self._found, None
        if isinstance(found, View):
            found.close()


def add_door(app: FastAPI) -> None:
    """Give `app` its door, when it is complete."""
    setattr(app.state, DOOR, Door(app, app.state.push_hub))
