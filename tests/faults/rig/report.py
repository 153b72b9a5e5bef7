"""What a run of the scenarios tells whoever started it: how much was judged, and what there is to say (tests/faults/run)."""

from __future__ import annotations

import os
from pathlib import Path

PLACE = "PUSH_HUB_FAULTS_REPORT"
"""Names the file that lines are added to; without it nobody wants to know."""


def count(deliveries: int) -> None:
    """So many deliveries were judged."""
    _add(f"deliveries {deliveries}")


def note(words: str) -> None:
    """A line for people."""
    print(words)
    _add(f"note {words}")


def read(text: str) -> tuple[int, list[str]]:
    """All deliveries, and the lines for people, of such a file."""
    lines = [line.split(" ", 1) for line in text.splitlines()]
    deliveries = sum(int(rest) for kind, rest in lines if kind == "deliveries")
    return deliveries, [rest for kind, rest in lines if kind == "note"]


def _add(line: str) -> None:
    if place := os.environ.get(PLACE):
        with Path(place).open("a") as file:
            file.write(f"{line}\n")
