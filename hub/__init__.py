"""push-hub: carries the events of background jobs to browsers.

A worker imports `Publisher` (or `SyncPublisher`) and `JobStateMachine`. A web application imports
`create_app` or `mount`, and overrides `require_auth`, `may_watch`, `may_command` and `get_redis` where it has
its own. `watch`, `watch_sync` and `dashboard` are viewers in Python, `give_command` is what they say to a
worker. A name's module is imported when the name is first used, so a worker never loads a web framework, and
needs none: `pip install push-hub` has what publishers need, the extras `client` and `server` the rest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hub.client.board import dashboard as dashboard
    from hub.client.client import watch as watch
    from hub.client.client import watch_sync as watch_sync
    from hub.client.giving import give_command as give_command
    from hub.client.giving import give_command_sync as give_command_sync
    from hub.errors import HubError as HubError
    from hub.job.event import EventId as EventId
    from hub.produce.blocking import SyncPublisher as SyncPublisher
    from hub.produce.jobs import JobStateMachine as JobStateMachine
    from hub.produce.publisher import Publisher as Publisher
    from hub.settings import Settings as Settings
    from hub.web.app import create_app as create_app
    from hub.web.app import mount as mount
    from hub.web.auth import User as User
    from hub.web.callers import may_command as may_command
    from hub.web.callers import may_watch as may_watch
    from hub.web.context import get_redis as get_redis
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
    "dashboard": "hub.client.board",
    "get_redis": "hub.web.context",
    "may_command": "hub.web.callers",
    "may_watch": "hub.web.callers",
    "mount": "hub.web.app",
    "require_auth": "hub.web.context",
    "watch": "hub.client.client",
    "watch_sync": "hub.client.client",
    "give_command": "hub.client.giving",
    "give_command_sync": "hub.client.giving",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        extra = "client" if _HOMES[name].startswith("hub.client") else "server"
        message = f"hub.{name} needs the package {error.name}: pip install 'push-hub[{extra}]'"
        raise ModuleNotFoundError(message, name=error.name) from error
