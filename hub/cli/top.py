"""`push-hub top`: what a hub watches, who is behind, and why viewers went."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table

from hub.cli.terminal import app, fail, out
from hub.errors import InvalidSettings
from hub.settings import Settings

EVERY = 2.0
"""Seconds between two looks."""

ROWS = 30
"""Jobs, or viewers, of a table."""


@app.command()
def top(
    job: Annotated[str, typer.Argument(help="A job, to see each of its viewers.")] = "",
    url: Annotated[str, typer.Option(help="The hub's admin port.")] = "http://127.0.0.1:8001",
    once: Annotated[bool, typer.Option("--once", help="Print once, and do not follow.")] = False,
) -> None:
    """Show what all hubs on the Redis of this one watch, or one job's viewers. Sends HUB_ADMIN_TOKEN."""
    if not url.startswith(("http://", "https://")):
        raise InvalidSettings(f"expected http://host:port of a hub's admin port, got {url!r}")
    path = f"{url.rstrip('/')}/admin/api/" + (
        f"jobs/{quote(job, safe='')}" if job else f"overview?limit={ROWS}"
    )
    if once:
        out.print(_drawn(_read(path, url), job))
        return
    try:
        with Live(_drawn(_read(path, url), job), console=out, auto_refresh=False) as live:
            while True:
                time.sleep(EVERY)
                live.update(_drawn(_read(path, url), job), refresh=True)
    except KeyboardInterrupt:
        return


def _read(path: str, url: str) -> dict[str, Any]:
    token = Settings().admin_token
    headers = {} if token is None else {"Authorization": f"Bearer {token.get_secret_value()}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(path, headers=headers), timeout=10) as answer:  # noqa: S310
            found: dict[str, Any] = json.load(answer)
            return found
    except urllib.error.HTTPError as error:
        if error.code == 404 and "?" not in path and b"watch" in error.read(500):
            fail("expected a job that a hub watches, got another")
        fail(f"expected a hub's admin port at {url}, or its token in HUB_ADMIN_TOKEN, got {error.code}")
    except (OSError, ValueError) as error:
        fail(f"expected a hub at {url}, got {error}")


def _drawn(found: dict[str, Any], job: str) -> Group:
    parts: list[Any] = [_viewers(found) if job else _jobs(found)]
    if found["gone"]:
        parts.append(_gone(found["gone"]))
    return Group(*parts)


def _jobs(found: dict[str, Any]) -> Table:
    answered = [f"{one['host']}:{one['pid']}" for one in found["processes"]]
    title = f"{len(answered)} of {found['asked']} processes: {', '.join(answered)}"
    table = Table(title=title, title_justify="left", box=None)
    for name in ("job", "status", "viewers", "paused", "behind", "events", "bytes"):
        table.add_column(name, justify="left" if name in ("job", "status") else "right")
    for row in found["jobs"]:
        numbers = (row[name] for name in ("viewers", "paused", "behind", "window_events", "window_bytes"))
        table.add_row(row["job_id"], row["status"], *(f"{number:,}" for number in numbers))
    return table


def _viewers(found: dict[str, Any]) -> Table:
    title = "nobody watches it now"
    for row in found["watched"]:
        title = f"{row['job_id']}: {row['status']}, at {row['position']}"
    table = Table(title=title, title_justify="left", box=None)
    for name in ("user", "transport", "position", "behind", "unsent", "seconds", "paused", "types"):
        table.add_column(name, justify="right" if name in ("behind", "unsent", "seconds") else "left")
    for row in found["watching"][:ROWS]:
        numbers = (f"{row[name]:,}" for name in ("behind", "unsent", "seconds"))
        paused, types = "yes" if row["paused"] else "", ",".join(row["types"]) or "all"
        table.add_row(row["user"], row["transport"], row["position"], *numbers, paused, types)
    return table


def _gone(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="\nwent last", title_justify="left", box=None)
    for name in ("at", "job", "user", "why"):
        table.add_column(name)
    for row in rows:
        at = datetime.fromtimestamp(row["at"]).astimezone().strftime("%H:%M:%S")
        table.add_row(at, row["job"], row["user"], row["why"])
    return table
