"""Verifies what a token says: its signature, its times, its issuer and audience (RFC 7519).

Invariant: a token is good only if PyJWT would say so. All tokens of an issuer have the same header, so the
algorithm and the prepared key of a header that PyJWT found good are remembered, which saves most of the cost
of the next token. Whatever is unusual about a token, PyJWT judges it.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from typing import Any

import jwt
from jwt.algorithms import Algorithm
from jwt.utils import base64url_decode, base64url_encode

from hub.settings import Settings
from hub.web.keys import Key
from hub.web.plain import plain, require_plain_json

MAX_HEADERS = 100
"""Headers that are remembered; an issuer has one per key."""

_TOKEN = re.compile(r"(([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+))\.([A-Za-z0-9_-]+)", re.ASCII)

_PLAIN_HEADER = frozenset({"alg", "typ", "kid"})
"""Members of a header that is remembered. Any other may change what the token means."""


class CriticalHeader(jwt.DecodeError):
    """The token has critical extensions, none of which we know (RFC 7515, 4.1.11)."""


@dataclass(frozen=True, slots=True)
class _Known:
    """The header of a token that PyJWT has found good: the key was `key`, and this verifies with it."""

    key: Key
    algorithm: Algorithm
    prepared: Any


class Verifier:
    """Verifies tokens by the settings' issuer, audience and leeway."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: dict[str, _Known] = {}

    def claims(self, token: str, key: Key) -> dict[str, Any]:
        """Returns the claims of a token that `key` is for. Raises PyJWTError, and for a strange claim also
        TypeError and OverflowError."""
        parts = _TOKEN.fullmatch(token)
        known = self._known.get(parts[2]) if parts is not None else None
        if parts is not None and known is not None and known.key is key:
            found = self._claims_like_before(known, *parts.group(1, 3, 4))
            if found is not None:
                return found
        return self._decode(token, key)

    def _claims_like_before(
        self, known: _Known, signed: str, payload: str, signature: str
    ) -> dict[str, Any] | None:
        """The claims, if PyJWT would return them, too, without a doubt. Raises InvalidSignatureError."""
        raw = base64url_decode(signature)
        text = base64url_decode(payload)
        if base64url_encode(raw).decode() != signature or base64url_encode(text).decode() != payload:
            return None
        if not known.algorithm.verify(signed.encode(), known.prepared, raw):
            raise jwt.InvalidSignatureError("Signature verification failed")
        try:
            claims = json.loads(plain(text))
        except ValueError:
            return None
        return claims if isinstance(claims, dict) and self._are_good(claims) else None

    def _are_good(self, claims: dict[str, Any]) -> bool:
        """Returns True if PyJWT would take these claims; False also where that takes a closer look."""
        settings = self._settings
        now, leeway = time.time(), settings.jwt_leeway
        expires, begins, issued = claims.get("exp"), claims.get("nbf", 0), claims.get("iat", 0)
        audience = claims.get("aud")
        return (
            type(expires) is int
            and type(begins) is type(issued) is int
            and expires > now - leeway
            and max(begins, issued) <= now + leeway
            and isinstance(claims.get("jti", ""), str)
            and (settings.jwt_issuer is None or claims.get("iss") == settings.jwt_issuer)
            and (settings.jwt_audience is None or (audience == settings.jwt_audience and audience != ""))
        )

    def _decode(self, token: str, key: Key) -> dict[str, Any]:
        settings = self._settings
        require_plain_json(token)
        verified = jwt.decode_complete(
            token,
            key.value,
            algorithms=list(key.algorithms),
            leeway=settings.jwt_leeway,
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
            options={
                "require": ["exp"],
                "verify_aud": settings.jwt_audience is not None,
                "verify_sub": False,  # `Authenticator` looks at it; a number is a user id too
            },
        )
        header: dict[str, Any] = verified["header"]
        if "crit" in header:
            raise CriticalHeader("expected no critical extensions")
        if header.keys() <= _PLAIN_HEADER and (parts := _TOKEN.fullmatch(token)) is not None:
            self._remember(parts[2], header["alg"], key)
        claims: dict[str, Any] = verified["payload"]
        return claims

    def _remember(self, header: str, name: str, key: Key) -> None:
        if len(self._known) >= MAX_HEADERS:
            self._known.clear()
        algorithm = jwt.get_algorithm_by_name(name)
        self._known[header] = _Known(key, algorithm, algorithm.prepare_key(key.value))
