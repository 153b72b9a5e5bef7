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
from jwt.utils import base64url_decode
from starlette.requests import HTTPConnection

from hub.errors import InvalidSettings, JobNotFound
from hub.job.event import UserId
from hub.job.nesting import TOO_DEEP, is_too_deep
from hub.settings import Settings

log = logging.getLogger("hub.auth")

MAX_TOKEN = 8 * 1024
"""Bytes of the largest token; a session token is about 1 KB, headers at an ALB end at 16 KB."""

LEEWAY = 5.0
"""Seconds that clocks may differ."""

REFRESH = 300.0
"""Seconds a fetched key set is taken as new."""

VERIFIED = 5.0
"""Seconds a verified token is taken at its word, at most twice that; a key that is withdrawn counts that much longer."""

MAX_VERIFIED = 5_000
"""Verified tokens remembered, at most twice as many: 3 MB."""

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
    """Where a token's key comes from. `find` never fetches on the loop; None for a key nobody published.

    It gets the token, not its key id, so that where there is one key the header is parsed once. Raises PyJWTError.
    """

    algorithm: str

    async def find(self, token: str) -> Any | None: ...


class FixedKey:
    """One key, known at the start."""

    def __init__(self, key: Any, algorithm: str) -> None:
        self.algorithm = algorithm
        self._key = key

    async def find(self, token: str) -> Any | None:  # noqa: ARG002  # one key serves all tokens
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

    async def find(self, token: str) -> Any | None:
        """The key that the token names. Waits for a fetch only while the key is not known."""
        key_id = jwt.get_unverified_header(token).get("kid")
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
            log.warning("the key set was not fetched, %d known keys serve: %s", len(self._keys), error)
            return
        self._keys = {key.key_id: key.key for key in keys if key.public_key_use in (None, "sig")}
        self._fetched = time.monotonic()


class _Verified:
    """Tokens that were verified a moment ago, by their hash: a page opens several streams, a deploy brings all back.

    Two generations: the younger becomes the older after `VERIFIED` seconds (or at `MAX_VERIFIED`), and what was the older
    is dropped; so a token is taken at its word for at most twice as long, at one entry of a dictionary.
    """

    def __init__(self) -> None:
        self._young: dict[bytes, User] = {}
        self._old: dict[bytes, User] = {}
        self._turned = time.monotonic()

    def get(self, token: str) -> User | None:
        """The user of this token, if it was verified lately."""
        self._turn()
        digest = _digest(token)
        return self._young.get(digest) or self._old.get(digest)

    def put(self, token: str, user: User, *, expires: float) -> None:
        """`expires`: the token's `exp`, seconds since 1970. One that expires too soon is not remembered."""
        self._turn()
        if expires - time.time() > 2 * VERIFIED:
            self._young[_digest(token)] = user

    def _turn(self) -> None:
        now = time.monotonic()
        if now - self._turned < VERIFIED and len(self._young) < MAX_VERIFIED:
            return
        self._old = self._young if now - self._turned < 2 * VERIFIED else {}
        self._young = {}
        self._turned = now


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
            _require_plain_json(token)
            claims = await self._claims(token, self._keys)
            user = self._user(claims)
            if user is not None:
                self._verified.put(token, user, expires=float(claims["exp"]))
        except (jwt.PyJWTError, ValueError, TypeError):  # a claim may be anything
            return None
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
        key = await keys.find(token)
        if key is None:
            return {}
        verified = jwt.decode_complete(
            token,
            key,
            algorithms=[keys.algorithm],
            leeway=LEEWAY,
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
            options={"require": ["sub", "exp"], "verify_aud": settings.jwt_audience is not None},
        )
        claims: dict[str, Any] = verified["payload"]
        return {} if "crit" in verified["header"] else claims


def _require_plain_json(token: str) -> None:
    """Raises ValueError unless header and claims are UTF-8 without NUL and nested as deep as an event may be.

    PyJWT's parser stops at the interpreter's limit, which differs between versions. The parser also reads UTF-16
    and UTF-32, where the count would miss brackets. JSON in either has a NUL among its first four bytes, or a mark
    that is no UTF-8; RFC 7519 demands UTF-8.
    """
    signed, _, _ = token.rpartition(".")
    for part in signed.split(".", 1):
        text = base64url_decode(part).decode()
        if "\0" in text or is_too_deep(text):
            raise ValueError(TOO_DEEP)


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
