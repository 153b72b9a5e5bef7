"""Authenticates a viewer by a JWT (RFC 7519) from the Bearer header or the session cookie.

Invariant: every refusal is the same `JobNotFound`; why is for the operator alone.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt
from starlette.requests import HTTPConnection

from hub.errors import JobNotFound
from hub.job.event import UserId
from hub.settings import Settings
from hub.totals import Totals
from hub.web.credentials import ForeignPage, token_of
from hub.web.keys import Key, Keys, configured
from hub.web.plain import require_plain_json
from hub.web.signed import Verifier

logger = logging.getLogger("hub.auth")

MAX_TOKEN = 8 * 1024
"""Bytes of the largest token: a session token has about 1 KB, and an ALB cuts headers at 16 KB."""

VERIFIED = 5.0
"""Seconds a verified token is trusted without a check, at most twice that; its key may be withdrawn then."""

_NOTHING_SHARED: Mapping[str, str] = {}
"""One for all users: each is remembered."""

MAX_VERIFIED = 5_000
"""Verified tokens per generation. There are two generations, so at most 10,000 are remembered, in 3 MB."""


@dataclass(frozen=True, slots=True)
class User:
    """A signed-in person. `email` is empty when the token has none.

    `issued` and `expires` are the token's `iat` (0 if it has none) and `exp` in seconds since 1970; of a user
    that an application made, both are infinity: it asks for credentials with each request itself. `shared`:
    the claims that `HUB_SHARED_BY` names.
    """

    user_id: str
    email: str = ""
    issued: float = field(default=math.inf, compare=False)
    expires: float = field(default=math.inf, compare=False)
    shared: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def id(self) -> UserId:
        """The id in the type that jobs use."""
        return UserId(self.user_id)


def who(user: User) -> UserId:
    """The user's id as text: an application's own user may have a number or a UUID."""
    return UserId(str(user.id))


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

    def get(self, digest: bytes) -> User | None:
        """Returns the user of the token with this digest, or None if it was not verified lately."""
        self._turn()
        return self._young.get(digest) or self._old.get(digest)

    def put(self, digest: bytes, user: User, *, expires: float) -> None:
        """Remember the token, unless it expires while it is remembered. `expires`: seconds since 1970."""
        self._turn()
        if expires - time.time() > 2 * VERIFIED:
            self._young[digest] = user

    def _turn(self) -> None:
        now = time.monotonic()
        if now - self._turned < VERIFIED and len(self._young) < MAX_VERIFIED:
            return
        self._old = self._young if now - self._turned < 2 * VERIFIED else {}
        self._young = {}
        self._turned = now


class Refused(Exception):
    """The token does not sign anybody in. `reason` is for the operator alone: a metric and a debug line."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Authenticator:
    """Verifies tokens with the configured keys, and checks the
    configured claims. Counts refusals in `totals`.
    """

    def __init__(self, settings: Settings) -> None:
        self.totals = Totals()
        self._settings = settings
        self._keys = configured(settings)
        self._verifier = Verifier(settings)
        self._verified = _Verified()

    async def authenticate(self, connection: HTTPConnection) -> User:
        """Returns the user of this request. Raises JobNotFound, whatever is wrong with the credentials, and
        KeysUnavailable if no key is known yet."""
        try:
            token = token_of(connection, self._settings)
        except ForeignPage:
            self._count("origin", None)
            raise JobNotFound("expected a page of this origin, or one on the list") from None
        user = await self.verify(token)
        if user is None:
            raise JobNotFound("expected valid credentials")
        return user

    async def verify(self, token: str | None) -> User | None:
        """Returns the user that a token signs in, or None if it is not valid. Raises KeysUnavailable."""
        try:
            return await self.check(token)
        except Refused as refusal:
            self._count(refusal.reason, token)
            return None

    async def check(self, token: str | None) -> User:
        """Returns the user that a token signs in. Raises Refused with the reason, and KeysUnavailable."""
        if not token or self._keys is None:
            raise Refused("missing")
        if len(token) > MAX_TOKEN:
            raise Refused("malformed")
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        if (known := self._verified.get(digest)) is not None:
            return known
        try:
            user = self._user(self._verifier.claims(token, await self._key(token, self._keys)))
        except (
            jwt.PyJWTError,
            ValueError,
            TypeError,
            OverflowError,
        ) as error:  # a claim can be any JSON, also 1e999
            raise Refused(_reason(error)) from error
        self._verified.put(digest, user, expires=user.expires)
        return user

    async def _key(self, token: str, keys: Keys) -> Key:
        """The key that a token is for. Raises Refused if there is none, KeysUnavailable and PyJWTError."""
        key = await keys.find(token)
        if key is None:
            raise Refused("key")
        return key

    def _count(self, reason: str, token: str | None) -> None:
        name = f"auth_refused_{reason}"
        setattr(self.totals, name, getattr(self.totals, name) + 1)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("refused: %s (%s)", reason, described(token))

    def _user(self, claims: dict[str, Any]) -> User:
        parties = self._settings.authorized_parties
        subject, email = claims.get(self._settings.user_claim), claims.get("email")
        if type(subject) is int:
            subject = str(subject)
        if not isinstance(subject, str) or not subject:
            raise Refused("claims")
        if parties and claims.get("azp") not in parties:
            raise Refused("party")
        self._check_times(claims)
        subject.encode()  # raises ValueError for a lone surrogate: such an id could match no job's
        return User(
            subject,
            email if isinstance(email, str) else "",
            issued=float(claims.get("iat", 0.0)),
            expires=float(claims["exp"]),
            shared=self._shared(claims),
        )

    def _shared(self, claims: dict[str, Any]) -> Mapping[str, str]:
        if not self._settings.shared_by:
            return _NOTHING_SHARED
        found = {name: claims.get(name) for name in self._settings.shared_by}
        return {
            name: str(value) for name, value in found.items() if type(value) in (str, int) and value != ""
        }

    def _check_times(self, claims: dict[str, Any]) -> None:
        """Raises ValueError unless the times are numbers, and the token expires soon enough.

        PyJWT takes texts and truth values as well, and integers that no float can hold.
        """
        latest = time.time() + self._settings.jwt_max_age
        for name in ("exp", "nbf", "iat"):
            value = claims.get(name, 0)
            if type(value) not in (int, float) or not 0 <= value <= latest:
                raise ValueError(f"expected {name} in seconds since 1970, at most {latest:.0f}")


REASONS: tuple[tuple[type[Exception], str], ...] = (
    (jwt.ExpiredSignatureError, "expired"),
    (jwt.ImmatureSignatureError, "early"),
    (jwt.InvalidIssuerError, "issuer"),
    (jwt.InvalidAudienceError, "audience"),
    (jwt.InvalidAlgorithmError, "algorithm"),
    (jwt.InvalidSignatureError, "signature"),
    (jwt.MissingRequiredClaimError, "claims"),
    (jwt.DecodeError, "malformed"),
)
"""What PyJWT raises, the special before the general, as the operator reads it."""


def _reason(error: Exception) -> str:
    return next((reason for kind, reason in REASONS if isinstance(error, kind)), "claims")


def described(token: str | None) -> str:
    """What a token says of itself, unverified, for the operator: its key,
    issuer, user and times; never the token.
    """
    if not token:
        return "no token"
    if len(token) > MAX_TOKEN:
        return f"{len(token)} characters"
    try:
        require_plain_json(token)
        header = jwt.get_unverified_header(token)
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, TypeError):
        return f"{len(token)} characters that are no token"
    said = {"alg": header.get("alg"), "kid": header.get("kid"), **{name: claims.get(name) for name in SAID}}
    return ", ".join(f"{name} {value!r:.100}" for name, value in said.items() if value is not None)


SAID = ("iss", "aud", "azp", "sub", "iat", "nbf", "exp")
"""Claims that a line of the log repeats."""
