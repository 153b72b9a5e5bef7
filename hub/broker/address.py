"""The address of Redis, as one URL: a single server, or a primary that Sentinels name.

    redis://...   rediss://...   unix://...                                 a single server, as redis-py reads
    it redis+sentinel://[user:password@]host[:26379],host[:26379],.../SERVICE[/db][?sentinel_password=...]
    rediss+sentinel://...                                                   the same, with TLS to the primary

Pure: parses text and resolves no names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio.connection import parse_url

from hub.errors import InvalidSettings

_SINGLE = ("redis://", "rediss://", "unix://")
_SENTINEL = ("redis+sentinel", "rediss+sentinel")
_SENTINEL_PORT = 26379


@dataclass(frozen=True, slots=True)
class Address:
    """Where the primary is.

    `service` is the primary's name at the Sentinels, "" for a single server; the other fields are for
    Sentinels only. `sentinels` are their (host, port) pairs and `sentinel_password` is their password.
    `options` are redis-py's arguments for a connection to the primary, which uses TLS if `tls` is True.
    """

    service: str = ""
    sentinels: tuple[tuple[str, int], ...] = ()
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    tls: bool = False
    sentinel_password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read a URL. Raises InvalidSettings; its text does not contain the password."""
        try:
            if urlsplit(url).scheme in _SENTINEL:
                return _sentinel(url)
            parse_url(url)
            if url.startswith(_SINGLE):
                return cls()
        except ValueError:
            pass
        raise InvalidSettings(
            f"expected a Redis URL ({'..., '.join([*_SINGLE, 'redis+sentinel://'])}...), got {bare(url)!r}"
        )


def _sentinel(url: str) -> Address:
    """Parse a URL of Sentinels. Raises ValueError."""
    parts = urlsplit(url)
    login, _, places = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    service, _, database = parts.path.strip("/").partition("/")
    query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    sentinel_password = query.pop("sentinel_password", None)
    if not service or query:
        raise ValueError("expected a service and no unknown parameter")
    options: dict[str, Any] = {"db": int(database or 0)}
    if user:
        options["username"] = unquote(user)
    if password:
        options["password"] = unquote(password)
    sentinels = tuple(_place(place) for place in places.split(","))
    tls = parts.scheme == "rediss+sentinel"
    return Address(unquote(service), sentinels, options, tls, sentinel_password)


def _place(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("expected a host")
    return parts.hostname, parts.port or _SENTINEL_PORT


def bare(url: str) -> str:
    """The URL without user, password and parameters, for error texts and logs."""
    return url.rpartition("@")[2].partition("?")[0]
