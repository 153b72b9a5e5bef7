"""A level for the log of every hub, as the control channel says it. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass

from hub.errors import InvalidSettings

LEVELS = ("debug", "info", "warning", "error")
"""The levels, the least severe first."""

LONGEST = 86_400
"""Seconds that a level may last. Nobody remembers it after a day, and the disk is full."""


@dataclass(frozen=True, slots=True)
class LogLevel:
    """`name`: one of `LEVELS`; `seconds`: until the level of each hub's settings is back."""

    name: str
    seconds: float

    @classmethod
    def of(cls, name: object, seconds: object) -> LogLevel:
        """Raises InvalidSettings for what is no level, or no time."""
        if name not in LEVELS:
            raise InvalidSettings(f"expected a level ({', '.join(LEVELS)}), got {name!r}")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= LONGEST:
            raise InvalidSettings(f"expected seconds up to {LONGEST}, got {seconds!r}")
        return cls(str(name), float(seconds))

    def message(self) -> bytes:
        """The message on the control channel."""
        return json.dumps({"log": self.name, "seconds": self.seconds}, separators=(",", ":")).encode()

    @classmethod
    def parse(cls, data: bytes) -> LogLevel | None:
        """The pair of `message`; None for other text: the channel is anybody's who has the Redis."""
        try:
            words = json.loads(data)
            return cls.of(words["log"], words["seconds"])
        except (ValueError, TypeError, KeyError, RecursionError, InvalidSettings):
            return None
