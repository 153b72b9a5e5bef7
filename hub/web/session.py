"""`GET /api/session`: a client that was answered 404 learns whether to
renew its token, and nothing of any job.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute

from hub.transports.headers import PRIVATE
from hub.web.auth import User, who
from hub.web.callers import caller
from hub.web.context import Service, get_service, require_auth


class _SessionRoute(APIRoute):
    """Answers 401 where `require_auth`, which an application may override, refuses in whatever way."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except HTTPException as error:
                if error.status_code not in (401, 403, 404):
                    raise
                return JSONResponse({"detail": "Not signed in"}, 401, PRIVATE)

        return answer


router = APIRouter(route_class=_SessionRoute)


@router.get("/api/session", responses={401: {"description": "Not signed in"}})
async def get_session(
    user: Annotated[User, Depends(require_auth)],
    service: Annotated[Service, Depends(get_service)],
    request: Request,
) -> Response:
    """The caller's own user id, and when the credentials expire (seconds since 1970, null if never)."""
    if service.hub.revocations.cover(caller(user, request)):
        raise HTTPException(401)
    expires = getattr(user, "expires", math.inf)
    return JSONResponse(
        {"user": str(who(user)), "expires": expires if math.isfinite(expires) else None}, headers=PRIVATE
    )
