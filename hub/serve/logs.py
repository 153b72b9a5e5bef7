"""The log of `push-hub serve`: one line per record on stderr, without credentials.

Invariant: what looks like a token or a ticket, the settings' own secrets, and every value in a query that is not one
of the hub's parameters leave the text of a line, wherever they came from; tracebacks too.
"""

from __future__ import annotations

import logging
import re
from typing import Any
from urllib.parse import quote

from hub.settings import Settings

_TOKENS = re.compile(r"[\w-]{8,}\.[\w-]{8,}\.[\w-]+|pht_[\w-]+", re.ASCII)
"""A JWT (RFC 7519: three parts in base64url), and a ticket."""

_QUERY = re.compile(r"([?&])([^=&?\s\"]{1,100})=([^&\s\"]*)")

PARAMETERS = frozenset({"last_event_id", "lastEventId", "from", "types", "wait", "after", "limit"})
"""Parameters whose values are no secrets."""


class RedactingFormatter(logging.Formatter):
    """Formats a record, and replaces credentials by `***`. `secrets` are known values."""

    def __init__(self, format: str, secrets: frozenset[str] = frozenset()) -> None:  # noqa: A002  # dictConfig's name
        super().__init__(format)
        forms = {
            form for secret in secrets for form in (secret, quote(secret), quote(secret, safe="")) if secret
        }
        ordered = sorted(forms, key=len, reverse=True)
        self._secrets = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        text = super().format(record)
        if self._secrets is not None:
            text = self._secrets.sub("***", text)
        return _QUERY.sub(_without_value, _TOKENS.sub("***", text))


def _without_value(found: re.Match[str]) -> str:
    start, name, value = found.groups()
    return found[0] if name in PARAMETERS or not value else f"{start}{name}=***"


def log_config(settings: Settings) -> dict[str, Any]:
    """The configuration for `logging.config.dictConfig`."""
    loud = {"handlers": ["stderr"], "level": settings.log_level.upper(), "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {
                "()": RedactingFormatter,
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
