"""Names of keys and channels, from one template.

Invariant: a key of the hub's own has braces around the application's key, and a job's id cannot have braces.
So no job's id names one of ours, and no key of ours is an application's. On a cluster the braces put our keys
into the slot of the application's (Redis cluster specification, hash tags).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hub.errors import InvalidSettings
from hub.job.event import JobId

CONTROL_CHANNEL = "push-hub:control"
"""Subscribed on every connection: its confirmation shows that the connection works, and it keeps the
connection in subscribed mode when no job is watched."""

REVOKED = "push-hub:revoked"
"""A sorted set: whose credentials were revoked, by the time (seconds since 1970) until which they were given.
"""

_TEMPLATE = re.compile(
    r"[^{}]*(\{id\}|\{[^{}]*\{id\}[^{}]*\}|\{[^{}]+\}[^{}]*\{id\}|\{id\}[^{}]*\{[^{}]+\})[^{}]*"
)


@dataclass(frozen=True, slots=True)
class Keys:
    """`template` is the job's hash with `{id}` for the job's id; it may have a hash tag (`app:{{id}}`,
    `{app}:{id}`).

    Raises InvalidSettings without an `{id}`, and for braces that are no hash tag.
    """

    template: str = "job:{id}"
    sharded: bool = False  # on a cluster: live events are announced in the slot of the job

    def __post_init__(self) -> None:
        if self.template.count("{id}") != 1 or not _TEMPLATE.fullmatch(self.template):
            raise InvalidSettings(
                f"expected one {{id}} and at most one hash tag in the key template, got {self.template!r}"
            )

    def job(self, job: JobId) -> str:
        """The application's hash: status, owner, and what else the application keeps."""
        return self.template.replace("{id}", job)

    def events(self, job: JobId) -> str:
        """The Pub/Sub channel for live events: `job:abc:events`, on a cluster `push-hub:{job:abc}:events`."""
        return (self._ours(job) if self.sharded else self.job(job)) + ":events"

    def bare_of(self, channel: str) -> str:
        """The channel of bare producers, `job:abc:events`, that belongs to the sharded one of a job."""
        name = channel.removeprefix("push-hub:").removesuffix(":events")
        is_tagged = "{" in self.template.replace("{id}", "", 1)
        return (name if is_tagged else name.removeprefix("{").removesuffix("}")) + ":events"

    def meta(self, job: JobId) -> str:
        """The hub's hash: epoch, position and whatever else the hub must know about the job."""
        return self._ours(job) + ":meta"

    def viewers(self, job: JobId) -> str:
        """The hash of how many viewers each hub has."""
        return self._ours(job) + ":viewers"

    def commands(self, job: JobId) -> str:
        """The stream of commands that the job's worker has not handled yet."""
        return self._ours(job) + ":commands"

    def log(self, job: JobId) -> str:
        """The stream: the same events, retained."""
        return self._ours(job) + ":log"

    def once(self, job: JobId, key: str) -> str:
        """Remembers the id that an idempotency key was given."""
        return f"{self._ours(job)}:once:{key}"

    def _ours(self, job: JobId) -> str:
        name = self.job(job)
        return f"push-hub:{name}" if "{" in name else f"push-hub:{{{name}}}"
