"""What a run of the scenarios reports to tests/faults/run: how many deliveries were judged, and remarks."""

from __future__ import annotations

import os
from pathlib import Path

PLACE = "PUSH_HUB_FAULTS_REPORT"
"""The variable that names the report's file. Without it nothing is reported."""


def count(deliveries: int) -> None:
    """Report how many deliveries were judged."""
    _add(f"deliveries {deliveries}")


def note(words: str) -> None:
    """Report a line of text."""
    print(words)
    _add(f"note {words}")


def read(text: str) -> tuple[int, list[str]]:
    """Returns the sum of deliveries and the lines of text in a report's file."""
    lines = [line.split(" ", 1) for line in text.splitlines()]
    deliveries = sum(int(rest) for kind, rest in lines if kind == "deliveries")
    return deliveries, [rest for kind, rest in lines if kind == "note"]


def _add(line: str) -> None:
    if place := os.environ.get(PLACE):
        with Path(place).open("a") as file:
            file.write(f"{line}\n")
