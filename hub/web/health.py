"""`/healthz` and `/readyz`, for load balancers and supervisors."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from hub.transports.headers import SAFE
from hub.web.routes import Here

router = APIRouter(tags=["operations"])


@router.get("/healthz")
async def healthz() -> Response:
    """Always 200: the process is alive."""
    return JSONResponse({"status": "ok"}, headers=SAFE)


@router.get("/readyz", responses={503: {"description": "Redis does not answer, or the hub is draining"}})
async def readyz(service: Here) -> Response:
    """200 if new viewers can be served: Redis answers and the hub is not draining. Else 503."""
    redis, draining = await service.readiness.answers(), service.hub.draining
    ready = redis and not draining
    words = {"status": "ready" if ready else "not ready", "redis": redis, "draining": draining}
    return JSONResponse(words, 200 if ready else 503, SAFE)
