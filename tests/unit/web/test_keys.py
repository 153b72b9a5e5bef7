"""The keys that verify tokens: which algorithms each has, and how a key set is fetched."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import warnings

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from hub.errors import InvalidSettings, KeysUnavailable
from hub.settings import Settings
from hub.web import keys as keys_module
from hub.web.auth import Authenticator, Refused, User
from tests.unit.web.test_auth import KEY, SECRET, Publication, claims, hs, jwk, jwks, now, published, rs

__all__ = ["published"]

PRIVATE = {
    "RS256": KEY,
    "RS512": KEY,
    "PS256": KEY,
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def pem(key) -> str:
    kind = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, kind).decode()


def jwk_of(key, algorithm: str, kid: str | None, **more) -> dict:
    made = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {**made, **({} if kid is None else {"kid": kid}), "use": "sig", **more}


def signed(algorithm: str, kid: str | None = None, **more) -> str:
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode(claims(**more), PRIVATE[algorithm], algorithm, headers=headers)


@pytest.mark.parametrize("algorithm", PRIVATE)
async def test_a_public_key_of_any_kind_verifies_its_own_algorithms(algorithm):
    """And no other's token, whatever its header says."""
    authenticator = Authenticator(Settings(jwt_public_key=pem(PRIVATE[algorithm])))
    for other, key in PRIVATE.items():
        expected = User("ada") if key is PRIVATE[algorithm] else None
        assert await authenticator.verify(signed(other)) == expected, other


@pytest.mark.parametrize("length", [32, 48, 64])
async def test_a_secret_verifies_the_algorithms_that_it_is_long_enough_for(length):
    authenticator = Authenticator(Settings(jwt_secret="s" * length))
    for algorithm, least in (("HS256", 32), ("HS384", 48), ("HS512", 64)):
        with warnings.catch_warnings(action="ignore"):
            token = jwt.encode(claims(), "s" * length, algorithm)
        assert (await authenticator.verify(token) is not None) == (length >= least)


def test_a_key_of_an_odd_kind_keeps_the_process_from_starting():
    from cryptography.hazmat.primitives.asymmetric import x25519

    with pytest.raises(InvalidSettings, match="RSA, EC or Ed25519"):
        Authenticator(Settings(jwt_public_key=pem(x25519.X25519PrivateKey.generate())))


async def test_a_key_set_may_have_several_kinds(published):
    """Those that nobody knows are skipped."""
    published.keys = [{"kty": "future", "kid": "x"}, "text", None, {"kty": "RSA", "kid": "half"}]
    published.keys += [jwk_of(key, name, name) for name, key in PRIVATE.items()]
    authenticator = jwks(published)
    for name in PRIVATE:
        assert await authenticator.verify(signed(name, name)) == User("ada"), name
    assert await authenticator.verify(signed("ES256", "ES384")) is None


async def test_the_algorithm_of_an_entry_is_the_only_one(published):
    published.keys = [jwk(KEY, "one", alg="PS256")]
    authenticator = jwks(published)
    assert await authenticator.verify(signed("PS256", "one")) == User("ada")
    assert await authenticator.verify(signed("RS256", "one")) is None


async def test_one_key_without_an_id_serves_tokens_without_one(published):
    """Of two nobody can say which is meant."""
    published.keys = [jwk_of(PRIVATE["ES256"], "ES256", None), jwk(KEY, "one")]
    authenticator = jwks(published)
    assert await authenticator.verify(signed("ES256")) == User("ada")
    assert await authenticator.verify(signed("ES256", "one")) is None
    published.keys = [jwk_of(PRIVATE["ES256"], "ES256", None), jwk(KEY, None), jwk(KEY, "one")]
    assert await jwks(published).verify(signed("ES256")) is None


async def test_while_no_key_is_known_nobody_is_refused(published):
    """The client comes back: a 404 would be for good."""
    published.answer = b"HTTP/1.1 403 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    authenticator = jwks(published)
    for _ in range(2):
        with pytest.raises(KeysUnavailable):
            await authenticator.verify(rs(_headers={"kid": "one"}))
    assert published.fetches == 1


class Asking(Publication):
    """A publication that remembers the heads of requests."""

    def __init__(self) -> None:
        super().__init__()
        self.heads: list[str] = []

    async def serve(self, reader, writer) -> None:
        self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode().lower())
        body = json.dumps({"keys": self.keys}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        writer.close()


async def served(handle) -> tuple[asyncio.Server, str]:
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys"


async def test_the_fetch_has_our_name_and_the_headers_of_the_settings():
    """A firewall that refuses `Python-urllib` locked everybody out."""
    asking = Asking()
    server, url = await served(asking.serve)
    settings = Settings(jwks_url=url, jwks_headers='{"X-Api-Key": "k", "User-Agent": "mine"}')
    assert "**" in str(settings.jwks_headers)
    assert await Authenticator(settings).verify(rs(_headers={"kid": "one"})) == User("ada")
    assert await Authenticator(Settings(jwks_url=url)).verify(rs(_headers={"kid": "one"})) == User("ada")
    mine, ours = asking.heads
    assert "x-api-key: k" in mine
    assert "user-agent: mine" in mine
    assert "user-agent: push-hub/" in ours
    server.close()


async def test_a_server_that_drips_is_given_up_after_the_deadline(monkeypatch):
    """In all, not per byte: it hung joins for 40 s."""
    monkeypatch.setattr(keys_module, "DEADLINE", 0.3)
    gone = asyncio.Event()

    async def drip(reader, writer) -> None:
        try:
            while True:
                writer.write(b"H")
                await writer.drain()
                await asyncio.sleep(0.02)
        except ConnectionError:
            gone.set()

    server, url = await served(drip)
    began = time.monotonic()
    with pytest.raises(KeysUnavailable):
        await Authenticator(Settings(jwks_url=url)).verify(rs(_headers={"kid": "one"}))
    assert time.monotonic() - began >= 0.3
    await asyncio.wait_for(gone.wait(), 10)  # and nothing of ours holds the connection
    server.close()


@pytest.mark.parametrize("head", [b"Content-Length: 300000000\r\n", b"Connection: close\r\n"])
async def test_a_huge_answer_is_given_up(head):
    """300 MB took 865 MB."""
    sent = 0

    async def pour(reader, writer) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")
        try:
            while sent < 100_000_000:
                writer.write(b"x" * 65_536)
                await writer.drain()
                sent += 65_536
        except ConnectionError:
            pass

    server, url = await served(pour)
    with pytest.raises(KeysUnavailable):
        await Authenticator(Settings(jwks_url=url)).verify(rs(_headers={"kid": "one"}))
    assert sent < 20_000_000
    server.close()


async def test_a_key_that_was_rotated_is_found_by_three_tokens(published):
    """Within the thirty seconds; and a stranger cannot cause more than one fetch so."""
    authenticator = jwks(published)
    assert await authenticator.verify(rs(_headers={"kid": "one"})) == User("ada")
    published.keys = [jwk_of(PRIVATE["ES256"], "ES256", "two")]
    same = signed("ES256", "two", jti="0")
    for token in (same, same, same, signed("ES256", "two", jti="1")):
        assert await authenticator.verify(token) is None
    assert published.fetches == 1
    assert await authenticator.verify(signed("ES256", "two", jti="2")) == User("ada")
    for kid in ("three", "four"):
        for n in range(5):
            assert await authenticator.verify(signed("ES256", kid, jti=str(n))) is None
    assert published.fetches == 2


# --- whose, and why not


async def test_the_users_claim_is_a_setting_and_a_number_is_text():
    authenticator = Authenticator(Settings(jwt_secret=SECRET, user_claim="uid"))
    assert await authenticator.verify(hs(uid=7)) == User("7")
    assert await authenticator.verify(hs(uid="u", sub=None)) == User("u")
    assert await authenticator.verify(hs()) is None
    assert await Authenticator(Settings(jwt_secret=SECRET)).verify(hs(sub=7)) == User("7")


async def test_the_leeway_is_a_setting():
    """A clock that is ten seconds ahead."""
    for leeway, user in ((0, None), (5, None), (30, User("ada"))):
        authenticator = Authenticator(Settings(jwt_secret=SECRET, jwt_leeway=leeway))
        assert await authenticator.verify(hs(iat=now() + 10)) == user
        assert await authenticator.verify(hs(exp=now() - 10)) == user


REASONS = {
    "missing": lambda: "",
    "malformed": lambda: "no.token",
    "algorithm": lambda: rs(),
    "signature": lambda: hs("another secret that is long enough 1"),
    "expired": lambda: hs(exp=now() - 60),
    "early": lambda: hs(nbf=now() + 6000),
    "issuer": lambda: hs(iss="https://other.example"),
    "audience": lambda: hs(iss="i", aud="other"),
    "party": lambda: hs(iss="i", aud="a", azp="other"),
    "claims": lambda: hs(iss="i", aud="a", azp="p", sub=""),
}


@pytest.mark.parametrize("reason", REASONS)
async def test_a_refusal_has_a_reason_for_the_operator(reason, caplog):
    """Counted, and at debug with what the token says of itself; never the token."""
    caplog.set_level(logging.DEBUG, "hub.auth")
    authenticator = Authenticator(
        Settings(jwt_secret=SECRET, jwt_issuer="i", jwt_audience="a", authorized_parties="p")
    )
    token = REASONS[reason]()
    with pytest.raises(Refused) as refused:
        await authenticator.check(token)
    assert refused.value.reason == reason
    assert await authenticator.verify(token) is None
    assert getattr(authenticator.totals, f"auth_refused_{reason}") == 1
    assert f"refused: {reason}" in caplog.text
    assert not token or token not in caplog.text
    if reason == "expired":
        assert "sub 'ada'" in caplog.text


async def test_an_unknown_key_is_a_reason(published):
    authenticator = jwks(published)
    assert await authenticator.verify(rs(_headers={"kid": "other"})) is None
    assert authenticator.totals.auth_refused_key == 1
