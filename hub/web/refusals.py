"""The answers to who is not let in, for each transport, and for clients that are no browsers.

Invariant: an unknown job, another user's and bad credentials get the same answer. A browser's stream is never
answered with an error that could pass: an EventSource would give up for ever.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress

from fastapi import HTTPException, Request, WebSocket
from fastapi.responses import JSONResponse, Response
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocketDisconnect

from hub.errors import BrokerUnavailable, HubError, JobNotFound, KeysUnavailable, Overloaded, TooManyCommands
from hub.settings import Settings
from hub.transports.headers import PRIVATE
from hub.transports.hello import ARRIVED_LATE, is_browser
from hub.transports.sse import overloaded


def refusal(error: HubError) -> HTTPException:
    """Returns `error` as an HTTPException, which Starlette sends as a denial of a WebSocket handshake too."""
    is_passing = error.status in (429, 503)
    return HTTPException(
        error.status, error.detail, headers=PRIVATE | _retry_later(error) if is_passing else PRIVATE
    )


def _retry_later(error: HubError) -> dict[str, str]:
    """The header of an answer that a client may get a better one for later (RFC 9110, 10.2.3)."""
    return {"Retry-After": str(3 + math.ceil(_after(error)))}


def _after(error: HubError) -> float:
    return error.after if isinstance(error, Overloaded | TooManyCommands) else 0.0


def stream_refused(settings: Settings, request: Request, error: HubError) -> Response:
    """The answer to an event stream. Raises HTTPException where the client may see a status."""
    if isinstance(error, JobNotFound) or not is_browser(request):
        raise refusal(error) from error
    return overloaded(settings, _after(error))


async def refuse_socket(websocket: WebSocket, error: HubError, *, late: float = ARRIVED_LATE) -> None:
    """Close a socket, `late` seconds after the handshake. Raises
    HTTPException where the client sees a status.
    """
    if isinstance(error, JobNotFound) or not is_browser(websocket):
        raise refusal(error) from error
    # A browser's page sees only 1006 for a refused handshake. Accepting first lets it see the close code.
    with suppress(WebSocketDisconnect):  # it left, or the server ended and closed it
        await websocket.accept()
        if after := _after(error):
            await websocket.send_json({"type": "reconnect", "after_ms": int(after * 1000)})
        await asyncio.sleep(late)
        await websocket.close(error.close_code, error.detail)


async def unavailable(connection: HTTPConnection, error: Exception) -> Response | None:
    """Answers a request whose credentials cannot be checked: the keys,
    or the Redis of tickets, are not there.
    """
    assert isinstance(error, KeysUnavailable | BrokerUnavailable), "it is registered for these"
    if is_browser(connection):
        if isinstance(connection, WebSocket):
            await refuse_socket(connection, error)
            return None
        if connection.url.path.endswith("/stream"):
            settings: Settings = connection.app.state.push_hub.settings
            return overloaded(settings)
    return JSONResponse({"detail": error.detail}, error.status, PRIVATE | _retry_later(error))
