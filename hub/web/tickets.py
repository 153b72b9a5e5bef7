"""Tickets: a client that can send neither a header nor a cookie opens one job's streams with `?ticket=`.

Invariant: a ticket opens one job, as the user that it was made for, and makes no further tickets. With
`ticket` in the query nothing else of the request's credentials counts.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.params import Depends as DependsOn
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute, APIWebSocketRoute
from pydantic import BaseModel, Field
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from hub.broker.tickets import Ticket, Tickets
from hub.errors import HubError, JobNotFound
from hub.transports.headers import PRIVATE
from hub.web import routes
from hub.web.auth import User
from hub.web.callers import caller
from hub.web.context import ONLY, Service, get_context, get_service, require_auth
from hub.web.refusals import refusal

PREFIX = "pht_"
"""How a ticket begins, so that a log or a scanner for secrets recognises it."""

MAX_TTL = 300.0
"""Seconds that a ticket may be good for, unless `HUB_TICKET_MAX_TTL` allows share links."""

MAX_USES = 100
"""Uses of a ticket that is no share link: a page with some streams, which reconnect."""

_SHAPE = re.compile(PREFIX + "[A-Za-z0-9_-]{22}", re.ASCII)


class NewTicket(BaseModel, extra="forbid"):
    """What a ticket is to be good for."""

    ttl: float = Field(60, gt=0, allow_inf_nan=False, description="seconds within which it must be used")
    uses: int | None = Field(
        1, ge=1, le=MAX_USES, description="how often; null: without a limit (a share link)"
    )


class TicketMade(BaseModel):
    """A ticket. It is shown once."""

    ticket: str = Field(description="for `?ticket=` on the job's endpoints, and on the dashboard socket")
    expires: float = Field(description="in seconds since 1970")
    uses: int | None


router = APIRouter()


@router.post(
    "/api/jobs/{job_id}/tickets", status_code=201, response_model=TicketMade, responses=routes.NOT_FOUND
)
async def make_ticket(
    user: routes.Caller, job_id: routes.JobPath, service: routes.Here, request: Request, wanted: NewTicket
) -> Response:
    """A ticket that lets whoever has it watch this job as you."""
    asker = caller(user, request)
    now = time.time()
    expires = now + wanted.ttl
    secret = PREFIX + secrets.token_urlsafe(16)
    try:
        job = routes.known(job_id)
        await service.hub.authorised(asker, job)
        _check(wanted, service.hub.settings.ticket_max_ttl)
        streams_end = expires if _is_link(wanted) else asker.expires
        ticket = Ticket(job, asker.user, min(asker.issued, now), streams_end, asker.shared)
        await Tickets(service.hub.broker).put(secret, ticket, until=expires, uses=wanted.uses)
    except HubError as error:
        raise refusal(error) from error
    return JSONResponse({"ticket": secret, "expires": expires, "uses": wanted.uses}, 201, PRIVATE)


def _check(wanted: NewTicket, longest: float) -> None:
    if _is_link(wanted) and not longest:
        words = f"expected at most {MAX_TTL:.0f} s and a number of uses: this hub has no share links"
        raise HTTPException(422, words)
    if wanted.ttl > max(MAX_TTL, longest):
        raise HTTPException(422, f"expected at most {max(MAX_TTL, longest):.0f} s, got {wanted.ttl:.0f}")


def _is_link(wanted: NewTicket) -> bool:
    """Returns True for a share link, whose streams outlive the credentials of the user that made it."""
    return wanted.uses is None or wanted.ttl > MAX_TTL


async def ticket_holder(
    connection: HTTPConnection, service: Annotated[Service, Depends(get_service)]
) -> User:
    """Uses the request's ticket, and returns its user. Raises 404 whatever is wrong with it, and
    BrokerUnavailable."""
    given = connection.query_params.getlist("ticket")
    ticket = None
    if len(given) == 1 and _SHAPE.fullmatch(given[0]):
        ticket = await Tickets(service.hub.broker).use(given[0], connection.path_params.get("job_id", ""))
    if ticket is None:
        get_context(connection).authenticator.totals.auth_refused_ticket += 1
        raise refusal(JobNotFound("expected a ticket that is good for this job"))
    connection.scope[ONLY] = ticket.job
    return User(ticket.user, issued=ticket.issued, expires=ticket.expires, shared=ticket.shared)


class _Overrides:
    """The overrides of `app`, with the ticket in the place of its authentication."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    @property
    def dependency_overrides(self) -> Mapping[Callable[..., Any], Callable[..., Any]]:
        """See `FastAPI.dependency_overrides`."""
        return {**self._app.dependency_overrides, require_auth: ticket_holder}


def has_ticket(scope: Scope) -> bool:
    """Returns True if the query of the request has a ticket."""
    query: bytes = scope.get("query_string", b"")
    return query.startswith(b"ticket=") or b"&ticket=" in query


class _TicketRoute(APIRoute):
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return super().matches(scope) if has_ticket(scope) else (Match.NONE, {})


class _TicketSocket(APIWebSocketRoute):
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return super().matches(scope) if has_ticket(scope) else (Match.NONE, {})


def ticket_routes(app: FastAPI, path: str, dependencies: Sequence[DependsOn]) -> list[BaseRoute]:
    """The endpoints of jobs for requests that have a ticket, to be put before those that have none."""
    found: list[BaseRoute] = []
    guards = [*app.router.dependencies, *dependencies]
    for route in routes.router.routes:
        if isinstance(route, APIWebSocketRoute):
            found.append(
                _TicketSocket(
                    path + route.path,
                    route.endpoint,
                    dependencies=guards,
                    dependency_overrides_provider=_Overrides(app),
                )
            )
        elif isinstance(route, APIRoute):
            found.append(
                _TicketRoute(
                    path + route.path,
                    route.endpoint,
                    response_class=route.response_class,
                    dependencies=guards,
                    dependency_overrides_provider=_Overrides(app),
                    include_in_schema=False,
                )
            )
    return found
