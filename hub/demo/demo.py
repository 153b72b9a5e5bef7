"""The demo: a hub, a few simulated builds that run again and again, and pages to watch them.

Only the builds are simulated. Redis, the publisher and the user with a session cookie are real.
"""

from __future__ import annotations

import asyncio
import hmac
import random
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

from hub.demo.pictures import STEPS, snapshot
from hub.ending import end_tasks
from hub.errors import BrokerUnavailable, JobExists
from hub.job.event import EventId
from hub.produce.jobs import JobStateMachine
from hub.produce.publisher import Publisher
from hub.settings import Settings
from hub.transports.headers import SAFE
from hub.web.app import create_app

USER = "demo-user"

POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
POLICY += "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

STATIC = {
    "demo.css": "text/css",
    "viewer.css": "text/css",
    "viewer.js": "text/javascript",
    "dashboard.css": "text/css",
    "dashboard.js": "text/javascript",
}
"""Files of the pages, and their types."""

PAUSE = 6.0
"""Seconds between the end of a build and its next run, at pace 1: time to look at the result."""


@dataclass(slots=True)
class Build:
    """One simulated build and the state of its current run."""

    name: str
    title: str
    hue: int
    fails_every: int  # every n-th run fails; 0: none fails
    run: int = 0
    status: str = "queued"
    started: float = 0.0

    @property
    def job_id(self) -> str:
        """The id of the current run's job."""
        return f"{self.name}-{self.run}"


STAGES = [
    (
        "scaffold",
        "Laying out the project",
        "Overview",
        "The {title} gets a page, an API and a place for its data.",
    ),
    (
        "code",
        "Writing the pages and the API",
        "Pages",
        "The home page lists what is new. Each item has a page.",
    ),
    (
        "deps",
        "Installing what it stands on",
        "Dependencies",
        "Seven packages, all pinned, none of them abandoned.",
    ),
    (
        "checks",
        "Running the tests and the linters",
        "Tests",
        "Forty-one tests cover the pages, the API and the cart.",
    ),
    (
        "deploy",
        "Putting it where people can see it",
        "Deployment",
        "One container behind a load balancer, two replicas.",
    ),
]

_DETAILS = [
    "Comparing with the last run",
    "Picking the colours",
    "Naming things, which takes a moment",
    "Reading the error message properly",
    "Making it smaller",
    "Checking it on a phone",
]


def builds() -> list[Build]:
    """Returns the demo's builds, before their first run."""
    return [
        Build("atlas", "Atlas web shop", 222, 0),
        Build("borealis", "Borealis dashboard", 160, 3),
        Build("cedar", "Cedar mobile site", 24, 0),
    ]


class Simulation:
    """Runs the builds. `pace` is about the seconds that a step takes; tests make it small."""

    def __init__(self, jobs: JobStateMachine, publisher: Publisher, *, pace: float = 1.0) -> None:
        self.builds = builds()
        self._jobs = jobs
        self._publisher = publisher
        self._pace = pace
        self.begun = asyncio.Event()
        """Set when the first build's job exists."""

    def start(self) -> list[asyncio.Task[None]]:
        """Run all builds again and again, until these tasks are ended."""
        return [
            asyncio.create_task(self._again_and_again(build, delay), name=f"demo-{build.name}")
            for delay, build in enumerate(self.builds)
        ]

    async def _again_and_again(self, build: Build, delay: float) -> None:
        await asyncio.sleep(delay * 1.5 * self._pace)
        while True:
            try:
                await self._once(build)
            except BrokerUnavailable:
                await asyncio.sleep(1)  # Redis is away; try until it is back
            await asyncio.sleep(PAUSE * self._pace)

    async def _once(self, build: Build) -> None:
        await self._create(build)
        self.begun.set()
        build.started = time.monotonic()
        fails = build.fails_every and build.run % build.fails_every == 0
        for step, (stage, narration, section, content) in enumerate(STAGES, 1):
            await self._stage(build, step, stage, narration)
            if fails and stage == "checks":
                build.status = "failed"
                await self._publisher.failed(
                    build.job_id, "Two tests fail: the cart forgets its items", **_stamp(step)
                )
                return
            if stage != "deps":
                url = f"/demo/snapshots/{build.name}/{step}.svg"
                await self._publisher.snapshot_updated(build.job_id, url, **_stamp(step))
            text = content.format(title=build.title.lower())
            await self._publisher.documentation_updated(build.job_id, section, text, **_stamp(step))
        build.status = "ready"
        took = time.monotonic() - build.started
        await self._publisher.ready(build.job_id, f"Ready after {took:.0f} seconds", **_stamp(STEPS))

    async def _create(self, build: Build) -> None:
        while True:  # a Redis that is not private may hold the jobs of an earlier demo
            build.run += 1
            try:
                await self._jobs.create_job(
                    build.job_id, user_id=USER, project_id=build.name, title=build.title
                )
            except JobExists:
                continue
            return

    async def _stage(self, build: Build, step: int, stage: str, narration: str) -> EventId | None:
        began = time.monotonic()
        build.status = stage
        await self._publisher.stage_started(build.job_id, stage, narration, **_stamp(step))
        for detail in random.sample(_DETAILS, 2):
            await asyncio.sleep(self._pace * random.uniform(0.8, 1.6))
            await self._publisher.stage_started(build.job_id, stage, detail, **_stamp(step))
        await asyncio.sleep(self._pace * random.uniform(0.6, 1.2))
        took = round(time.monotonic() - began, 2)
        return await self._publisher.stage_completed(build.job_id, stage, took, **_stamp(step))


def _stamp(step: int) -> dict[str, Any]:
    """Fields from which the page shows progress and latency. `ts` is in milliseconds since 1970."""
    return {"step": step, "steps": STEPS, "ts": time.time_ns() // 1_000_000}


def token(secret: str) -> str:
    """Returns a token of the demo's user that expires after a day."""
    return jwt.encode({"sub": USER, "exp": int(time.time()) + 86_400}, secret, "HS256")


@dataclass(frozen=True, slots=True)
class Demo:
    """The demo's application and settings; `session` is its user's token, `key` opens its pages from elsewhere."""

    app: FastAPI
    settings: Settings
    session: str
    key: str


def create_demo(redis_url: str, *, pace: float = 1.0) -> Demo:
    """Returns the demo. The lifespan of its application runs the builds."""
    secret = secrets.token_hex(32)
    settings = Settings(redis_url=redis_url, jwt_secret=secret, drain=0, log_level="warning")
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
    """Returns True for a name that no other site can have: its pages could read the demo's cookie otherwise."""
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
        response = HTMLResponse(_static(name), headers={**SAFE, "Content-Security-Policy": POLICY})
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
