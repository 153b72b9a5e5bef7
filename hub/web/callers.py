"""Who asks, in the engine's terms, with what the application says of who may watch and who may command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from inspect import isawaitable, iscoroutinefunction
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from hub.engine.caller import Caller
from hub.job.event import JobId
from hub.web.auth import User
from hub.web.context import ONLY, caller_of, get_context
from hub.web.request_id import request_id


async def may_watch(user: User, job: str) -> bool:  # noqa: ARG001
    """Returns True if `user` may watch a job that is not theirs. Override it; a plain function will do as
    well.

    It is called with what `require_auth` returned, at each join and every 60 s while the stream lives, also
    for jobs that do not exist. It is no dependency itself: FastAPI does not fill in its parameters.
    """
    return False


async def may_command(user: User, job: str, name: str) -> bool:  # noqa: ARG001
    """Returns True if `user`, who may watch the job, may give its worker the command `name`. Override it; a
    plain function will do as well. Not overridden, the owner alone may.

    It is called for each command with what `require_auth` returned, and is no dependency itself.
    """
    return False


def caller(user: User, connection: HTTPConnection) -> Caller:
    """Returns `user` as the engine knows a caller, with the application's `may_watch` and `may_command`."""
    overrides = connection.app.dependency_overrides
    ask, ask_command = overrides.get(may_watch), overrides.get(may_command)
    settings = get_context(connection).settings
    headers = connection.headers
    known_as = request_id(headers.get("x-request-id"), headers.get("traceparent"))
    found = caller_of(user, settings, None if ask is None else partial(_ask, ask, user), known_as)
    only = connection.scope.get(ONLY)
    if only is None and ask_command is None:
        return found
    return replace(
        found, only=only, ask_command=None if ask_command is None else partial(_ask, ask_command, user)
    )


async def _ask(function: Callable[..., Any], user: User, job: JobId, *more: str) -> bool:
    if iscoroutinefunction(function):
        return bool(await function(user, str(job), *more))
    found = await run_in_threadpool(function, user, str(job), *more)
    return bool(await found if isawaitable(found) else found)
