"""`push-hub bench`: its options, its output and its exit code."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from hub.bench.target import Transport
from hub.errors import InvalidSettings

if TYPE_CHECKING:
    from hub.bench.result import Load, Result
    from hub.bench.rig import Rig

SPARE_FILES = 500
"""Open files a process needs besides one per viewer."""


def bench(
    *,
    viewers: Annotated[int, typer.Option(help="Viewers in total.", min=1)] = 500,
    transport: Annotated[Transport, typer.Option(help="Transport of the viewers.")] = Transport.SSE,
    jobs: Annotated[int, typer.Option(help="Jobs that the viewers are spread over.", min=1)] = 1,
    rate: Annotated[
        float, typer.Option(help="Events per second over all jobs; 0: viewers stay idle.", min=0)
    ] = 20.0,
    size: Annotated[int, typer.Option(help="Bytes of an event.")] = 200,
    duration: Annotated[
        float, typer.Option(help="Seconds during which events are published.", min=0.1)
    ] = 10.0,
    url: Annotated[
        str | None, typer.Option(help="A running hub to measure; one is started when not given.")
    ] = None,
    token: Annotated[
        str, typer.Option(envvar="HUB_TOKEN", help="With --url: token of the viewers' user.")
    ] = "",
    redis_url: Annotated[
        str | None, typer.Option(help="With --url: that hub's Redis; HUB_REDIS_URL when not given.")
    ] = None,
    pid: Annotated[
        int | None, typer.Option(help="With --url: the hub's process id, to measure CPU and memory.")
    ] = None,
    bare: Annotated[
        bool, typer.Option("--bare", help="Publish with a bare PUBLISH, without the retained log.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
    units: Annotated[
        bool, typer.Option("--units", help="Measure what `push-hub capacity` calculates with, and print it.")
    ] = False,
) -> None:
    """Measure a hub: joins, memory, deliveries, latency, CPU. Exit code 1 if not all events came once."""
    from hub.bench.result import Load

    if units:
        from hub.bench.units import measure_units

        typer.echo(measure_units(lambda load: run(load, Transport.SSE, quiet=True)).text())
        return
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
    quiet: bool = False,
) -> Result:
    """Measure and print, unless `quiet`. Raises HubError if the measurement cannot start or is cut short."""
    from hub.bench.bar import watched
    from hub.bench.process import Cores, end_as_by_ctrl_c, on_core, raise_open_files
    from hub.bench.result import table
    from hub.bench.rig import private_hub, running_hub

    end_as_by_ctrl_c()
    if (files := raise_open_files(load.viewers + SPARE_FILES)) < load.viewers + SPARE_FILES:
        raise InvalidSettings(
            f"expected {load.viewers + SPARE_FILES} open files to be allowed, got {files} (ulimit -n)"
        )
    cores = Cores.ours() if url is None else Cores()  # a hub that runs already is not moved to a core
    rig: AbstractContextManager[Rig] = (
        private_hub(load, transport, cores, bare=bare)
        if url is None
        else running_hub(load, transport, url=url, token=token, redis_url=redis_url, pid=pid, bare=bare)
    )
    with rig as it, on_core(cores.client):
        result = watched(it, load)
    if as_json:
        _print_json(result, load, transport)
    elif not quiet:
        Console().print(table(result, load, transport))
    err = Console(stderr=True)
    for sentence in result.complaints:
        err.print(f"push-hub: {sentence}", style="red", markup=False, highlight=False, soft_wrap=True)
    return result


def _print_json(result: Result, load: Load, transport: Transport) -> None:
    asked = {"transport": transport.value, "jobs": load.jobs, "rate": load.rate, "size": load.size}
    Console().print_json(json.dumps({**asked, "duration": load.duration, **result.to_json()}))


def capacity(
    *,
    viewers: Annotated[int, typer.Option(help="Viewers at the same time.", min=1)] = 10_000,
    jobs: Annotated[int, typer.Option(help="Jobs that they watch.", min=1)] = 1_000,
    rate: Annotated[float, typer.Option(help="Events per second of each job.", min=0)] = 0.2,
    size: Annotated[int, typer.Option(help="Bytes of an event.", min=1)] = 300,
    kept: Annotated[int, typer.Option(help="Events of a job that Redis keeps.", min=0)] = 200,
    routed: Annotated[
        bool, typer.Option("--routed", help="A proxy sends all viewers of a job to one process.")
    ] = False,
    units: Annotated[
        Path | None, typer.Option(help="Output of `push-hub bench --units` on your machine.")
    ] = None,
) -> None:
    """Calculate how many hubs and Redises a load needs, and what breaks first."""
    from hub.bench.arithmetic import Load, plan
    from hub.bench.plan_text import text
    from hub.bench.units import Units

    load = Load(viewers, jobs, rate, size, kept, routed)
    typer.echo(text(load, plan(load, Units() if units is None else Units.read(units))))
