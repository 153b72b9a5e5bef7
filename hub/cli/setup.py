"""`push-hub settings`: what this hub would run with."""

from __future__ import annotations

import re

import typer
from rich.table import Table

from hub.cli.terminal import app, out
from hub.settings import Settings


@app.command()
def settings() -> None:
    """List every setting with the value in force."""
    present = Settings()
    table = Table("setting", "value", "meaning", box=None, pad_edge=False)
    rows = [
        (f"HUB_{name.upper()}", _words(getattr(present, name)), setting.description or "")
        for name, setting in Settings.model_fields.items()
    ]
    if not out.is_terminal:  # rich would wrap the columns of a pipe to 80 characters
        for row in rows:
            typer.echo("\t".join(row))
        return
    for row in rows:
        table.add_row(*row)
    out.print(table)


def _words(value: object) -> str:
    if isinstance(value, frozenset | dict):
        return ",".join(sorted(value))  # of a dict the names alone: the values are secret
    # A URL's password is hidden, both before the host and as a query parameter.
    return "" if value is None else re.sub(r"(?<=://)[^/@]*@|(?<=password=)[^&]*", _hidden, str(value))


def _hidden(found: re.Match[str]) -> str:
    return "***@" if found[0].endswith("@") else "***"
