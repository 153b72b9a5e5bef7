"""The names of a job's keys and channel, made from one template."""

from __future__ import annotations

from dataclasses import dataclass

from hub.errors import InvalidSettings
from hub.job.event import JobId

CONTROL_CHANNEL = "push-hub:control"
"""Subscribed on every connection: its confirmation shows that the connection works, and it keeps the
connection in subscribed mode when no job is watched."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Makes names from `template`, the key of a job's hash, in which `{id}` stands for the job's id.

    Every other name is the hash's key with a suffix. Raises InvalidSettings unless `{id}` occurs exactly
    once.
    """

    template: str = "job:{id}"

    def __post_init__(self) -> None:
        if self.template.count("{id}") != 1:
            raise InvalidSettings(f"expected one {{id}} in the key template, got {self.template!r}")

    def job(self, job: JobId) -> str:
        """The hash: status, owner, and the application's own fields."""
        return self.template.replace("{id}", job)

    def events(self, job: JobId) -> str:
        """The Pub/Sub channel for live events."""
        return self.job(job) + ":events"

    def log(self, job: JobId) -> str:
        """The stream that retains the events."""
        return self.job(job) + ":log"

    def once(self, job: JobId, key: str) -> str:
        """The string that remembers which event id was given for the idempotency key `key`."""
        return f"{self.job(job)}:once:{key}"
