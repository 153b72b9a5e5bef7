"""The keys that verify tokens: one that is configured, or a key set (JWKS, RFC 7517) that is fetched.

Invariant: the key fixes the algorithm, a token cannot choose it. A fetch never blocks the loop, is bounded in
time and size, and there is one at a time.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from hub.errors import InvalidSettings, KeysUnavailable
from hub.settings import Settings
from hub.web.plain import require_plain_json

logger = logging.getLogger("hub.auth")

DEADLINE = 5.0
"""Seconds that a fetch may take in all, redirects and a server that drips bytes included."""

MAX_KEY_SET = 512 * 1024
"""Bytes of the largest key set. A set of ten keys with certificates has 30 KB."""

REFRESH = 300.0
"""Seconds before a fetched key set is fetched again, at the next token."""

MIN_REFRESH = 30.0
"""Least seconds between two fetches; else a stranger who invents key ids would cause one for each token."""

WITNESSES = 3
"""Different tokens with one unknown key id that cause a fetch at once: the issuer has rotated its keys."""

MAX_UNKNOWN = 100
"""Unknown key ids that are remembered between two fetches, and headers with their key ids."""

SECRET_LENGTHS = {"HS256": 32, "HS384": 48, "HS512": 64}
"""Bytes of the shortest secret of each algorithm (RFC 7518, 3.2)."""

CURVES = {"secp256r1": ("ES256",), "secp384r1": ("ES384",), "secp521r1": ("ES512",)}
RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")


@dataclass(frozen=True, slots=True)
class Key:
    """A key, and the algorithms that it verifies."""

    value: Any
    algorithms: tuple[str, ...]


class Keys(Protocol):
    """The keys that tokens are verified with.

    `find` returns the key that a token names, or None if there is no such key. It raises PyJWTError for a
    token it cannot parse, KeysUnavailable if no key is known at all, and never blocks the loop. It is given
    the token and not the key id, so that a single fixed key costs no parsing of the token's header.
    """

    async def find(self, token: str, /) -> Key | None: ...


class FixedKey:
    """One key for all tokens, known at the start."""

    def __init__(self, key: Key) -> None:
        self._key = key

    async def find(self, _token: str, /) -> Key | None:
        """Returns the key."""
        return self._key


class JwksKeys:
    """The keys published at `url`. While `url` is down the last keys serve."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self._url = url
        # A user agent of ours: firewalls refuse the names of libraries.
        self._headers = {
            "User-Agent": f"push-hub/{version('push-hub')}",
            "Accept": "application/json",
            **headers,
        }
        self._tls = ssl.create_default_context()  # once: it reads all certificates of the system
        self._keys: Mapping[str | None, Key] = {}
        self._fetched = float("-inf")
        self._tried = float("-inf")
        self._early = float("-inf")  # when the last fetch that did not wait for `MIN_REFRESH` began
        self._fetch: asyncio.Task[None] | None = None
        self._key_ids: dict[str, str | None] = {}  # by header
        self._unknown: dict[str, set[bytes]] = {}  # key id -> digests of tokens with it, since the last fetch

    async def find(self, token: str, /) -> Key | None:
        """Returns the key that the token names. Waits for a fetch only if that key is not known yet."""
        key_id = self._key_id(token)
        known = self._keys.get(key_id)
        if (known is None or time.monotonic() - self._fetched > REFRESH) and self._may_fetch(
            key_id, token, known
        ):
            self._tried = time.monotonic()
            self._unknown.clear()
            self._fetch = asyncio.create_task(self._refresh(), name="hub-jwks")
        if known is None and self._fetch is not None:
            await asyncio.wait([self._fetch])
        if not self._keys:
            raise KeysUnavailable("expected a key set, none was fetched yet")
        return self._keys.get(key_id)

    def _key_id(self, token: str) -> str | None:
        """The key id in the token's header, which is the same for all tokens of a key, and parsed once."""
        header = token.partition(".")[0]
        if header not in self._key_ids:
            require_plain_json(token)
            found = jwt.get_unverified_header(token).get("kid")
            if len(self._key_ids) >= MAX_UNKNOWN:
                self._key_ids.clear()
            self._key_ids[header] = found
        return self._key_ids[header]

    def _may_fetch(self, key_id: str | None, token: str, known: Key | None) -> bool:
        if self._fetch is not None and not self._fetch.done():
            return False
        now = time.monotonic()
        if now - self._tried > MIN_REFRESH:
            return True
        if known is not None or key_id is None or now - self._early < MIN_REFRESH:
            return False
        if key_id not in self._unknown and len(self._unknown) >= MAX_UNKNOWN:
            return False
        witnesses = self._unknown.setdefault(key_id, set())
        witnesses.add(hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest())
        if len(witnesses) < WITNESSES:
            return False
        self._early = now  # one more, and no other for a while: a stranger can make three tokens too
        return True

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(DEADLINE):
                keys = _key_set(await self._download())
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError, ValueError) as error:
            words = str(error) or type(error).__name__
            logger.warning("the key set was not fetched, %d known keys serve: %s", len(self._keys), words)
            return
        self._keys = keys
        self._fetched = time.monotonic()

    async def _download(self) -> bytes:
        """The bytes at the URL. Raises ValueError if they are more than `MAX_KEY_SET`."""
        async with (
            httpx.AsyncClient(
                verify=self._tls, timeout=DEADLINE, follow_redirects=True, max_redirects=3
            ) as client,
            client.stream("GET", self._url, headers=self._headers) as answer,
        ):
            answer.raise_for_status()
            body = b""
            async for chunk in answer.aiter_bytes():
                body += chunk
                if len(body) > MAX_KEY_SET:
                    raise ValueError(f"expected at most {MAX_KEY_SET} bytes, got more")
            return body


def _key_set(text: bytes) -> dict[str | None, Key]:
    """The usable keys of a key set, by id. Raises ValueError if there is none."""
    try:
        entries = json.loads(text)["keys"]
        found = [_from_jwk(entry) for entry in entries]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("expected a JSON object with keys, got something else") from error
    usable = [(key_id, key) for key_id, key in found if key is not None]
    keys = dict(usable)
    if sum(key_id is None for key_id, _ in usable) > 1:
        del keys[None]  # which of them a token without an id means, nobody can say
    if not keys:
        raise ValueError(f"expected keys that verify signatures, got {len(found)} others")
    return keys


def _from_jwk(entry: Any) -> tuple[str | None, Key | None]:
    """A key and its id; None for one that is of another kind, or not for signatures. A secret (kind oct) does
    not belong in public and is not used."""
    key_id = entry.get("kid") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or entry.get("use") not in (None, "sig") or entry.get("kty") == "oct":
        return None, None
    try:
        value = jwt.PyJWK(entry).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        return None, None
    algorithms = _algorithms(value)
    if (named := entry.get("alg")) is not None:
        algorithms = tuple({named} & set(algorithms))
    return key_id if isinstance(key_id, str) else None, Key(value, algorithms) if algorithms else None


def _algorithms(key: object) -> tuple[str, ...]:
    """What a public key of this kind verifies."""
    if isinstance(key, RSAPublicKey):
        return RSA
    if isinstance(key, EllipticCurvePublicKey):
        return CURVES.get(key.curve.name, ())
    return ("EdDSA",) if isinstance(key, Ed25519PublicKey | Ed448PublicKey) else ()


def configured(settings: Settings) -> Keys | None:
    """The keys that the settings name, or None. Raises InvalidSettings."""
    given = [settings.jwt_secret, settings.jwt_public_key, settings.jwks_url]
    if sum(value is not None for value in given) > 1:
        raise InvalidSettings("expected one of HUB_JWT_SECRET, HUB_JWT_PUBLIC_KEY and HUB_JWKS_URL, got more")
    if settings.jwt_secret is not None:
        secret = settings.jwt_secret.get_secret_value()
        long_enough = [name for name, least in SECRET_LENGTHS.items() if len(secret.encode()) >= least]
        return FixedKey(Key(secret, tuple(long_enough)))
    if settings.jwt_public_key is not None:
        return FixedKey(_from_pem(settings.jwt_public_key))
    if settings.jwks_url is None:
        return None
    headers = {name: value.get_secret_value() for name, value in settings.jwks_headers.items()}
    return JwksKeys(settings.jwks_url, headers)


def _from_pem(value: str) -> Key:
    text = value.encode()
    try:
        if not value.lstrip().startswith("-----BEGIN"):
            text = Path(value).read_bytes()
        key = load_pem_public_key(text)
    except (OSError, ValueError, TypeError) as error:
        raise InvalidSettings(
            f"expected HUB_JWT_PUBLIC_KEY to be a public key in PEM, got {error}"
        ) from error
    if not (algorithms := _algorithms(key)):
        raise InvalidSettings(
            f"expected HUB_JWT_PUBLIC_KEY to be an RSA, EC or Ed25519 key, got {type(key).__name__}"
        )
    return Key(key, algorithms)
