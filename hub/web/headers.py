"""ASGI middleware: adds the headers of every answer that it does not have of its own."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hub.transports.headers import SAFE

_SAFE = [(name.lower().encode(), value.encode()) for name, value in SAFE.items()]


class SafeHeaders:
    """Answers of FastAPI's and Starlette's own (404, 405, 422), too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def send_safely(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                headers = message.get("headers", [])
                there = {name for name, _ in headers}
                message["headers"] = [*headers, *(one for one in _SAFE if one[0] not in there)]
            await send(message)

        await self._app(scope, receive, send if scope["type"] == "lifespan" else send_safely)
