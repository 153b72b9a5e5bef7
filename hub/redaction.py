"""Text without credentials.

Invariant: what looks like a token or a ticket, the settings' own secrets, and every value in a query that is
not one of the hub's parameters leave the text, wherever they came from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote

_TOKENS = re.compile(r"[\w-]{8,}\.[\w-]{8,}\.[\w-]+|pht_[\w-]+", re.ASCII)
"""A JWT (RFC 7519: three parts in base64url), and a ticket."""

_QUERY = re.compile(r"([?&])([^=&?\s\"]{1,100})=([^&\s\"]*)")

PARAMETERS = frozenset({"last_event_id", "lastEventId", "from", "types", "wait", "after", "limit"})
"""Parameters whose values are no secrets."""


class Redaction:
    """Replaces credentials by `***`. `secrets` are known values."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {
            form for secret in secrets for form in (secret, quote(secret), quote(secret, safe="")) if secret
        }
        ordered = sorted(forms, key=len, reverse=True)
        self._secrets = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def of(self, text: str) -> str:
        """Returns `text` without credentials."""
        if self._secrets is not None:
            text = self._secrets.sub("***", text)
        return _QUERY.sub(_without_value, _TOKENS.sub("***", text))


def _without_value(found: re.Match[str]) -> str:
    start, name, value = found.groups()
    return found[0] if name in PARAMETERS or not value else f"{start}{name}=***"
