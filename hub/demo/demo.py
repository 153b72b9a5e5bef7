"""The demo: a hub, a few simulated builds that run again and again, and pages to watch them.

Only the builds are simulated. Redis, the publisher and the user with a session cookie are real.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from ipaddress import ip_address
from typing import Any

import jwt
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response

from hub.demo.pictures import snapshot
from hub.demo.simulation import APPROVE, USER, Build, Simulation
from hub.ending import end_tasks
from hub.job.command import CANCEL
from hub.produce.jobs import JobStateMachine
from hub.produce.publisher import Publisher
from hub.settings import Settings
from hub.transports.headers import PAGE, SAFE
from hub.web.app import create_app

STATIC = {
    "demo.css": "text/css",
    "viewer.css": "text/css",
    "viewer.js": "text/javascript",
    "dashboard.css": "text/css",
    "dashboard.js": "text/javascript",
}
"""Files of the pages, and their types."""


def token(secret: str) -> str:
    """Returns a token of the demo's user that expires after a day."""
    return jwt.encode({"sub": USER, "exp": int(time.time()) + 86_400}, secret, "HS256")


@dataclass(frozen=True, slots=True)
class Demo:
    """The demo's application and settings; `session` is its user's token,
    `key` opens its pages from elsewhere.
    """

    app: FastAPI
    settings: Settings
    session: str
    key: str


def create_demo(redis_url: str, *, pace: float = 1.0) -> Demo:
    """Returns the demo. The lifespan of its application runs the builds."""
    secret = secrets.token_hex(32)
    settings = Settings(
        redis_url=redis_url,
        jwt_secret=secret,
        drain=0,
        log_level="warning",
        commands=frozenset({CANCEL, APPROVE}),
    )
    app = create_app(settings)
    client = app.state.push_hub.client()
    simulation = Simulation(JobStateMachine(client), Publisher(client), pace=pace)
    hub_lifespan = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        async with hub_lifespan(app) as state:
            running = simulation.start()
            try:
                await simulation.begun.wait()  # the printed URL is of its job
                yield state or {}
            finally:
                await end_tasks(*running)

    app.router.lifespan_context = lifespan
    key = secrets.token_urlsafe(16)
    _pages(app, simulation, token(secret), settings.session_cookie, key)
    return Demo(app, settings, token(secret), key)


def _static(name: str) -> str:
    return files("hub.demo").joinpath("static", name).read_text("utf-8")


def _is_loopback(host: str | None) -> bool:
    """Returns True for a name that no other site can have: its pages
    could read the demo's cookie otherwise.
    """
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False


def _listed(build: Build) -> dict[str, str]:
    return {"job_id": build.job_id, "title": build.title, "status": build.status}


def _pages(app: FastAPI, simulation: Simulation, session: str, cookie: str, key: str) -> None:
    titles = {build.name: build for build in simulation.builds}

    def page(name: str, request: Request) -> Response:
        given = request.query_params.get("key", "")
        if not _is_loopback(request.url.hostname) and not hmac.compare_digest(given.encode(), key.encode()):
            return Response("The URL that the demo printed has a key in it, which this one has not.", 404)
        response = HTMLResponse(_static(name), headers=PAGE)
        response.set_cookie(cookie, session, httponly=True, samesite="strict")
        return response

    @app.get("/", include_in_schema=False)
    async def viewer(request: Request) -> Response:
        return page("viewer.html", request)

    @app.get("/dashboard", include_in_schema=False)
    async def dashboard(request: Request) -> Response:
        return page("dashboard.html", request)

    @app.get("/demo/static/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        if name not in STATIC:
            return Response(status_code=404)
        return Response(_static(name), headers=SAFE, media_type=STATIC[name])

    @app.get("/demo/jobs", include_in_schema=False)
    async def jobs() -> dict[str, list[dict[str, str]]]:
        return {"jobs": [_listed(build) for build in simulation.builds if build.run]}

    @app.get("/demo/snapshots/{name}/{step}.svg", include_in_schema=False)
    async def picture(name: str, step: int) -> Response:
        build = titles.get(name)
        if build is None:
            return Response(status_code=404)
        return Response(snapshot(build.title, step, build.hue), media_type="image/svg+xml")
