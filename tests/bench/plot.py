"""Draws how cost and latency grow, from the results of `run.py --sweep`.

    python tests/bench/plot.py sweep.json docs

Needs matplotlib (the `dev` extra). Each picture stays under 100 KB, so it may be committed.
"""

from __future__ import annotations

import json
import sys
from itertools import groupby
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # draws without a display

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

MOST = 100_000
"""Most bytes of a picture."""

PICTURES = {
    "viewers": "viewers of one job, 5 events/s",
    "rate": "events/s to 500 viewers",
    "jobs": "jobs, shared by 10,000 viewers",
}

# Each server has one colour. SSE has a solid line, WebSocket a dashed one.
COLOURS = {"hub": "#4f46e5", "nginx + nchan": "#0d9488", "node": "#d97706"}
STYLES = {"sse": "-", "websocket": "--"}
NAMES = {"sse": "SSE", "websocket": "WebSocket"}


def main() -> None:
    """Draw the scenarios that the file has."""
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    results = json.loads(source.read_text())
    entries = [one for one in results["entries"] if "result" in one]
    for scenario, title in PICTURES.items():
        here = [one for one in entries if one["scenario"] == scenario]
        if here:
            _draw(here, title, results["about"], target / f"bench-{scenario}.png")


def _draw(entries: list[dict], title: str, about: dict, path: Path) -> None:
    figure, (cost, delay) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    _curves(cost, entries, "cpu_per_delivery", 1e6)
    cost.set(ylabel="server CPU per delivery, µs", xlabel=title)
    _curves(delay, entries, "p99", 1)
    delay.set(ylabel="latency p99, ms", xlabel=title, yscale="log")
    cost.set_ylim(bottom=0)
    cost.legend(fontsize=8, frameon=False)
    figure.text(0.995, 0.005, f"{about['date']}, {about['machine']}", ha="right", fontsize=6, color="#888888")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    size = path.stat().st_size
    print(f"{path}: {size:,} bytes")
    assert size < MOST, "a picture in the repository stays small; lower the dpi"


def _curves(axes: Axes, entries: list[dict], name: str, factor: float) -> None:
    def who(one: dict) -> tuple[str, str]:
        return one["server"], one["transport"]

    order = list(COLOURS)
    for (server, transport), group in groupby(
        sorted(entries, key=lambda one: (order.index(one["server"]), *who(one), one["x"])), who
    ):
        points = [
            (one["x"], one["result"][name] * factor, one["result"]["lost"])
            for one in group
            if one["result"][name] is not None
        ]
        xs, ys, lost = zip(*points, strict=True) if points else ((), (), ())
        colour = COLOURS[server]
        axes.plot(
            xs,
            ys,
            STYLES[transport],
            color=colour,
            marker=".",
            label=f"{server}, {NAMES[transport]}",
            lw=2 if server == "hub" else 1.2,
        )
        # a point where events were lost cannot be compared: it is crossed out
        missing = [(x, y) for x, y, gone in zip(xs, ys, lost, strict=True) if gone]
        if missing:
            axes.plot(*zip(*missing, strict=True), "x", color=colour, ms=9)
    axes.set_xscale("log")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, alpha=0.2)


if __name__ == "__main__":
    main()
