"""`POST /api/jobs/{job_id}/commands`: a page that watches over SSE gives commands, as a WebSocket does."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from hub.errors import HubError
from hub.transports.headers import PRIVATE
from hub.web import routes
from hub.web.callers import caller
from hub.web.refusals import refusal

router = APIRouter()


class NewCommand(BaseModel, extra="forbid"):
    """A command to the job's worker."""

    name: str = Field(description="one that the hub allows (`HUB_COMMANDS`)")
    args: dict[str, Any] = Field({}, description="at most 4 KB")


class CommandKept(BaseModel):
    """The worker hears it, also one that begins again."""

    command: str = Field(description="the id that `command.done` or `command.refused` has")


@router.post(
    "/api/jobs/{job_id}/commands",
    status_code=202,
    response_model=CommandKept,
    responses={
        **routes.NOT_FOUND,
        403: {"description": "You may watch the job, and not give it this command"},
        409: {"description": "The job has ended, or nobody works on it"},
        422: {"description": "No such command, or not with these arguments"},
        429: {"description": "Too many commands"},
    },
)
async def give_command(
    user: routes.Caller,
    job_id: routes.JobPath,
    service: routes.Here,
    request: Request,
    wanted: NewCommand,
    idempotency_key: Annotated[
        str | None, Header(description="a second command with it, within a day, is the first")
    ] = None,
) -> Response:
    """Give a command to the job's worker: stop, approve, answer."""
    try:
        given = await service.hub.desk.give(
            caller(user, request), routes.known(job_id), wanted.name, wanted.args, idempotency_key
        )
    except HubError as error:
        raise refusal(error) from error
    return JSONResponse({"command": given}, 202, PRIVATE)
