"""`push-hub bench`: its options, the progress bar, what it prints and how it exits."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from hub.bench.target import Transport
from hub.errors import InvalidSettings

if TYPE_CHECKING:
    from hub.bench.result import Load, Result
    from hub.bench.rig import Rig

SPARE_FILES = 500
"""Open files a process needs beside its viewers."""


def bench(
    *,
    viewers: Annotated[int, typer.Option(help="Viewers in all.", min=1)] = 500,
    transport: Annotated[Transport, typer.Option(help="How they watch.")] = Transport.SSE,
    jobs: Annotated[int, typer.Option(help="Jobs the viewers are spread over.", min=1)] = 1,
    rate: Annotated[
        float, typer.Option(help="Events a second over all jobs; 0 for idle viewers.", min=0)
    ] = 20.0,
    size: Annotated[int, typer.Option(help="Bytes per event.")] = 200,
    duration: Annotated[float, typer.Option(help="Seconds of events.", min=0.1)] = 10.0,
    url: Annotated[
        str | None, typer.Option(help="A hub that runs already; without it one is started.")
    ] = None,
    token: Annotated[
        str, typer.Option(envvar="HUB_TOKEN", help="With --url: a token of the viewers' user.")
    ] = "",
    redis_url: Annotated[
        str | None, typer.Option(help="With --url: that hub's Redis; without it HUB_REDIS_URL.")
    ] = None,
    pid: Annotated[
        int | None, typer.Option(help="With --url: the hub's process, for its CPU and memory.")
    ] = None,
    bare: Annotated[
        bool, typer.Option("--bare", help="Publish by a bare PUBLISH, without the retained log.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Measure a hub: joins, memory, deliveries, latency, CPU. Exit code 1 when anything was lost."""
    from hub.bench.result import Load

    result = run(
        Load(viewers=viewers, jobs=jobs, rate=rate, size=size, duration=duration),
        transport,
        url=url,
        token=token,
        redis_url=redis_url,
        pid=pid,
        bare=bare,
        as_json=as_json,
    )
    if not result.flawless:
        raise typer.Exit(1)


def run(
    load: Load,
    transport: Transport,
    *,
    url: str | None = None,
    token: str = "",
    redis_url: str | None = None,
    pid: int | None = None,
    bare: bool = False,
    as_json: bool = False,
) -> Result:
    """Measure and print. Raises HubError when it cannot be done at all."""
    from hub.bench.bar import watched
    from hub.bench.process import Cores, end_as_by_ctrl_c, on_core, raise_open_files
    from hub.bench.result import table
    from hub.bench.rig import private_hub, running_hub

    end_as_by_ctrl_c()
    if (files := raise_open_files(load.viewers + SPARE_FILES)) < load.viewers + SPARE_FILES:
        raise InvalidSettings(
            f"expected {load.viewers + SPARE_FILES} open files to be allowed, got {files} (ulimit -n)"
        )
    cores = Cores.ours() if url is None else Cores()  # a hub that runs already has its own place
    rig: AbstractContextManager[Rig] = (
        private_hub(load, transport, cores, bare=bare)
        if url is None
        else running_hub(load, transport, url=url, token=token, redis_url=redis_url, pid=pid, bare=bare)
    )
    with rig as it, on_core(cores.client):
        result = watched(it, load)
    out, err = Console(), Console(stderr=True)
    if as_json:
        asked = {"transport": transport.value, "jobs": load.jobs, "rate": load.rate, "size": load.size}
        out.print_json(json.dumps({**asked, "duration": load.duration, **result.to_json()}))
    else:
        out.print(table(result, load, transport))
    for sentence in result.complaints:
        err.print(f"push-hub: {sentence}", style="red", markup=False, highlight=False, soft_wrap=True)
    return result
