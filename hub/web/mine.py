"""`GET /api/jobs`: the caller's own jobs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

from hub.engine.mine import Page
from hub.errors import HubError, JobNotFound
from hub.job.record import Job
from hub.settings import Settings
from hub.transports.headers import PRIVATE
from hub.web import routes
from hub.web.callers import caller
from hub.web.refusals import refusal

router = APIRouter()


@router.get("/api/jobs", responses=routes.NOT_FOUND)
async def get_jobs(
    user: routes.Caller,
    service: routes.Here,
    request: Request,
    status: Annotated[str | None, Query(description="only jobs of this status")] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="most jobs of the page")] = 20,
    before: Annotated[str | None, Query(description="`next` of the page before")] = None,
) -> Response:
    """The jobs that you own, the newest first. Those that began within the last month, a thousand at most."""
    hub = service.hub
    try:
        asker = caller(user, request)
        if not hub.settings.my_jobs or asker.only is not None or hub.revocations.cover(asker):
            raise JobNotFound("expected a caller who may list jobs")
        hub.admission.enter_rate(asker.user)
        page = await hub.mine.page(asker.user, status=status, limit=limit, before=before)
    except HubError as error:
        raise refusal(error) from error
    return JSONResponse(_answer(page, hub.settings), headers=PRIVATE)


def _answer(page: Page, settings: Settings) -> dict[str, Any]:
    jobs = [{**_shown(job, settings), "began": began} for job, began in page.jobs]
    return {"jobs": jobs, "next": page.next}


def _shown(job: Job, settings: Settings) -> dict[str, Any]:
    kept = {**job.fields, "status": job.status}
    return {
        "job_id": job.id,
        "status": job.status,
        "position": None if job.position is None else str(job.position),
        "attempt": job.attempt,
        "job": {name: value for name, value in kept.items() if name in settings.public_fields},
    }
