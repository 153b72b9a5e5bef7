"""What the commands share: the application they register with, the two consoles, the common options."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
out = Console()
err = Console(stderr=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"push-hub {version('push-hub')}", highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[  # its callback does it
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Carries the events of background jobs to browsers."""


Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)]
RedisUrl = Annotated[str | None, typer.Option(help="Redis URL; HUB_REDIS_URL when not given.")]


def fail(message: str, code: int = 1) -> NoReturn:
    """Print `message` as one line on stderr and exit with `code`."""
    err.print(f"push-hub: {message}", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


def given(**values: Any) -> dict[str, Any]:
    """Returns the options that were given, for the arguments of `Settings`."""
    return {name: value for name, value in values.items() if value is not None}
