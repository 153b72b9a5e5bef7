"""`push-hub revoke`, `push-hub log` and `push-hub drain`: what an operator tells hubs that run."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from hub.cli.terminal import RedisUrl, app, fail, given
from hub.errors import InvalidSettings
from hub.settings import Settings

if TYPE_CHECKING:
    from hub.broker.redis import RedisBroker

ANSWER = 10.0
"""Seconds that a hub may take to say that it drains."""

GONE = 60.0
"""Seconds that its process may live after its drain window."""


@app.command()
def revoke(
    user: Annotated[str, typer.Option(help="User whose streams end, and whose tokens are refused.")],
    job: Annotated[str | None, typer.Option(help="Only on this job.")] = None,
    redis_url: RedisUrl = None,
) -> None:
    """Take back what a user was given until now, on every hub within a second."""
    from hub.job.revocation import Revocation

    settings = Settings(**given(redis_url=redis_url))
    one = Revocation.now(user, job)
    valid = settings.jwt_max_age + settings.jwt_leeway
    asyncio.run(_tell(settings, lambda broker: broker.revoke(one, valid=valid)))
    what = "everything" if job is None else f"job {job}"
    typer.echo(f"Revoked {what} for {user}: tokens that were issued until now are refused.")


@app.command()
def log(
    level: Annotated[str, typer.Argument(help="debug, info, warning or error.")],
    seconds: Annotated[float, typer.Option(help="After that, each hub's own level is back.")] = 600,
    redis_url: RedisUrl = None,
) -> None:
    """Change the level of every hub's log for a while."""
    from hub.job.log_level import LogLevel

    wanted = LogLevel.of(level.lower(), seconds)
    message = wanted.message()
    asyncio.run(_tell(Settings(**given(redis_url=redis_url)), lambda broker: broker.announce(message)))
    typer.echo(f"Every hub logs at {wanted.name} for {wanted.seconds:g} s.")


@app.command()
def drain(
    url: Annotated[str, typer.Option(help="The hub's admin port.")] = "http://127.0.0.1:8001",
    wait: Annotated[bool, typer.Option(help="Return when the hub's process has ended.")] = True,
) -> None:
    """Stop a hub without a signal: it moves its viewers away, then ends. Sends HUB_ADMIN_TOKEN, if there is
    one.
    """
    address = urlsplit(url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise InvalidSettings(f"expected http://host:port of a hub's admin port, got {url!r}")
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    connection = kind(address.hostname, address.port, timeout=ANSWER)
    token = Settings().admin_token
    headers = {} if token is None else {"Authorization": f"Bearer {token.get_secret_value()}"}
    began = time.monotonic()
    try:
        connection.request("POST", f"{address.path.rstrip('/')}/admin/drain", headers=headers)
        answer = connection.getresponse()
        body = answer.read(65_536)
    except (OSError, http.client.HTTPException) as error:
        fail(f"expected a hub at {url}, got {error or type(error).__name__}")
    if answer.status == 404:
        fail(f"expected a hub's admin port at {url}, or its token in HUB_ADMIN_TOKEN, got 404")
    if answer.status != 202:
        fail(f"expected 202, got {answer.status}: {body[:300].decode(errors='replace')}")
    window = float(json.loads(body)["seconds"])
    typer.echo(f"The hub moves its viewers away, over {window:g} s at most.")
    if wait:
        _wait_closed(connection, window)
        typer.echo(f"It ended after {time.monotonic() - began:.1f} s.")


def _wait_closed(connection: http.client.HTTPConnection, window: float) -> None:
    """Return when the hub closes the connection, which it does when its process ends."""
    if connection.sock is None:  # it has closed it with its answer
        return
    connection.sock.settimeout(window + GONE)
    try:
        connection.sock.recv(1)
    except TimeoutError:
        fail(f"expected the hub to end within {window + GONE:g} s, got none")
    except OSError:  # reset: it has ended as well
        return


async def _tell(settings: Settings, say: Callable[[RedisBroker], Awaitable[object]]) -> None:
    from hub.broker.connect import close, for_requests
    from hub.broker.redis import RedisBroker
    from hub.broker.script import Publication

    client = for_requests(settings.redis_url)
    try:
        await say(RedisBroker(client, Publication.of(settings)))
    finally:
        await close(client)
