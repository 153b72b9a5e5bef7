"""A revocation: what a user was given until a moment is good for nothing any more. Pure."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass

from hub.errors import InvalidSettings
from hub.job.event import JobId, UserId, job_id


@dataclass(frozen=True, slots=True)
class Revocation:
    """Of all of a user's credentials, or for one `job` only. `at`: seconds since 1970."""

    user: UserId
    job: JobId | None
    at: float

    @classmethod
    def now(cls, user: str, job: str | None = None) -> Revocation:
        """Of what the user was given until now. Raises InvalidSettings for what is no id."""
        known = _checked(user, job, time.time())
        if known is None:
            raise InvalidSettings(f"expected a user's and a job's id, got {user!r} and {job!r}")
        return known

    @property
    def member(self) -> str:
        """Whose it is, as the list in Redis has it."""
        return json.dumps([self.user, self.job], separators=(",", ":"))

    def message(self) -> bytes:
        """The message on the control channel."""
        words = {"revoked": self.user, "job": self.job, "at": self.at}
        return json.dumps(words, separators=(",", ":")).encode()

    @classmethod
    def of_member(cls, member: bytes, at: float) -> Revocation | None:
        """The pair of `member`; None for other text."""
        try:
            user, job = json.loads(member)
        except (ValueError, TypeError):
            return None
        return _checked(user, job, at)

    @classmethod
    def parse(cls, data: bytes) -> Revocation | None:
        """The pair of `message`; None for other text: the channel is anybody's who has the Redis."""
        try:
            words = json.loads(data)
            return _checked(words["revoked"], words["job"], words["at"])
        except (ValueError, TypeError, KeyError, RecursionError):
            return None


def _checked(user: object, job: object, at: object) -> Revocation | None:
    if not isinstance(user, str) or not user:
        return None
    if isinstance(at, bool) or not isinstance(at, int | float) or not math.isfinite(at):
        return None
    known = job_id(job) if isinstance(job, str) else None
    if job is not None and known is None:
        return None
    return Revocation(UserId(user), known, float(at))
