"""How long faults last: short in the usual run, as long as promised when PUSH_HUB_FAULTS_LONG=1."""

from __future__ import annotations

import os

LONG = os.environ.get("PUSH_HUB_FAULTS_LONG") == "1"


def seconds(short: float, long: float) -> float:
    """`short`, or `long` in the long set; the same for counts."""
    return long if LONG else short


def number(short: int, long: int) -> int:
    """The same for counts."""
    return long if LONG else short
