"""A job that has begun, as the control channel says it to every hub. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass

from hub.job.event import JobId, job_id


@dataclass(frozen=True, slots=True)
class JobBegun:
    """`user` owns `job`. A hint: whoever hears it reads the job's hash."""

    job: JobId
    user: str

    def message(self) -> bytes:
        """The message on the control channel."""
        return json.dumps({"begun": self.job, "user": self.user}, separators=(",", ":")).encode()

    @classmethod
    def parse(cls, data: bytes) -> JobBegun | None:
        """The pair of `message`; None for other text: the channel is anybody's who has the Redis."""
        try:
            words = json.loads(data)
            job, user = job_id(words["begun"]), words["user"]
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        return cls(job, user) if job is not None and isinstance(user, str) and user else None
