"""Who the viewer is: a JWT from the Bearer header or the session cookie.

Invariant: every refusal is the same `JobNotFound`. The algorithm is fixed by the kind of key, the key comes only from the
configured set, and nothing is fetched on the event loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jwt
from jwt import PyJWKClient, PyJWKSet
from starlette.requests import HTTPConnection

from hub.errors import InvalidSettings, JobNotFound
from hub.event import UserId
from hub.settings import Settings

log = logging.getLogger("hub.auth")

MAX_TOKEN = 8 * 1024
"""Bytes of the largest token; a session token is about 1 KB, headers at an ALB end at 16 KB."""

LEEWAY = 5.0
"""Seconds that clocks may differ."""

REFRESH = 300.0
"""Seconds a fetched key set is taken as new."""

VERIFIED = 10.0
"""Seconds a verified token is taken at its word; a key that is withdrawn counts that much longer."""

MAX_VERIFIED = 10_000
"""Verified tokens remembered: 2 MB."""

MIN_REFRESH = 30.0
"""Seconds between fetches at the least, whatever key ids strangers make up."""


@dataclass(frozen=True, slots=True)
class User:
    """A signed-in person. `email` is empty when the token has none."""

    user_id: str
    email: str = ""

    @property
    def id(self) -> UserId:
        """The id as jobs have it."""
        return UserId(self.user_id)


class Keys(Protocol):
    """Where a token's key comes from. `find` never fetches on the loop; None for a key nobody published."""

    algorithm: str

    async def find(self, key_id: str | None) -> Any | None: ...


class FixedKey:
    """One key, known at the start."""

    def __init__(self, key: Any, algorithm: str) -> None:
        self.algorithm = algorithm
        self._key = key

    async def find(self, key_id: str | None) -> Any | None:  # noqa: ARG002  # one key serves all ids
        """The key."""
        return self._key


class JwksKeys:
    """The RS256 keys published at `url`: the last good ones serve while it is down, one fetch at a time."""

    algorithm = "RS256"

    def __init__(self, url: str) -> None:
        self._client = PyJWKClient(url, cache_jwk_set=False, timeout=5)
        self._keys: Mapping[str | None, Any] = {}
        self._fetched = float("-inf")
        self._tried = float("-inf")
        self._fetch: asyncio.Task[None] | None = None

    async def find(self, key_id: str | None) -> Any | None:
        """The key with this id. Waits for a fetch only while the key is not known."""
        now = time.monotonic()
        known = self._keys.get(key_id)
        if (known is None or now - self._fetched > REFRESH) and now - self._tried > MIN_REFRESH:
            self._tried = now
            self._fetch = asyncio.create_task(self._refresh(), name="hub-jwks")
        if known is None and self._fetch is not None:
            await asyncio.wait([self._fetch])
        return self._keys.get(key_id)

    async def _refresh(self) -> None:
        try:
            data = await asyncio.to_thread(self._client.fetch_data)
            keys = PyJWKSet.from_dict(data).keys
        except (jwt.PyJWTError, OSError, ValueError, AttributeError) as error:
            log.warning("the key set was not fetched, the last good one serves: %s", error)
            return
        self._keys = {key.key_id: key.key for key in keys if key.public_key_use in (None, "sig")}
        self._fetched = time.monotonic()


class _Verified:
    """Tokens that were verified a moment ago, by their hash: a page opens several streams, a deploy brings all back.

    At `MAX_VERIFIED` it begins anew; a token is verified again then, nothing else.
    """

    def __init__(self) -> None:
        self._users: dict[bytes, tuple[User, float]] = {}  # and until when, monotonic

    def get(self, token: str) -> User | None:
        """The user of this token, if it was verified within `VERIFIED` seconds and has not expired since."""
        user, until = self._users.get(_digest(token), (None, 0.0))
        return user if time.monotonic() < until else None

    def put(self, token: str, user: User, *, expires: float) -> None:
        """`expires`: the token's `exp`, seconds since 1970."""
        if len(self._users) >= MAX_VERIFIED:
            self._users.clear()
        self._users[_digest(token)] = user, time.monotonic() + min(VERIFIED, expires - time.time())


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


class Authenticator:
    """Checks tokens by one set of keys and the claims that are configured."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keys = _keys(settings)
        self._verified = _Verified()

    async def authenticate(self, connection: HTTPConnection) -> User:
        """The user of this request. Raises JobNotFound, whatever is wrong."""
        user = await self.verify(_token(connection, self._settings))
        if user is None:
            raise JobNotFound("expected valid credentials")
        return user

    async def verify(self, token: str | None) -> User | None:
        """The user a token speaks for, or None."""
        if not token or len(token) > MAX_TOKEN or self._keys is None:
            return None
        if (known := self._verified.get(token)) is not None:
            return known
        try:
            claims = await self._claims(token, self._keys)
            user = self._user(claims)
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):  # a claim may be anything
            return None
        if user is not None:
            self._verified.put(token, user, expires=claims["exp"])
        return user

    def _user(self, claims: dict[str, Any]) -> User | None:
        parties = self._settings.authorized_parties
        subject, email = claims.get("sub"), claims.get("email")
        if not subject or (parties and claims.get("azp") not in parties):
            return None
        subject.encode()  # a lone surrogate is not text; ValueError
        return User(subject, email if isinstance(email, str) else "")

    async def _claims(self, token: str, keys: Keys) -> dict[str, Any]:
        """The claims of a token whose signature and times are good; {} for a key nobody published."""
        settings = self._settings
        header = jwt.get_unverified_header(token)
        key = await keys.find(header.get("kid"))
        if key is None or "crit" in header:
            return {}
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[keys.algorithm],
            leeway=LEEWAY,
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
            options={"require": ["sub", "exp"], "verify_aud": settings.jwt_audience is not None},
        )
        return claims


def _keys(settings: Settings) -> Keys | None:
    given = [settings.jwt_secret, settings.jwt_public_key, settings.jwks_url]
    if sum(value is not None for value in given) > 1:
        raise InvalidSettings("expected one of HUB_JWT_SECRET, HUB_JWT_PUBLIC_KEY and HUB_JWKS_URL, got more")
    if settings.jwt_secret is not None:
        return FixedKey(settings.jwt_secret.get_secret_value(), "HS256")
    if settings.jwt_public_key is not None:
        return FixedKey(_pem(settings.jwt_public_key), "RS256")
    return JwksKeys(settings.jwks_url) if settings.jwks_url is not None else None


def _pem(value: str) -> Any:
    text = value.encode()
    try:
        if not value.lstrip().startswith("-----BEGIN"):
            text = Path(value).read_bytes()
        return jwt.algorithms.RSAAlgorithm(jwt.algorithms.RSAAlgorithm.SHA256).prepare_key(text)
    except (OSError, ValueError, TypeError, jwt.PyJWTError) as error:
        raise InvalidSettings(
            f"expected HUB_JWT_PUBLIC_KEY to be an RSA public key in PEM, got {error}"
        ) from error


def _token(connection: HTTPConnection, settings: Settings) -> str | None:
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    cookie = connection.cookies.get(settings.session_cookie)
    return cookie if cookie and _origin_may_use_cookie(connection, settings) else None


def _origin_may_use_cookie(connection: HTTPConnection, settings: Settings) -> bool:
    """A browser sends the cookie for any page; only pages on the list may make it do so.

    A WebSocket knows no same-origin policy, so its Origin must be on the list. A same-origin GET (EventSource, fetch)
    has no Origin header, and for another origin CORS does not keep the request from being made, so the list holds too.
    """
    origin = connection.headers.get("origin")
    if origin in settings.allowed_origins:
        return True
    if connection.scope["type"] == "websocket":
        return False
    return origin is None or origin.partition("://")[2] == connection.headers.get("host")
