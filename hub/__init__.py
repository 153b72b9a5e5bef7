"""push-hub: between background jobs and browsers.

Workers need `Publisher` (or `SyncPublisher`) and `JobStateMachine`; a web application needs `create_app` or `mount`, and
the dependencies it may override, `require_auth` and `get_redis`. Each name is imported when it is first used, so that
a worker never loads a web framework.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hub.api.auth import User as User
    from hub.api.context import get_redis as get_redis
    from hub.api.context import require_auth as require_auth
    from hub.app import create_app as create_app
    from hub.app import mount as mount
    from hub.errors import HubError as HubError
    from hub.event import EventId as EventId
    from hub.jobs import JobStateMachine as JobStateMachine
    from hub.publisher import Publisher as Publisher
    from hub.publisher import SyncPublisher as SyncPublisher
    from hub.settings import Settings as Settings

_HOMES = {
    "EventId": "hub.event",
    "HubError": "hub.errors",
    "JobStateMachine": "hub.jobs",
    "Publisher": "hub.publisher",
    "Settings": "hub.settings",
    "SyncPublisher": "hub.publisher",
    "User": "hub.api.auth",
    "create_app": "hub.app",
    "get_redis": "hub.api.context",
    "mount": "hub.app",
    "require_auth": "hub.api.context",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605  # one list, in _HOMES


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
