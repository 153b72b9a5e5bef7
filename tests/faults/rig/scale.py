"""How long faults last: short in the usual run, as long as the promises with PUSH_HUB_FAULTS_LONG=1."""

from __future__ import annotations

import os

LONG = os.environ.get("PUSH_HUB_FAULTS_LONG") == "1"


def seconds(short: float, long: float) -> float:
    """Returns `short` seconds, or `long` in the long set."""
    return long if LONG else short


def number(short: int, long: int) -> int:
    """Returns `short`, or `long` in the long set, for counts."""
    return long if LONG else short
