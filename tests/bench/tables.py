"""Results as Markdown: a table per scenario, each server compared with the hub on the same transport."""

from __future__ import annotations

from collections.abc import Iterable

from hub.bench.measure import LATEST

DELIVERING = [
    "server",
    "transport",
    "CPU per delivery",
    "x hub",
    "deliveries/s",
    "p50",
    "p99",
    "p99.9",
    "remarks",
]
IDLE = ["server", "transport", "memory per viewer", "x hub", "CPU per join", "x hub", "joins/s", "remarks"]


def markdown(entries: list[dict]) -> str:
    """Returns the tables of all scenarios."""
    titles = dict.fromkeys(entry["title"] for entry in entries)
    return "\n\n".join(_section(title, [one for one in entries if one["title"] == title]) for title in titles)


def _section(title: str, entries: list[dict]) -> str:
    idle = not entries[0]["load"]["rate"]
    columns = IDLE if idle else DELIVERING
    rows = [_row(entry, _hub(entry, entries), idle=idle) for entry in entries]
    lines = [columns, ["---"] * len(columns), *rows]
    return f"**{title}**\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _hub(entry: dict, entries: Iterable[dict]) -> dict:
    for one in entries:
        if one["server"] == "hub" and one["transport"] == entry["transport"]:
            return one.get("result", {})
    return {}


def _row(entry: dict, hub: dict, *, idle: bool) -> list[str]:
    head = [entry["server"], {"sse": "SSE", "websocket": "WebSocket"}[entry["transport"]]]
    result = entry.get("result")
    if result is None:
        return [*head, *["-"] * (5 if idle else 6), "did not run"]
    remarks = _remarks(entry, result)
    if idle:
        return [
            *head,
            _shown(result["uss_per_viewer"], 1 / 1024, " KB", 1),
            _ratio(result, hub, "uss_per_viewer"),
            _shown(result["cpu_per_join"], 1e6, " µs", 0),
            _ratio(result, hub, "cpu_per_join"),
            _shown(result["joins_per_second"], 1, "", 0),
            remarks,
        ]
    return [
        *head,
        _shown(result["cpu_per_delivery"], 1e6, " µs", 2),
        _ratio(result, hub, "cpu_per_delivery"),
        _shown(result["deliveries_per_second"], 1, "", 0),
        *(_shown(result[name], 1, " ms", 1) for name in ("p50", "p99", "p999")),
        remarks,
    ]


def _remarks(entry: dict, result: dict) -> str:
    """Returns the reasons why a line is not comparable, if any."""
    asked = entry["load"]["rate"]
    found = [
        (f"{result['viewers']:,} viewers", result["viewers"] != entry["asked"]),
        (f"saturated: {(result['cpu_share'] or 0) * 100:.0f} % of a core", (result["cpu_share"] or 0) > 0.95),
        (
            f"took {result['events_per_second']:,.0f} events/s",
            asked and result["events_per_second"] < 0.95 * asked,
        ),
        (f"{result['refused']:,} refused", result["refused"]),
        (f"{result['closed']:,} closed", result["closed"]),
        (
            f"{100 * result['lost'] / (result['expected'] or 1):.2g} % missing after {LATEST:.0f} s",
            result["lost"],
        ),
        (f"{result['repeated']:,} twice", result["repeated"]),
    ]
    return "; ".join(words for words, true in found if true)


def _ratio(result: dict, hub: dict, name: str) -> str:
    mine, ours = result[name], hub.get(name)
    return f"{mine / ours:.2f}" if mine is not None and ours else "-"


def _shown(value: float | None, factor: float, unit: str, digits: int) -> str:
    return "-" if value is None else f"{value * factor:,.{digits}f}{unit}"
