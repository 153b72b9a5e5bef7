"""Authenticates a viewer by a JWT from the Bearer header or the session cookie.

Invariant: every refusal is the same `JobNotFound`. The kind of key fixes the algorithm (a token cannot choose
it), keys come only from the configured set, and a key set is fetched in a thread, never on the event loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
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

logger = logging.getLogger("hub.auth")

MAX_TOKEN = 8 * 1024
"""Bytes of the largest token: a session token has about 1 KB, and an ALB cuts headers at 16 KB."""

LEEWAY = 5.0
"""Seconds that the issuer's clock and ours may differ."""

REFRESH = 300.0
"""Seconds before a fetched key set is fetched again, at the next token."""

VERIFIED = 5.0
"""Seconds a verified token is trusted without a check, at most twice that; its key may be withdrawn then."""

MAX_VERIFIED = 5_000
"""Verified tokens per generation. There are two generations, so at most 10,000 are remembered, in 3 MB."""

MIN_REFRESH = 30.0
"""Least seconds between two fetches; else a stranger who invents key ids would cause one for each token."""


@dataclass(frozen=True, slots=True)
class User:
    """A signed-in person. `email` is empty when the token has none.

    `issued` and `expires` are the token's `iat` and `exp` in seconds since 1970: 0 and infinity if there is none.
    """

    user_id: str
    email: str = ""
    issued: float = field(default=0.0, compare=False)
    expires: float = field(default=math.inf, compare=False)

    @property
    def id(self) -> UserId:
        """The id in the type that jobs use."""
        return UserId(self.user_id)


class Keys(Protocol):
    """The keys that tokens are verified with, all for one `algorithm`.

    `find` returns the key that a token names, or None if there is no such key. It raises PyJWTError for a
    token it cannot parse, and never blocks the loop. It is given the token and not the key id, so that a
    single fixed key costs no parsing of the token's header.
    """

    algorithm: str

    async def find(self, token: str, /) -> Any | None: ...


class FixedKey:
    """One key for all tokens, known at the start."""

    def __init__(self, key: Any, algorithm: str) -> None:
        self.algorithm = algorithm
        self._key = key

    async def find(self, _token: str, /) -> Any | None:
        """Returns the key."""
        return self._key


class JwksKeys:
    """The RS256 keys published at `url`, one fetch at a time. While `url` is down the last keys serve."""

    algorithm = "RS256"

    def __init__(self, url: str) -> None:
        self._client = PyJWKClient(url, cache_jwk_set=False, timeout=5)
        self._keys: Mapping[str | None, Any] = {}
        self._fetched = float("-inf")
        self._tried = float("-inf")
        self._fetch: asyncio.Task[None] | None = None

    async def find(self, token: str, /) -> Any | None:
        """Returns the key that the token names. Waits for a fetch only if that key is not known yet."""
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
            logger.warning("the key set was not fetched, %d known keys serve: %s", len(self._keys), error)
            return
        self._keys = {key.key_id: key.key for key in keys if key.public_key_use in (None, "sig")}
        self._fetched = time.monotonic()


class _Verified:
    """Tokens that were verified a moment ago, by hash.

    They come again: a page opens several streams with one token, and a deploy makes every viewer reconnect.
    There are two generations. After `VERIFIED` seconds (or `MAX_VERIFIED` tokens) the young one becomes the
    old one and the old one is dropped. So a token is trusted for at most twice `VERIFIED`, and no timestamp
    per token is needed.
    """

    def __init__(self) -> None:
        self._young: dict[bytes, User] = {}
        self._old: dict[bytes, User] = {}
        self._turned = time.monotonic()

    def get(self, token: str) -> User | None:
        """Returns the user of this token, or None if it was not verified lately."""
        self._turn()
        digest = _digest(token)
        return self._young.get(digest) or self._old.get(digest)

    def put(self, token: str, user: User, *, expires: float) -> None:
        """Remember the token, unless it expires while it is remembered. `expires`: seconds since 1970."""
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
    """Verifies tokens with the configured keys, and checks the configured claims."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keys = _keys(settings)
        self._verified = _Verified()

    async def authenticate(self, connection: HTTPConnection) -> User:
        """Returns the user of this request. Raises JobNotFound, whatever is wrong with the credentials."""
        user = await self.verify(_token(connection, self._settings))
        if user is None:
            raise JobNotFound("expected valid credentials")
        return user

    async def verify(self, token: str | None) -> User | None:
        """Returns the user that a token signs in, or None if it is not valid."""
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
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError):  # a claim can be any JSON, also 1e999
            return None
        return user

    def _user(self, claims: dict[str, Any]) -> User | None:
        parties = self._settings.authorized_parties
        subject, email = claims.get("sub"), claims.get("email")
        if not subject or (parties and claims.get("azp") not in parties):
            return None
        self._check_times(claims)
        subject.encode()  # raises ValueError for a lone surrogate: such an id could match no job's
        return User(
            subject,
            email if isinstance(email, str) else "",
            issued=float(claims.get("iat", 0)),
            expires=float(claims["exp"]),
        )

    def _check_times(self, claims: dict[str, Any]) -> None:
        """Raises ValueError unless the times are numbers, and the token expires soon enough.

        PyJWT takes texts and truth values as well, and integers that no float can hold.
        """
        latest = time.time() + self._settings.jwt_max_age
        for name in ("exp", "nbf", "iat"):
            value = claims.get(name, 0)
            if type(value) not in (int, float) or not 0 <= value <= latest:
                raise ValueError(f"expected {name} in seconds since 1970, at most {latest:.0f}")

    async def _claims(self, token: str, keys: Keys) -> dict[str, Any]:
        """Returns the claims, {} if the token's key is unknown. Raises PyJWTError for an invalid token."""
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
        # RFC 7515 section 4.1.11: a token whose critical extensions we do not know must be refused
        return {} if "crit" in verified["header"] else claims


def _require_plain_json(token: str) -> None:
    """Raises ValueError unless header and claims are UTF-8 without NUL and nested as deep as an event may be.

    PyJWT's parser stops at the interpreter's limit, which differs between versions. The parser also reads
    UTF-16 and UTF-32, where the count would miss brackets. JSON in either has a NUL among its first four
    bytes, or a mark that is no UTF-8; RFC 7519 demands UTF-8.
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
    """Returns True if the page that made this request may use the cookie. A browser sends it for any page.

    A WebSocket is not bound by the same-origin policy, so its Origin must be on the list, even the hub's own.
    A same-origin GET (EventSource, fetch) sends no Origin header. One from another origin must be on the list
    too: CORS would only keep the page from reading the answer, not the browser from making the request.
    """
    origin = connection.headers.get("origin")
    if origin in settings.allowed_origins:
        return True
    if connection.scope["type"] == "websocket":
        return False
    return origin is None or origin.partition("://")[2] == connection.headers.get("host")
