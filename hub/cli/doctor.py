"""`push-hub doctor`: what is wrong, why it matters, and the line to change."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hub.cli.terminal import RedisUrl, app, given, out
from hub.client.finding import Finding, Level
from hub.errors import HubError
from hub.settings import Settings

if TYPE_CHECKING:
    from hub.broker.redis import RedisBroker

_MARKS = {Level.OK: ("ok", "green"), Level.WARNING: ("warning", "yellow"), Level.ERROR: ("ERROR", "red")}


@app.command()
def doctor(
    url: Annotated[
        str, typer.Argument(help="URL of a hub, as browsers reach it; without it only here.")
    ] = "",
    job: Annotated[str, typer.Option(help="With a URL: a job that runs.")] = "",
    token: Annotated[
        str, typer.Option(envvar="HUB_TOKEN", help="With a URL: token of the job's owner.")
    ] = "",
    cookie: Annotated[str, typer.Option(help="A cookie instead of a token: NAME=VALUE.")] = "",
    long: Annotated[bool, typer.Option("--long", help="Wait for more than a proxy's idle timeout.")] = False,
    redis_url: RedisUrl = None,
) -> None:
    """Look for what is wrong with the settings, Redis, and the way to a hub. Exit code 1 for an error."""
    headers = {"Cookie": cookie} if cookie else {"Authorization": f"Bearer {token}"} if token else {}

    async def look() -> Level:
        worst = Level.OK
        async for finding in _way(url, job, headers, long=long) if url else _here(redis_url):
            _print(finding)
            worst = Level.ERROR if Level.ERROR in (worst, finding.level) else worst
        return worst

    sys.exit(asyncio.run(look()) is Level.ERROR)


async def _way(url: str, job: str, headers: dict[str, str], *, long: bool) -> AsyncIterator[Finding]:
    from hub.client.checkup import checkup

    async for finding in checkup(url, job, headers, long=long):
        yield finding


async def _here(redis_url: str | None) -> AsyncIterator[Finding]:
    from hub.broker.cluster import Cluster
    from hub.broker.connect import OUTAGE, close, for_requests, nodes_of, words
    from hub.broker.redis import RedisBroker
    from hub.broker.script import Publication
    from hub.cli.findings import of_process, of_redis, of_settings
    from hub.cli.keys import of_keys

    settings = Settings(**given(redis_url=redis_url))
    clean = True
    for finding in of_settings(settings, os.environ):
        clean = False
        yield finding
    if clean:
        yield Finding(Level.OK, "the settings")
    for finding in of_process(settings):
        yield finding
    client = for_requests(settings.redis_url)
    try:
        broker = RedisBroker(client, Publication.of(settings))
        await broker.ping()
        looks: dict[str, Any] = {"Redis's own settings": of_redis}
        if not isinstance(client, Cluster):
            template, statuses = settings.key_template, settings.terminal_statuses
            looks["the keys"] = partial(of_keys, template=template, statuses=statuses)
        for what, look in looks.items():
            for finding in await _looked_at(broker, what, look):
                yield finding
    except (HubError, *OUTAGE) as error:
        yield Finding(Level.ERROR, f"Redis: {words(error)}", "nobody is let in without it", "HUB_REDIS_URL")
    finally:
        await close(nodes_of(client))


async def _looked_at(broker: RedisBroker, what: str, look: Any) -> list[Finding]:
    """What a look finds for which a hub itself needs no right."""
    try:
        found: list[Finding] = await broker.at("", look)
    except HubError as error:
        words, why = f"{what} were not looked at ({error})", "this look needs more rights than a hub"
        return [Finding(Level.WARNING, words, why, "a user who may INFO, SCAN and HMGET")]
    return found


def _print(finding: Finding) -> None:
    word, color = _MARKS[finding.level]
    out.print(f"[{color}]{word:>7}[/]  ", end="")
    out.print(finding.what, markup=False, highlight=False, soft_wrap=True)
    for name, text in (("why", finding.why), ("change", finding.change)):
        if text:
            out.print(f"         [dim]{name}:[/] ", end="")
            out.print(text, markup=False, highlight=False, soft_wrap=True)
