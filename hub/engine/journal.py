"""A line of the log when a viewer's stream begins, and one when it ends, with the id of its request."""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING, Any

from hub.fanout.audience import Seat

if TYPE_CHECKING:
    from hub.engine.view import View

logger = logging.getLogger("hub.viewers")


class Note:
    """What the lines of one viewer need. `request`: the id of its request, made if it had none."""

    __slots__ = ("position", "request")

    def __init__(self, request: str) -> None:
        self.request = request or secrets.token_hex(6)
        self.position = 0  # of the log, where the stream began to be live

    @classmethod
    def of(cls, request: str) -> Note | None:
        """None if the level leaves the lines out: then a viewer need not remember anything."""
        return cls(request) if logger.isEnabledFor(logging.INFO) else None

    def opened(self, view: View, seat: Seat[Any]) -> None:
        """The viewer has its seat."""
        self.position = seat.position
        told = self._of(view, seat) | {"position": str(view.log.seen_at(seat.position))}
        more = {"viewer": {"event": "opened", **told}}
        logger.info("viewer %s opened: %s of job %s, user %s, at %s", *told.values(), extra=more)

    def closed(self, view: View, seat: Seat[Any]) -> None:
        """The viewer goes. `events`: frames of the job while it was live, those that its filter left out
        too. `bytes`: those that its client has acknowledged, with all of its past; None where nobody knows.
        """
        told = self._of(view, seat) | {
            "reason": view.why,
            "seconds": round(asyncio.get_running_loop().time() - view.since, 1),
            "events": max(0, seat.position - self.position),
            "bytes": getattr(seat.wire, "acknowledged", None),
        }
        more = {"viewer": {"event": "closed", **told}}
        words = "viewer %s closed: %s of job %s, user %s: %s, after %s s, %s events and %s bytes"
        logger.info(words, *told.values(), extra=more)

    def _of(self, view: View, seat: Seat[Any]) -> dict[str, Any]:
        return {
            "request_id": self.request,
            "transport": seat.audience.format.transport,
            "job": view.job_id,
            "user": view.user,
        }
