"""`push-hub schema` and `push-hub js`: the contract for programs, and the client for browsers."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from hub.cli.terminal import app
from hub.errors import InvalidSettings
from hub.job.catalogue import CATALOGUE, load
from hub.settings import Settings


@app.command()
def schema(
    kind: Annotated[
        str | None, typer.Argument(metavar="[TYPE]", help="An event type: print its JSON Schema.")
    ] = None,
    typescript: Annotated[
        bool, typer.Option("--typescript", help="Print TypeScript declarations instead.")
    ] = False,
) -> None:
    """Print the contract as AsyncAPI 3, with the event types that HUB_CATALOGUE registers."""
    from hub.contract import asyncapi
    from hub.contract import typescript as declarations

    settings = Settings()
    load(settings.catalogue)
    if typescript:
        typer.echo(declarations.typescript(), nl=False)
        return
    found = asyncapi.document(settings) if kind is None else asyncapi.event_schema(kind)
    if found is None:
        raise InvalidSettings(f"expected one of {', '.join(sorted(CATALOGUE))}, got {kind!r}")
    typer.echo(json.dumps(found, indent=2))


@app.command()
def js() -> None:
    """Print hub.js, the client for browsers: push-hub js > src/hub.js."""
    from hub.web.client import hub_js

    typer.echo(hub_js(), nl=False)
