"""The address of Redis, as one URL: a single server, a primary that Sentinels name, or a cluster.

    redis://...   rediss://...   unix://...     a single server, as redis-py reads it
    redis+sentinel://[user:password@]host[:26379],host[:26379],.../SERVICE[/db][?sentinel_password=...]
    redis+cluster://[user:password@]host[:6379],host[:6379],...     some nodes of a cluster
    rediss+sentinel://...   rediss+cluster://...                    the same, with TLS to every node

Pure: parses text and resolves no names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from redis.asyncio.connection import Connection, parse_url

from hub.errors import InvalidSettings

_SINGLE = ("redis://", "rediss://", "unix://")
_SENTINEL = ("redis+sentinel", "rediss+sentinel")
_SENTINEL_PORT = 26379
_CLUSTER = ("redis+cluster", "rediss+cluster")
_PORT = 6379
_OF_POOLS = ("max_connections", "timeout")


@dataclass(frozen=True, slots=True)
class Address:
    """Where the primary is.

    `url` is a single server's, as redis-py reads it. `options` are redis-py's arguments for a connection to
    the primary (with `tls` or not), `sentinel_password` the Sentinels' own. `nodes` are some of a cluster's.
    """

    service: str = ""
    sentinels: tuple[tuple[str, int], ...] = ()
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    tls: bool = False
    sentinel_password: str | None = field(default=None, repr=False)
    nodes: tuple[tuple[str, int], ...] = ()
    url: str = field(default="", repr=False, compare=False)

    @property
    def database(self) -> int:
        """The number of the database."""
        options = parse_url(self.url) if self.url else self.options
        return int(options.get("db") or 0)

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read a URL. Raises InvalidSettings; its text does not contain the password."""
        try:
            if urlsplit(url).scheme in _SENTINEL:
                return _sentinel(url)
            if urlsplit(url).scheme in _CLUSTER:
                return _cluster(url)
            if url.startswith(_SINGLE):
                known = _known(url)
                _check_options(known)
                return cls(url=known)
        except ValueError:
            pass
        except TypeError as error:
            raise InvalidSettings(f"expected options that Redis connections have, got {error}") from error
        raise InvalidSettings(
            f"expected a Redis URL ({'..., '.join([*_SINGLE, 'redis+sentinel://', 'redis+cluster://'])}...), got {bare(url)!r}"
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
    sentinels = tuple(_place(place, _SENTINEL_PORT) for place in places.split(","))
    tls = parts.scheme == "rediss+sentinel"
    return Address(unquote(service), sentinels, options, tls, sentinel_password)


def _cluster(url: str) -> Address:
    """Parse a URL of a cluster. Raises ValueError."""
    parts = urlsplit(url)
    login, at, places = parts.netloc.rpartition("@")
    nodes = tuple(_place(place, _PORT) for place in places.split(","))
    if parts.path not in ("", "/", "/0"):
        raise ValueError("expected no database: a cluster has only one")
    tls = parts.scheme == "rediss+cluster"
    one = parts._replace(scheme=parts.scheme.partition("+")[0], netloc=f"{login}{at}localhost", path="")
    known = _known(one.geturl())
    _check_options(known)
    options: dict[str, Any] = dict(parse_url(known))
    for name in ("host", "port", "db", "connection_class", *_OF_POOLS):
        options.pop(name, None)
    return Address(options=options, tls=tls, nodes=nodes)


def _known(url: str) -> str:
    """The URL in redis-py's spelling; Celery says `ssl_cert_reqs=CERT_NONE`. Raises ValueError."""
    head, mark, query = url.partition("?")
    pairs = parse_qsl(query, strict_parsing=True) if query else []
    pairs = [
        (name, value.removeprefix("CERT_").lower() if name == "ssl_cert_reqs" else value)
        for name, value in pairs
    ]
    if not url.startswith("rediss://"):
        pairs = [
            (name, value) for name, value in pairs if not name.startswith("ssl_")
        ]  # there is no TLS to set up
    return head + mark + urlencode(pairs) if pairs else head


def _check_options(url: str) -> None:
    """Make a connection without connecting it: redis-py refuses an option only then. Raises ValueError,
    TypeError."""
    options: dict[str, Any] = dict(parse_url(url))
    kind = options.pop("connection_class", Connection)
    kind(**{name: value for name, value in options.items() if name not in _OF_POOLS})


def _place(text: str, port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("expected a host")
    return parts.hostname, parts.port or port


def bare(url: str) -> str:
    """The URL without user, password and parameters, for error texts and logs."""
    return url.rpartition("@")[2].partition("?")[0]
