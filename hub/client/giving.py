"""Gives a command to a job's worker, from Python."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx

from hub.client.following import Token, text_of
from hub.errors import (
    BrokerUnavailable,
    CommandForbidden,
    HubError,
    InvalidCommand,
    JobEnded,
    JobNotFound,
    NobodyListens,
    TooManyCommands,
)

TRIES = 4
"""Times that a command is sent to a hub that is not there; its key makes it one command."""

TIMEOUT = 10.0
"""Seconds for an answer."""

_REFUSALS: dict[int, type[HubError]] = {
    401: JobNotFound,
    403: CommandForbidden,
    404: JobNotFound,
    422: InvalidCommand,
    429: TooManyCommands,
}


async def give_command(
    url: str,
    job: str,
    name: str,
    args: Mapping[str, Any] | None = None,
    token: Token = "",
    *,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> str:
    """Give a command to the worker of `job`; returns the command's id, which the worker's answer has.

    `url` is the hub's. With the same `key` a second command within a day is the first. Raises JobNotFound,
    CommandForbidden, InvalidCommand, JobEnded, NobodyListens, TooManyCommands, and BrokerUnavailable if the
    hub does not answer. Cancel-safe: the command was then given or not.
    """
    where = f"{url.rstrip('/')}/api/jobs/{quote(job, safe='')}/commands"
    given = {"Idempotency-Key": key or uuid.uuid4().hex, **(headers or {})}
    async with httpx.AsyncClient(timeout=TIMEOUT) as client:
        for attempt in range(TRIES):
            if signed := await text_of(token):
                given["Authorization"] = f"Bearer {signed}"
            try:
                answer = await client.post(
                    where, json={"name": name, "args": dict(args or {})}, headers=given
                )
            except httpx.HTTPError as error:
                last: object = error
            else:
                if answer.status_code == 202:
                    return str(answer.json()["command"])
                if answer.status_code < 500:
                    raise _error(job, answer)
                last = answer.status_code
            await asyncio.sleep(random.uniform(0.25, 0.5) * 2**attempt)
    raise BrokerUnavailable(f"expected the hub to take a command for job {job}, got {last}")


def give_command_sync(url: str, job: str, name: str, *args: Any, **options: Any) -> str:
    """The same for code without an event loop."""
    return asyncio.run(give_command(url, job, name, *args, **options))


def _error(job: str, answer: httpx.Response) -> HubError:
    try:
        detail = str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        detail = answer.text[:200]
    if answer.status_code == 409:
        kind: type[HubError] = JobEnded if detail == JobEnded.detail else NobodyListens
    else:
        kind = _REFUSALS.get(answer.status_code, InvalidCommand)
    return kind(f"the command for job {job} was not taken: {detail}")
