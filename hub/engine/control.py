"""What the control channel says to a hub.

Invariant: a message that is none of ours changes nothing: the channel is anybody's who has the Redis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hub.engine.mine import Mine
from hub.engine.revocations import Revocations
from hub.engine.survey import Survey
from hub.job.begun import JobBegun
from hub.job.log_level import LogLevel
from hub.job.question import Away
from hub.job.revocation import Revocation


class Control:
    """Hands each message to whom it concerns. On a cluster it may come once per node."""

    def __init__(
        self, revocations: Revocations, mine: Mine, survey: Survey, send_away: Callable[[Away], None]
    ) -> None:
        self._revocations = revocations
        self._mine = mine
        self._survey = survey
        self._send_away = send_away
        # Whose log it is decides: `serve` sets it, an application that the hub is mounted in does not.
        self.on_log_level: Callable[[LogLevel], Any] = lambda _: None

    def receive(self, data: bytes) -> None:
        """A message."""
        if self._survey.hear(data):
            return
        if (revocation := Revocation.parse(data)) is not None:
            self._revocations.add(revocation)
        elif (level := LogLevel.parse(data)) is not None:
            self.on_log_level(level)
        elif (begun := JobBegun.parse(data)) is not None:
            self._mine.heard(begun)
        elif (away := Away.parse(data)) is not None:
            self._send_away(away)

    def missed(self) -> None:
        """The subscription was interrupted. A level for the log that was lost is not looked for."""
        self._revocations.missed()
        self._mine.missed()
