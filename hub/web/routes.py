"""The endpoints of jobs. Each finds out the user, the job and the cursor, and gives a view to a transport."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, WebSocket
from fastapi.responses import JSONResponse, Response
from starlette.requests import HTTPConnection

from hub.engine.view import View
from hub.errors import BrokerUnavailable, HubError, JobNotFound
from hub.job.cursor import Wish
from hub.job.event import JobId
from hub.job.event import job_id as parse_job_id
from hub.transports.answers import splice, text
from hub.transports.headers import PRIVATE
from hub.transports.hello import ARRIVED_LATE
from hub.transports.page import read_page
from hub.transports.sse import EventStream
from hub.web.auth import User
from hub.web.callers import caller
from hub.web.context import Service, close_dependencies, get_service, require_auth
from hub.web.refusals import refusal, refuse_socket, stream_refused

router = APIRouter()

STREAM_PATH = "/api/jobs/{job_id}/events/stream"
WEBSOCKET_PATH = "/api/jobs/{job_id}/events/ws"
DASHBOARD_PATH = "/api/events/ws"

Caller = Annotated[User, Depends(require_auth)]
Here = Annotated[Service, Depends(get_service)]
Cursor = Annotated[str | None, Query(description="id of the last event you have; the page starts after it")]
Types = Annotated[
    str | None, Query(description="event types, separated by commas; terminal events always pass")
]
JobPath = Annotated[str, Path(description="the job's id")]
# The parameters of a stream, for OpenAPI only. `_wish` reads them from the request: declared as parameters of
# the endpoint, FastAPI would validate each string at each join, which is a fifth of a join's cost.
WISHES = [
    {"name": name, "in": where, "description": words, "schema": {"type": "string"}}
    for name, where, words in (
        (
            "Last-Event-ID",
            "header",
            "id of the last event you have, as EventSource sends it; the stream resumes after it",
        ),
        ("last_event_id", "query", "the same for a first connection; the header takes precedence"),
        (
            "from",
            "query",
            "where to start without a cursor: start (the default), live, or -20 (the last 20 events)",
        ),
        ("types", "query", "event types, separated by commas; terminal events always pass"),
        ("wait", "query", "seconds (at most 30) to wait for a job that does not exist yet"),
    )
]
NOT_FOUND: dict[int | str, dict[str, Any]] = {
    404: {"description": "Unknown job, another user's job, or not signed in"}
}


@router.get(
    STREAM_PATH,
    response_class=Response,
    responses={
        **NOT_FOUND,
        200: {"content": {"text/event-stream": {}}, "description": "The job's events, live"},
        204: {
            "description": "The job has ended and you have all its events; an EventSource stops reconnecting"
        },
    },
    openapi_extra={"parameters": WISHES},
)
async def stream_job_events(user: Caller, job_id: JobPath, service: Here, request: Request) -> Response:
    """Watch a job over Server-Sent Events: its past events, then live ones, until it ends."""
    wish = _wish(request)
    try:
        view = await service.hub.view(caller(user, request), known(job_id), wish, wait=_wait(request))
    except HubError as error:
        return stream_refused(service.hub.settings, request, error)
    return await answer_stream(request, service, view)


async def answer_stream(request: Request, service: Service, view: View) -> Response:
    """Returns the answer to a viewer that may watch."""
    if view.begin.over:
        view.close()
        return Response(status_code=204, headers=PRIVATE)
    return await _stream(request, service, view)


@router.get(
    "/api/jobs/{job_id}/stream",
    response_class=Response,
    responses={
        **NOT_FOUND,
        200: {"content": {"text/event-stream": {}}, "description": "The job's status, then its events, live"},
    },
)
async def stream_job_status(user: Caller, job_id: JobPath, service: Here, request: Request) -> Response:
    """The older status stream: the current status first, then every new event, until the job ends."""
    try:
        view = await service.hub.view(caller(user, request), known(job_id), Wish(from_="live"))
    except HubError as error:
        return stream_refused(service.hub.settings, request, error)
    status = {"job_id": job_id, "status": view.status, "message": view.job.fields.get("message", "")}
    view.skip_to_end()
    return await _stream(request, service, view, prologue=json.dumps(status))


@router.websocket(WEBSOCKET_PATH)
async def watch_job(websocket: WebSocket, user: Caller, job_id: JobPath, service: Here) -> None:
    """Watch a job over a WebSocket, with the same events, ids and guarantees as over SSE."""
    try:
        view = await service.hub.view(
            caller(user, websocket), known(job_id), _wish(websocket), wait=_wait(websocket)
        )
    except HubError as error:
        await refuse_socket(websocket, error, late=late(service))
        return
    await _let_go(websocket, view)
    await service.websocket.serve(websocket, view)


@router.websocket(DASHBOARD_PATH)
async def watch_jobs(websocket: WebSocket, user: Caller, service: Here) -> None:
    """Watch many jobs on one WebSocket. Commands on it subscribe and unsubscribe."""
    await close_dependencies(websocket.scope)
    try:
        await service.dashboards.serve(websocket, caller(user, websocket))
    except HubError as error:
        await refuse_socket(websocket, error, late=late(service))


@router.get(WEBSOCKET_PATH, include_in_schema=False)
@router.get(DASHBOARD_PATH, include_in_schema=False)
async def expect_upgrade() -> Response:
    """A handshake without its Upgrade header: for everybody the same."""
    words = "Expected a WebSocket handshake, got none: does a proxy drop the Upgrade header?"
    return JSONResponse({"detail": words}, 426, {**PRIVATE, "Upgrade": "websocket"})


@router.get("/api/jobs/{job_id}", responses=NOT_FOUND)
async def get_job(user: Caller, job_id: JobPath, service: Here, request: Request) -> Response:
    """A job's current state: status, position, public fields, the last event of each type, and how many
    viewers it has over all hubs (null if Redis does not say).
    """
    view = await _view(service, user, job_id, Wish(from_="live"), request)
    with view:
        try:
            await view.reach()
        except HubError as error:
            raise refusal(error) from error
        state = view.state_text()
    counts = {"viewers": await service.hub.presence.of(view.job_id)} if service.hub.settings.presence else {}
    return Response(splice(text(counts), state), headers=PRIVATE, media_type="application/json")


@router.get("/api/jobs/{job_id}/events", responses=NOT_FOUND)
async def get_job_events(
    user: Caller,
    job_id: JobPath,
    service: Here,
    request: Request,
    after: Cursor = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="most events of the page")] = 100,
    wait: Annotated[
        float,
        Query(ge=0, le=30, description="seconds to wait for an event if there is none after the cursor"),
    ] = 0,
    types: Types = None,
) -> Response:
    """A page of a job's events after a cursor; `wait`: long poll. Its `position` is the next `after`."""
    view = await _view(service, user, job_id, Wish.parse(cursor=after, types=types), request)
    with view:
        try:
            async with asyncio.timeout(35):  # `wait` is at most 30, and reads of Redis come before it
                page = await read_page(service.hub, view, limit=limit, wait=wait, receive=request.receive)
        except HubError as error:
            raise refusal(error) from error
        except TimeoutError as error:
            raise refusal(BrokerUnavailable("expected a page within 35 s")) from error
        return Response(page, headers=PRIVATE, media_type="application/json")


async def _stream(request: Request, service: Service, view: View, *, prologue: str | None = None) -> Response:
    await _let_go(request, view)
    return EventStream(service.sse, view, prologue=prologue)


async def _let_go(connection: HTTPConnection, view: View) -> None:
    """End what the application holds for this request: the stream does not need it, and lasts for hours."""
    try:
        await close_dependencies(connection.scope)
    except BaseException:
        view.close()
        raise


def _wait(connection: HTTPConnection) -> float:
    """The seconds that a viewer waits for its job to be made: `wait`,
    0 to 30, and 0 for what is no number.
    """
    text = connection.query_params.get("wait", "")
    return min(30.0, float(text)) if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text, re.ASCII) else 0.0


def _wish(connection: HTTPConnection) -> Wish:
    return wish_of(connection.headers.get("last-event-id"), connection.query_params)


def wish_of(last_event_id: str | None, query: Mapping[str, str]) -> Wish:
    """Returns what the header `Last-Event-ID` and the parameters of a request ask for."""
    cursor = last_event_id or query.get("last_event_id") or query.get("lastEventId")
    return Wish.parse(cursor=cursor, from_=query.get("from"), types=query.get("types"))


async def _view(service: Service, user: User, job_id: str, wish: Wish, request: Request) -> View:
    try:
        return await service.hub.view(caller(user, request), known(job_id), wish)
    except HubError as error:
        raise refusal(error) from error


def late(service: Service) -> float:
    """Seconds between the accept of a WebSocket and its refusal."""
    return 0 if service.hub.draining else ARRIVED_LATE


def known(job_id: str) -> JobId:
    """Checks `job_id`. Raises JobNotFound for text that cannot be a job's id, as for an unknown job."""
    job = parse_job_id(job_id)
    if job is None:
        raise JobNotFound(f"expected a job's id, got {job_id!r}")
    return job
