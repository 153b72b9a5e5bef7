"""Names of keys and channels, from one template."""

from __future__ import annotations

from dataclasses import dataclass

from hub.errors import InvalidSettings
from hub.job.event import JobId

CONTROL_CHANNEL = "push-hub:control"
"""Always subscribed, so that the Pub/Sub connection never leaves subscribed mode and has something to confirm."""


@dataclass(frozen=True, slots=True)
class Keys:
    """`template` is the job's hash with `{id}` for the job's id; every other name extends it.

    Raises InvalidSettings without an `{id}`.
    """

    template: str = "job:{id}"

    def __post_init__(self) -> None:
        if self.template.count("{id}") != 1:
            raise InvalidSettings(f"expected one {{id}} in the key template, got {self.template!r}")

    def job(self, job: JobId) -> str:
        """The hash: status, owner, what the application adds."""
        return self.template.replace("{id}", job)

    def events(self, job: JobId) -> str:
        """The Pub/Sub channel."""
        return self.job(job) + ":events"

    def log(self, job: JobId) -> str:
        """The stream: the same events, retained."""
        return self.job(job) + ":log"

    def once(self, job: JobId, key: str) -> str:
        """Remembers the id that an idempotency key was given."""
        return f"{self.job(job)}:once:{key}"
