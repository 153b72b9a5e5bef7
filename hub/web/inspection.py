"""The inspector: what all processes of all hubs on this Redis watch, as JSON and as a page.

Invariant: the endpoints are the operator's (admin.py). One process says what `Inspector.look` returns.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, Field

from hub.engine.caller import Caller
from hub.engine.inspector import GONE
from hub.engine.survey import Said
from hub.errors import HubError, JobNotFound
from hub.job.cursor import Wish
from hub.job.event import JobId
from hub.job.event import job_id as parse_job_id
from hub.job.question import Away
from hub.timings import BOUNDS
from hub.transports.headers import PAGE, PRIVATE, SAFE
from hub.web.context import get_context
from hub.web.refusals import refusal, stream_refused
from hub.web.routes import answer_stream

Rows = list[dict[str, Any]]

STATIC = {"inspector.js": "text/javascript", "inspector.css": "text/css"}
"""Files of the page, and their types."""

Limit = Annotated[int, Query(ge=1, le=1000, description="most jobs, or viewers, of each process")]


class Send(BaseModel, extra="forbid"):
    """Whose viewers are to reconnect; one of the two at least."""

    job: str | None = Field(None, description="those of this job")
    user: str | None = Field(None, description="those of this user")


def add_inspector(router: APIRouter) -> None:
    """Add the endpoints to the operator's."""
    _add_questions(router)
    _add_actions(router)
    _add_page(router)


def _add_questions(router: APIRouter) -> None:
    @router.get("/admin/api/overview")
    async def overview(request: Request, limit: Limit = 50) -> Response:
        """Every process of every hub on this Redis: its numbers, the jobs with the most viewers, the viewers
        that went last, and its last warnings.
        """
        said = await get_context(request).own_service().hub.survey.ask(None, limit)
        return JSONResponse(of_all(said, limit), headers=PRIVATE)

    @router.get("/admin/api/jobs/{job_id}")
    async def job(request: Request, job_id: str, limit: Limit = 200) -> Response:
        """One job at every process: its viewers, and those that went last, with the reason."""
        said = await get_context(request).own_service().hub.survey.ask(_known(job_id), limit)
        found = of_one(said)
        if not found["watched"] and not found["gone"]:
            raise HTTPException(404, "no process watches the job")
        return JSONResponse(found, headers=PRIVATE)


def _add_actions(router: APIRouter) -> None:
    @router.get("/admin/api/jobs/{job_id}/stream")
    async def stream(request: Request, job_id: str) -> Response:
        """The job as its owner would see it, over SSE: the last events, then live ones."""
        service = get_context(request).own_service()
        known = _known(job_id)
        try:
            (found,) = await service.hub.broker.jobs([known])
            if found is None or not found.user_id:
                raise JobNotFound("expected a job with an owner")
            view = await service.hub.view(Caller(found.user_id), known, Wish.parse(from_="-50"))
        except HubError as error:
            return stream_refused(service.hub.settings, request, error)
        return await answer_stream(request, service, view)

    @router.post("/admin/api/away", status_code=204, response_class=Response)
    async def away(request: Request, wanted: Send) -> Response:
        """Tell viewers to reconnect, at every process within a second: they miss nothing."""
        if not wanted.job and not wanted.user:
            raise HTTPException(422, "expected a job, a user, or both")
        message = Away(_known(wanted.job) if wanted.job else None, wanted.user or None).message()
        try:
            await get_context(request).own_service().hub.broker.announce(message)
        except HubError as error:
            raise refusal(error) from error
        return Response(status_code=204, headers=PRIVATE)


def _known(job_id: str) -> JobId:
    known = parse_job_id(job_id)
    if known is None:
        raise HTTPException(404, "no process watches the job")
    return known


def _add_page(router: APIRouter) -> None:
    @router.get("/admin", include_in_schema=False)
    async def page() -> Response:
        """The inspector."""
        return HTMLResponse(_file("inspector.html"), headers=PAGE)

    @router.get("/admin/static/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        if name not in STATIC:
            raise HTTPException(404)
        return Response(_file(name), media_type=STATIC[name], headers={**SAFE, "Cache-Control": "no-cache"})


@cache
def _file(name: str) -> str:
    return files("hub").joinpath("static", "admin", name).read_text("utf-8")


def of_all(said: Said, limit: int) -> dict[str, Any]:
    """The answers of all processes as one: `bounds` are those of the timings' buckets, in seconds."""
    jobs: dict[str, dict[str, Any]] = {}
    for row in _rows(said, "watched"):
        jobs[row["job_id"]] = (
            _merged(jobs[row["job_id"]], row) if row["job_id"] in jobs else {**row, "processes": 1}
        )
    rows = sorted(jobs.values(), key=lambda row: (-row["viewers"], row["job_id"]))
    own = ("host", "pid", "version", "since", "totals", "timings")
    answered = sorted(said.by.items(), key=lambda item: (str(item[1].get("host")), item[1].get("pid", 0)))
    return {
        "asked": said.asked,
        "bounds": BOUNDS,
        "processes": [{"process": key, **{name: one.get(name) for name in own}} for key, one in answered],
        "jobs": rows[:limit],
        "gone": _newest(_rows(said, "gone")),
        "incidents": _newest(_rows(said, "incidents")),
    }


def of_one(said: Said) -> dict[str, Any]:
    """The same of one job: `watched` has a row for each process that watches it."""
    watching = sorted(_rows(said, "watching"), key=lambda row: -row["behind"])
    return {
        "asked": said.asked,
        "answered": len(said.by),
        "watched": list(_rows(said, "watched")),
        "watching": watching,
        "gone": _newest(_rows(said, "gone")),
    }


def _rows(said: Said, name: str) -> Iterable[dict[str, Any]]:
    """The rows of that name, each with its process."""
    for key, one in said.by.items():
        for row in one.get(name, []):
            yield {**row, "process": key}


def _newest(rows: Iterable[dict[str, Any]]) -> Rows:
    return sorted(rows, key=lambda row: -row["at"])[:GONE]


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """A job that two processes watch, as one row."""
    sums = {name: one[name] + other[name] for name in ("viewers", "paused", "window_bytes")}
    most = {name: max(one[name], other[name]) for name in ("behind", "window_events", "events")}
    return {**one, **sums, **most, "processes": one["processes"] + 1}
