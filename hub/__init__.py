"""push-hub: carries the events of background jobs to browsers.

A worker imports `Publisher` (or `SyncPublisher`) and `JobStateMachine`. A web application imports
`create_app` or `mount`, and overrides the dependencies `require_auth`, `may_watch` and `get_redis` where it has its own.
`watch` and `watch_sync` are viewers in Python. A name's module is imported when the name is first used, so a worker never
loads a web framework.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hub.client.client import watch as watch
    from hub.client.client import watch_sync as watch_sync
    from hub.errors import HubError as HubError
    from hub.job.event import EventId as EventId
    from hub.produce.blocking import SyncPublisher as SyncPublisher
    from hub.produce.jobs import JobStateMachine as JobStateMachine
    from hub.produce.publisher import Publisher as Publisher
    from hub.settings import Settings as Settings
    from hub.web.app import create_app as create_app
    from hub.web.app import mount as mount
    from hub.web.auth import User as User
    from hub.web.context import get_redis as get_redis
    from hub.web.context import may_watch as may_watch
    from hub.web.context import require_auth as require_auth

_HOMES = {
    "EventId": "hub.job.event",
    "HubError": "hub.errors",
    "JobStateMachine": "hub.produce.jobs",
    "Publisher": "hub.produce.publisher",
    "Settings": "hub.settings",
    "SyncPublisher": "hub.produce.blocking",
    "User": "hub.web.auth",
    "create_app": "hub.web.app",
    "get_redis": "hub.web.context",
    "may_watch": "hub.web.context",
    "mount": "hub.web.app",
    "require_auth": "hub.web.context",
    "watch": "hub.client.client",
    "watch_sync": "hub.client.client",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
