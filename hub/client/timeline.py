"""`push-hub watch`: prints a job's frames as a timeline, or as one JSON object per line."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from rich.console import Console
from rich.text import Text

from hub.client.client import watch as frames

_STYLES = {
    "build.stage.started": "cyan",
    "build.stage.completed": "green",
    "snapshot.updated": "magenta",
    "documentation.updated": "blue",
    "gap": "yellow",
    "resync": "yellow",
}

_SHOWN = {  # the fields of a frame that the timeline shows; of other types it shows all
    "build.stage.started": ("stage", "narration"),
    "build.stage.completed": ("stage", "duration"),
    "snapshot.updated": ("url",),
    "documentation.updated": ("section", "content"),
    "state": ("status", "position"),
    "end": ("status",),
}


def watch(
    url: str, jobs: Sequence[str], token: str, console: Console, *, as_json: bool, options: dict[str, Any]
) -> list[str]:
    """Print the frames of jobs until they end. Returns their statuses, "" without an `end`. Raises
    JobNotFound.

    `options` are those of `hub.watch`.
    """
    return asyncio.run(_watch_all(url, jobs, token, console, as_json=as_json, options=options))


async def _watch_all(
    url: str, jobs: Sequence[str], token: str, console: Console, *, as_json: bool, options: dict[str, Any]
) -> list[str]:
    one = partial(_watch, url, token=token, console=console, as_json=as_json, options=options)
    if len(jobs) == 1:
        return [await one(jobs[0])]
    return await asyncio.gather(*(one(job, label=f"{job} ") for job in jobs))


async def _watch(
    url: str,
    job: str,
    *,
    token: str,
    console: Console,
    as_json: bool,
    options: dict[str, Any],
    label: str = "",
) -> str:
    async for frame in frames(url, job, token, **options):
        if as_json:
            whole = {**frame, "job_id": job} if label else frame
            sys.stdout.write(json.dumps(whole, ensure_ascii=False) + "\n")
            sys.stdout.flush()  # a reader of the pipe gets each frame when it comes
        elif frame.get("type") not in ("hello", "heartbeat"):
            console.print(Text(label, style="bold") + line(frame))
        if frame.get("type") == "end":
            return str(frame.get("status", ""))
    return ""


def line(frame: dict[str, Any]) -> Text:
    """Returns one frame as a line: time, type, fields. Control characters are escaped, so they cannot act."""
    kind = str(frame.get("type", ""))
    style = {"ready": "bold green", "failed": "bold red"}.get(
        str(frame.get("status")), _STYLES.get(kind, "white")
    )
    text = Text(time.strftime("%H:%M:%S "), style="dim")
    text.append(f"{_plain(kind):<22} ", style=style)
    text.append(_plain(_words(kind, frame)))
    return text


def _words(kind: str, frame: dict[str, Any]) -> str:
    shown = _SHOWN.get(kind)
    if shown is not None:
        return "  ".join(str(frame[name]) for name in shown if frame.get(name) is not None)
    rest = {name: value for name, value in frame.items() if name not in ("id", "type", "job_id")}
    return json.dumps(rest, ensure_ascii=False)


def _plain(text: str) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)[:500]
