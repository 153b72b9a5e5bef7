"""`push-hub publish` and `push-hub watch`: the two ends of a job's events, from a shell."""

from __future__ import annotations

import json
import logging
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

from hub.cli.terminal import RedisUrl, app, given, out
from hub.errors import InvalidEvent, InvalidSettings
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
    job: Annotated[str, typer.Argument(help="The job's id.")],
    url: Annotated[str, typer.Option(help="URL of the hub.")] = "http://127.0.0.1:8000",
    token: Annotated[str, typer.Option(envvar="HUB_TOKEN", help="Token of the job's owner.")] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line, for pipes.")
    ] = False,
) -> None:
    """Watch a job in the terminal until it ends; resumes by itself. Exit code 0 if it ended with ready."""
    from hub.client.timeline import watch as run

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        status = run(url, job, token, Console(), as_json=as_json)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0 if status == "ready" else 1)


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
