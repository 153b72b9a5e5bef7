"""Names of the hub's keys, with the template that the tests use."""

from __future__ import annotations

from hub.broker.keys import Keys
from hub.job.event import JobId

_KEYS = Keys()


def log_of(job: str) -> str:
    """The stream of `job`."""
    return _KEYS.log(JobId(job))


def meta_of(job: str) -> str:
    """The hub's own hash of `job`."""
    return _KEYS.meta(JobId(job))


def once_of(job: str, key: str) -> str:
    """The idempotency key `key` of `job`."""
    return _KEYS.once(JobId(job), key)
