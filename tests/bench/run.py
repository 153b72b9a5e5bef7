"""Measures the hub and its peers in turn: the server on core 0; client, producer and Redis on core 1.

    python tests/bench/run.py --out results.json               the comparison, as a Markdown table on stdout
    python tests/bench/run.py --out sweep.json --sweep         how cost grows, for tests/bench/plot.py
    python tests/bench/run.py --out try.json --quick           in five minutes: shorter, and with fewer peers

Only figures of one run can be compared. Everything is restarted for every line of the table, so that no
server pays for what another one left behind.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import publish
from scenarios import QUICK, SCENARIOS, SWEPT, Scenario, shorter, sweeps
from servers import SERVERS, Server, versions
from tables import markdown

from hub.bench.bar import watched
from hub.bench.process import Cores, end_as_by_ctrl_c, on_core, raise_open_files
from hub.bench.target import Transport
from hub.errors import HubError

PUBLISHING = "publish"
"""The scenario without viewers."""


def main() -> int:
    """Run the chosen scenarios. Returns 1 if the hub did not deliver every event once."""
    given = _arguments()
    end_as_by_ctrl_c()
    raise_open_files(40_000)  # in the naive design a viewer needs two
    chosen = [server for server in SERVERS if not given.only or server.name in given.only]
    scenarios = sweeps() if given.sweep else SCENARIOS
    if given.sweep:
        chosen = [server for server in chosen if server.name in SWEPT]
    scenarios = [one for one in scenarios if not given.scenario or one.name in given.scenario]
    if given.duration:
        scenarios = [shorter(one, given.duration) for one in scenarios]
    if given.quick:
        scenarios = [shorter(one, 2, warm_up=0.5) for one in scenarios]
        chosen = [server for server in chosen if given.only or server.name in QUICK]
    entries = []
    for scenario in scenarios:
        for server in [one for one in chosen if one.resumes or not scenario.needs_history]:
            for transport in server.transports:
                entries.append(_one(server, transport, scenario))
                _write(given.out, entries)  # after each, so that an interrupted run is not lost
    print(markdown(entries))
    if not given.sweep and not given.only and (not given.scenario or PUBLISHING in given.scenario):
        rows = publish.rates(rounds=1 if given.quick else 3)
        _write(given.out, [*entries, {"scenario": PUBLISHING, "rows": rows}])
        print(f"\n**Publishing, one process and one connection**\n\n{publish.markdown(rows)}")
    print(f"\n{_foot()}")
    return (
        1
        if any(one["server"] == "hub" and not one.get("result", {}).get("flawless") for one in entries)
        else 0
    )


def _one(server: Server, transport: Transport, scenario: Scenario) -> dict:
    load = replace(scenario.load, viewers=max(scenario.load.jobs, min(scenario.load.viewers, server.most)))
    entry = {
        "server": server.name,
        "transport": transport.value,
        "scenario": scenario.name,
        "title": scenario.title,
        "x": scenario.x,
        "load": asdict(load),
        "asked": scenario.load.viewers,
    }
    if problem := server.missing():
        return {**entry, "error": problem}
    cores = Cores.ours()
    try:
        with server.start(load, transport, cores) as rig, on_core(cores.client):
            result = watched(rig, load, f"{server.name} {transport.value}")
    except (HubError, OSError, TimeoutError, ExceptionGroup) as error:
        print(f"{server.name} {transport.value}, {scenario.title}: {error!r}", file=sys.stderr)
        return {**entry, "error": repr(error)}
    cpu = "" if result.cpu_per_delivery is None else f"{result.cpu_per_delivery * 1e6:.2f} µs per delivery"
    words = "; ".join([f"{server.name} {transport.value}, {scenario.title}: {cpu}", *result.complaints])
    print(words, file=sys.stderr, flush=True)
    return {**entry, "result": result.to_json()}


def _write(out: Path, entries: list[dict]) -> None:
    out.write_text(json.dumps({"about": _about(), "entries": entries}, indent=1))


def _about() -> dict:
    processor = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return {
        "date": time.strftime("%Y-%m-%d"),
        "command": "python " + " ".join(sys.argv),
        "machine": f"{processor}, {os.cpu_count()} cores, Linux {platform.release()}",
        "versions": versions(),
    }


def _foot() -> str:
    about = _about()
    named = ", ".join(f"{name} {value}" for name, value in about["versions"].items())
    return f"{about['date']}, `{about['command']}`, {about['machine']}; {named}."


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the JSON file for the results")
    parser.add_argument("--quick", action="store_true", help="shorter, and with fewer peers: more noise")
    parser.add_argument("--sweep", action="store_true", help="how cost grows with viewers, rate and jobs")
    parser.add_argument(
        "--only", action="append", metavar="SERVER", help=", ".join(one.name for one in SERVERS)
    )
    parser.add_argument(
        "--scenario",
        action="append",
        metavar="NAME",
        help="few, many, fast, spread, first, idle, alone, back, publish; viewers, rate, jobs",
    )
    parser.add_argument("--duration", type=float, help="seconds of events at most")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
