"""What a check has found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """`what` was found, `why` it matters, and the line to `change`; the last two are "" where all is well."""

    level: Level
    what: str
    why: str = ""
    change: str = ""
