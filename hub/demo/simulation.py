"""The simulated builds: each is a worker that publishes what it does, and obeys its viewers' commands."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from hub.demo.pictures import STEPS
from hub.ending import end_tasks
from hub.errors import BrokerUnavailable, JobExists
from hub.job.command import CANCEL
from hub.job.event import EventId
from hub.produce.jobs import JobStateMachine
from hub.produce.publisher import Publisher

USER = "demo-user"

APPROVE = "approve"
"""The command that lets a build go on which waits for it."""

PATIENCE = 30.0
"""Seconds that a build waits for its approval, at pace 1; then it goes on without."""

PAUSE = 6.0
"""Seconds between the end of a build and its next run, at pace 1: time to look at the result."""


@dataclass(slots=True)
class Build:
    """One simulated build and the state of its current run."""

    name: str
    title: str
    hue: int
    fails_every: int  # every n-th run fails; 0: none fails
    asks: bool = False  # before it is deployed
    run: int = 0
    status: str = "queued"
    started: float = 0.0
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    approved: asyncio.Event = field(default_factory=asyncio.Event)

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
        Build("cedar", "Cedar mobile site", 24, 0, asks=True),
    ]


class Stopped(Exception):
    """A viewer has stopped the build."""


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
        async with self._obeying(build):
            try:
                await self._build(build)
            except Stopped:
                build.status = "failed"
                await self._publisher.failed(build.job_id, "Stopped by you", stopped=True)

    async def _build(self, build: Build) -> None:
        fails = build.fails_every and build.run % build.fails_every == 0
        for step, (stage, narration, section, content) in enumerate(STAGES, 1):
            if stage == "deploy" and build.asks:
                await self._ask(build, step)
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

    # --- commands

    @asynccontextmanager
    async def _obeying(self, build: Build) -> AsyncIterator[None]:
        """Obey the commands of the viewers while the block runs."""
        build.stopped.clear()
        build.approved.clear()
        obeying = asyncio.create_task(self._obey(build), name=f"demo-{build.name}-commands")
        try:
            yield
        finally:
            await end_tasks(obeying)

    async def _obey(self, build: Build) -> None:
        async for command in self._publisher.commands(build.job_id):
            if command.name == CANCEL:
                await command.done(narration="Stopping the build")
                build.stopped.set()
            elif build.status == "approval":
                await command.done(narration="Going on: it was approved")
                build.approved.set()
            else:
                await command.refused("This build does not wait for an approval")

    async def _ask(self, build: Build, step: int) -> None:
        """Wait until the build is approved, stopped, or nobody cares."""
        build.status = "approval"
        words = "Waiting for you: shall it go live?"
        await self._publisher.stage_started(build.job_id, "deploy", words, status="approval", **_stamp(step))
        waits = [asyncio.create_task(event.wait()) for event in (build.approved, build.stopped)]
        try:
            await asyncio.wait(waits, timeout=PATIENCE * self._pace, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end_tasks(*waits)

    async def _rest(self, build: Build, seconds: float) -> None:
        """Work for about so long. Raises Stopped."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pace * seconds):
                await build.stopped.wait()
        if build.stopped.is_set():
            raise Stopped

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
            await self._rest(build, random.uniform(0.8, 1.6))
            await self._publisher.stage_started(build.job_id, stage, detail, **_stamp(step))
        await self._rest(build, random.uniform(0.6, 1.2))
        took = round(time.monotonic() - began, 2)
        return await self._publisher.stage_completed(build.job_id, stage, took, **_stamp(step))


def _stamp(step: int) -> dict[str, Any]:
    """Fields from which the page shows progress and latency. `ts` is in milliseconds since 1970."""
    return {"step": step, "steps": STEPS, "ts": time.time_ns() // 1_000_000}
