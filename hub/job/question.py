"""What an operator asks every process of every hub, and tells it to do, over the control channel. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from hub.job.event import JobId, job_id

_ANSWER = b'{"answer":'


@dataclass(frozen=True, slots=True)
class Question:
    """What do you watch? Of one job, if given; at most `limit` jobs or viewers. `nonce` is its name."""

    nonce: str
    job: JobId | None
    limit: int

    def message(self) -> bytes:
        """The message on the control channel."""
        return _text({"question": self.nonce, "job": self.job, "limit": self.limit})

    @classmethod
    def parse(cls, data: bytes) -> Question | None:
        """The pair of `message`; None for other text: the channel is anybody's who has the Redis."""
        words = _object(data)
        nonce, job, limit = words.get("question"), words.get("job"), words.get("limit")
        known = job_id(job) if isinstance(job, str) else None
        if not isinstance(nonce, str) or not 0 < len(nonce) <= 64 or (job is not None and known is None):
            return None
        return cls(nonce, known, limit) if type(limit) is int and 0 < limit <= 1000 else None


@dataclass(frozen=True, slots=True)
class Answer:
    """What one process says to the question `nonce`."""

    nonce: str
    process: str
    said: dict[str, Any]

    def message(self) -> bytes:
        """The message on the control channel."""
        return _text({"answer": self.nonce, "process": self.process, "said": self.said})

    @classmethod
    def parse(cls, data: bytes) -> Answer | None:
        """The pair of `message`; None for other text."""
        words = _object(data)
        nonce, process, said = words.get("answer"), words.get("process"), words.get("said")
        if not isinstance(nonce, str) or not isinstance(process, str) or not isinstance(said, dict):
            return None
        return cls(nonce, process, said)

    @staticmethod
    def is_one(data: bytes) -> bool:
        """Returns True for what looks like an answer, which may be long."""
        return data.startswith(_ANSWER)


@dataclass(frozen=True, slots=True)
class Away:
    """Viewers are to reconnect, to another process if there is one: those of `job`, of `user`, or both."""

    job: JobId | None
    user: str | None

    def message(self) -> bytes:
        """The message on the control channel."""
        return _text({"away": {"job": self.job, "user": self.user}})

    @classmethod
    def parse(cls, data: bytes) -> Away | None:
        """The pair of `message`; None for other text, and for everybody."""
        words = _object(data).get("away")
        if not isinstance(words, dict):
            return None
        job, user = words.get("job"), words.get("user")
        known = job_id(job) if isinstance(job, str) else None
        if (job is not None and known is None) or not isinstance(user, str | None):
            return None
        return cls(known, user) if known is not None or user else None

    def concerns(self, job: JobId, user: str) -> bool:
        """Returns True for a viewer that is to go."""
        return self.job in (None, job) and self.user in (None, user)


def _object(data: bytes) -> dict[str, Any]:
    try:
        words = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return words if isinstance(words, dict) else {}


def _text(words: dict[str, Any]) -> bytes:
    return json.dumps(words, separators=(",", ":")).encode()
