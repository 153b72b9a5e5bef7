"""An application's own guard runs before every endpoint of the hub, on both transports."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient, WebSocketDenialResponse

from hub import mount
from hub.demo.embedded import EmbeddedServer
from hub.web.routes import router as jobs_router
from tests.support.live import settings, token


async def guard(connection: HTTPConnection) -> None:
    """A guard as an application would write it: a request needs a certain header."""
    if connection.headers.get("x-word") != "please":
        raise HTTPException(403, "guarded")


def by_the_application(values) -> FastAPI:
    app = FastAPI(dependencies=[Depends(guard)])
    mount(app, values)
    return app


def by_mount(values) -> FastAPI:
    app = FastAPI()
    mount(app, values, dependencies=[Depends(guard)])
    return app


def by_the_router(values) -> FastAPI:
    app = FastAPI()
    app.router.dependencies.append(Depends(guard))
    mount(app, values)
    return app


def by_a_router_around(values) -> FastAPI:
    app = FastAPI()
    around = APIRouter(dependencies=[Depends(guard)])
    around.include_router(jobs_router)
    app.include_router(around)
    mount(app, values)  # the routes above come first
    return app


GUARDED = [by_the_application, by_mount, by_the_router, by_a_router_around]


@pytest.mark.parametrize("guarded", GUARDED, ids=lambda made: made.__name__)
def test_a_guard_keeps_out_on_every_endpoint(
    redis_server: EmbeddedServer, guarded: Callable[..., FastAPI]
) -> None:
    """A valid token is not enough if the application demands more."""
    app = guarded(settings(redis_url=redis_server.url))
    headers = {"authorization": f"Bearer {token()}"}
    with TestClient(app) as client:
        for path in ("/events/stream", "/events", "/stream", ""):
            assert client.get(f"/api/jobs/a{path}", headers=headers).status_code == 403, path
        for path in ("/api/jobs/a/events/ws", "/api/events/ws"):
            with (
                pytest.raises(WebSocketDenialResponse) as denied,
                client.websocket_connect(path, headers=headers),
            ):
                pass
            assert denied.value.status_code == 403


@pytest.mark.parametrize("guarded", GUARDED, ids=lambda made: made.__name__)
def test_a_request_that_passes_the_guard_meets_the_hub(
    redis_server: EmbeddedServer, guarded: Callable[..., FastAPI]
) -> None:
    """The hub's own rule holds behind a guard: an unknown job is 404."""
    app = guarded(settings(redis_url=redis_server.url))
    headers = {"authorization": f"Bearer {token()}", "x-word": "please"}
    with TestClient(app) as client:
        assert client.get("/api/jobs/none/events/stream", headers=headers).status_code == 404
        with (
            pytest.raises(WebSocketDenialResponse) as denied,
            client.websocket_connect("/api/jobs/none/events/ws", headers=headers),
        ):
            pass
        assert denied.value.status_code == 404
