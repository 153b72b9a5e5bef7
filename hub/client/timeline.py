"""`push-hub watch`: a job's timeline in the terminal, or one JSON object a line."""

from __future__ import annotations

import asyncio
import json
import time
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

_SAY = {  # which fields of a frame are for people
    "build.stage.started": ("stage", "narration"),
    "build.stage.completed": ("stage", "duration"),
    "snapshot.updated": ("url",),
    "documentation.updated": ("section", "content"),
    "state": ("status", "position"),
    "end": ("status",),
}


def watch(url: str, job: str, token: str, console: Console, *, as_json: bool) -> str:
    """Show the job until it ends; returns its last status, "" when the hub said no more. Raises JobNotFound."""
    return asyncio.run(_watch(url, job, token, console, as_json=as_json))


async def _watch(url: str, job: str, token: str, console: Console, *, as_json: bool) -> str:
    async for frame in frames(url, job, token):
        if as_json:
            print(json.dumps(frame, ensure_ascii=False), flush=True)
        elif frame["type"] != "heartbeat":
            console.print(line(frame))
        if frame["type"] == "end":
            return str(frame.get("status", ""))
    return ""


def line(frame: dict[str, Any]) -> Text:
    """One frame as a line: time, type, and what it says. Control characters are shown, not obeyed."""
    kind = str(frame["type"])
    style = {"ready": "bold green", "failed": "bold red"}.get(
        str(frame.get("status")), _STYLES.get(kind, "white")
    )
    text = Text(time.strftime("%H:%M:%S "), style="dim")
    text.append(f"{_plain(kind):<22} ", style=style)
    text.append(_plain(_words(kind, frame)))
    return text


def _words(kind: str, frame: dict[str, Any]) -> str:
    say = _SAY.get(kind)
    if say is not None:
        return "  ".join(str(frame[name]) for name in say if frame.get(name) is not None)
    rest = {name: value for name, value in frame.items() if name not in ("id", "type", "job_id")}
    return json.dumps(rest, ensure_ascii=False)


def _plain(text: str) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)[:500]
