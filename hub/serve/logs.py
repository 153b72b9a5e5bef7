"""The log of `push-hub serve`: one line per record on stderr, without credentials, also in tracebacks
(redaction.py)."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime
from typing import Any

from hub.job.log_level import LogLevel
from hub.redaction import Redaction
from hub.settings import Settings


class RedactingFormatter(logging.Formatter):
    """Formats a record, and replaces credentials by `***`. `secrets` are known values."""

    def __init__(self, format: str, secrets: frozenset[str] = frozenset()) -> None:  # noqa: A002  # dictConfig's name
        super().__init__(format)
        self._redaction = Redaction(secrets)

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        return self._redaction.of(super().format(record))


class JsonFormatter(RedactingFormatter):
    """Formats a record as JSON on one line: `time` (ISO 8601, UTC), `level`, `logger`, `message`, `traceback`
    if there is one, and what the lines of a viewer say of it, each with a name.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._redaction.of(record.getMessage()),
        }
        for name, value in getattr(record, "viewer", {}).items():
            line[name] = self._redaction.of(value) if isinstance(value, str) else value
        if record.exc_info:
            line["traceback"] = self._redaction.of(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


def log_config(settings: Settings) -> dict[str, Any]:
    """The configuration for `logging.config.dictConfig`."""
    loud = {"handlers": ["stderr"], "level": settings.log_level.upper(), "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {
                "()": JsonFormatter if settings.log_format == "json" else RedactingFormatter,
                "format": "%(asctime)s %(levelname)s %(name)s %(message)s",
                "secrets": settings.secrets,
            }
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "loggers": {
            "hub": loud,
            "hub.websockets": {"level": "ERROR"},  # at debug the library logs every header
            "uvicorn": loud,
            "uvicorn.access": loud,
        },
    }


class LogSwitch:
    """Changes the level of this process's log for a while."""

    def __init__(self, settings: Settings) -> None:
        self._usual: str = settings.log_level
        self._now: str = self._usual
        self._timer: asyncio.TimerHandle | None = None

    def set(self, wanted: LogLevel) -> None:
        """Log at `wanted` until its time is over. On a cluster one message comes once per node."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(wanted.seconds, self._apply, self._usual)
        if wanted.name != self._now:
            self._apply(wanted.name, f" for {wanted.seconds:g} s")

    def _apply(self, name: str, time: str = "") -> None:
        self._now = name
        for logger in map(logging.getLogger, ("hub", "uvicorn", "uvicorn.access")):
            logger.setLevel(name.upper())
        # uvicorn looks at each connection's begin whether anybody handles the lines for its requests.
        logging.getLogger("uvicorn.access").handlers = (
            logging.getLogger("uvicorn").handlers if logs_access(name) else []
        )
        logging.getLogger("hub").log(logging.getLogger("hub").level, "the log's level is %s%s", name, time)


def logs_access(level: str) -> bool:
    """Returns True if there is a line per request at this level."""
    return level in ("debug", "info")
