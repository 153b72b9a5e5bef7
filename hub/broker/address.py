"""Where Redis is: one URL, for a single server (`redis://`, `rediss://`, `unix://`) or for a primary that Sentinels know.

    redis+sentinel://[user:password@]host[:26379],host[:26379],.../SERVICE[/db][?sentinel_password=...]
    rediss+sentinel://...                                                  the same, with TLS to the primary

Pure: nothing is looked up here.
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
    """`service` is the name the Sentinels at `sentinels` know the primary by, "" for a single server.

    `options` are redis-py's arguments for a connection to the primary (with `tls` or not), `sentinel_password` the Sentinels' own.
    """

    service: str = ""
    sentinels: tuple[tuple[str, int], ...] = ()
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    tls: bool = False
    sentinel_password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read a URL. Raises InvalidSettings, without the password in its words."""
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
    """Raises ValueError."""
    parts = urlsplit(url)
    login, _, places = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    service, _, database = parts.path.strip("/").partition("/")
    query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    sentinel_password = query.pop("sentinel_password", None)
    if not service or query:
        raise ValueError("no service, or a parameter nobody knows")
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
        raise ValueError("no host")
    return parts.hostname, parts.port or _SENTINEL_PORT


def bare(url: str) -> str:
    """The URL without user, password and parameters, for people to read."""
    return url.rpartition("@")[2].partition("?")[0]
