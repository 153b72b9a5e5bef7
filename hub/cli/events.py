"""`push-hub publish` and `push-hub watch`: the two ends of a job's events, from a shell."""

from __future__ import annotations

import json
import logging
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

from hub.cli.terminal import RedisUrl, app, given, out
from hub.errors import InvalidEvent, InvalidSettings, JobNotFound
from hub.job.nesting import TOO_DEEP, is_too_deep
from hub.settings import Settings


@app.command()
def publish(
    job: Annotated[str, typer.Argument(help="The job's id.")],
    kind: Annotated[str, typer.Argument(metavar="TYPE", help="The event's type, e.g. build.stage.started.")],
    fields: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Fields of the event; a VALUE that is JSON is parsed."),
    ] = None,
    redis_url: RedisUrl = None,
    once: Annotated[
        str | None, typer.Option(help="Idempotency key: publishes at most once for a key.")
    ] = None,
) -> None:
    """Publish one event and print its id."""
    from hub.broker.script import Publication
    from hub.produce.blocking import SyncPublisher

    settings = Settings(**given(redis_url=redis_url))
    with SyncPublisher.from_url(
        settings.redis_url, publication=Publication.of(settings), strict=True
    ) as publisher:
        out.print(
            str(publisher.emit(job, kind, dict(_field(kind, text) for text in fields or []), once=once)),
            highlight=False,
        )


@app.command()
def watch(
    jobs: Annotated[list[str], typer.Argument(metavar="JOB...", help="The ids of the jobs.")],
    url: Annotated[str, typer.Option(help="URL of the hub.")] = "http://127.0.0.1:8000",
    token: Annotated[str, typer.Option(envvar="HUB_TOKEN", help="Token of the jobs' owner.")] = "",
    cookie: Annotated[str, typer.Option(help="A cookie instead of a token: NAME=VALUE.")] = "",
    types: Annotated[str, typer.Option(help="Only these event types, separated by commas.")] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line, for pipes.")
    ] = False,
) -> None:
    """Watch jobs in the terminal until they end; resumes by itself. Exit code 1 if any of them failed."""
    from hub.client.timeline import watch as run
    from hub.job.event import LOST

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        options = {
            "headers": {"Cookie": cookie} if cookie else {},
            "types": list(filter(None, types.split(","))),
        }
        statuses = run(url, jobs, token, Console(), as_json=as_json, options=options)
    except KeyboardInterrupt:
        sys.exit(130)
    except JobNotFound as error:
        if token or cookie:
            raise
        raise JobNotFound(f"{error}; no token was given (--token, HUB_TOKEN), and no cookie") from error
    sys.exit(1 if {LOST, ""} & set(statuses) else 0)


@app.command()
def command(
    job: Annotated[str, typer.Argument(help="The job's id.")],
    name: Annotated[str, typer.Argument(help="The command's name, e.g. cancel.")],
    fields: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Arguments; a VALUE that is JSON is parsed."),
    ] = None,
    url: Annotated[str, typer.Option(help="URL of the hub.")] = "http://127.0.0.1:8000",
    token: Annotated[str, typer.Option(envvar="HUB_TOKEN", help="Token of the jobs' owner.")] = "",
) -> None:
    """Give a command to a job's worker and print the command's id."""
    from hub.client.giving import give_command_sync

    args = dict(_field("", text) for text in fields or [])
    out.print(give_command_sync(url, job, name, args, token), highlight=False)


def _field(kind: str, text: str) -> tuple[str, Any]:
    """KEY=VALUE as a field of an event; text stays text where the type says so (`stage=1`)."""
    from hub.job.catalogue import has_text

    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InvalidSettings(f"expected KEY=VALUE, got {text!r}")
    if is_too_deep(value):
        raise InvalidEvent(TOO_DEEP)
    if has_text(kind, name):
        return name, value
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
