"""What is remembered of a token's header makes no difference to any verdict, for any token."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hub.settings import Settings
from hub.web.keys import Key
from hub.web.signed import MAX_HEADERS, Verifier

SECRET = "a secret that is long enough for HS256"
KEY = Key(SECRET, ("HS256",))
HEADER = b'{"alg":"HS256","typ":"JWT"}'


def verdict(verifier: Verifier, token: str, key: Key = KEY) -> object:
    """The claims, or why there are none."""
    try:
        return verifier.claims(token, key)
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
        return type(error)


def claims_of(verifier: Verifier, token: str) -> object:
    """The claims, or None: of two things that are wrong with a token, either may be named."""
    found = verdict(verifier, token)
    return found if isinstance(found, dict) else None


def part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(payload: bytes, header: bytes = HEADER, secret: str = SECRET) -> str:
    signed = f"{part(header)}.{part(payload)}"
    return f"{signed}.{part(hmac.new(secret.encode(), signed.encode(), hashlib.sha256).digest())}"


def good(**more: object) -> bytes:
    return json.dumps({"sub": "ada", "exp": int(time.time()) + 600, **more}, separators=(",", ":")).encode()


def warm(options: Settings) -> Verifier:
    """A verifier that has seen a token with the usual header."""
    verifier = Verifier(options)
    named = {"iss": options.jwt_issuer, "aud": options.jwt_audience}
    verifier.claims(token(good(**{name: value for name, value in named.items() if value})), KEY)
    return verifier


NOW = st.integers(-20, 20).map(lambda delta: int(time.time()) + 2 * delta + 1)  # never on the edge
ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just([]) | NOW
CLAIMS = st.fixed_dictionaries(
    {},
    optional={
        "sub": ANYTHING,
        "exp": NOW.map(lambda at: at + 600) | ANYTHING,
        "nbf": NOW | ANYTHING,
        "iat": NOW | ANYTHING,
        "iss": st.sampled_from(["us", "them", ["us"], ""]) | ANYTHING,
        "aud": st.sampled_from(["hub", "other", ["hub"], ["a", "hub"], [1, "hub"], ""]) | ANYTHING,
        "jti": st.text(max_size=3) | ANYTHING,
    },
)
OPTIONS = [
    {},
    {"jwt_issuer": "us"},
    {"jwt_audience": "hub"},
    {"jwt_issuer": "us", "jwt_audience": "hub", "jwt_leeway": 30},
]


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "issuer", "audience", "all"])
@given(claims=CLAIMS)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_claims_have_the_verdict_of_pyjwt(options, claims):
    configured = Settings(jwt_secret=SECRET, **options)
    one = token(json.dumps(claims).encode())
    assert repr(verdict(warm(configured), one)) == repr(verdict(Verifier(configured), one))


@given(
    payload=st.binary(max_size=30)
    | st.recursive(st.just([]), lambda inner: st.lists(inner, max_size=2)).map(
        lambda value: json.dumps(value).encode()
    )
)
@settings(max_examples=300, deadline=None)
def test_any_payload_has_the_verdict_of_pyjwt(payload):
    configured = Settings(jwt_secret=SECRET)
    one = token(payload)
    assert claims_of(warm(configured), one) == claims_of(Verifier(configured), one)


@given(data=st.data())
@settings(max_examples=600, deadline=None)
def test_any_change_of_a_good_token_has_the_verdict_of_pyjwt(data):
    configured = Settings(jwt_secret=SECRET)
    text = token(good())
    at = data.draw(st.integers(0, len(text)))
    kind = data.draw(st.sampled_from(["replace", "insert", "cut", "end"]))
    new = data.draw(st.sampled_from("AQgw9-_=.+/ é\n\0")) if kind != "cut" else ""
    changed = text + new if kind == "end" else text[:at] + new + text[at + (kind != "insert") :]
    assert claims_of(warm(configured), changed) == claims_of(Verifier(configured), changed)


@pytest.mark.parametrize(
    "payload",
    [
        b'{"exp":99999999999,"a":' + b"[" * 65 + b"]" * 65 + b"}",
        b'\xff\xfe{"exp":1}',
        b'{"exp":99999999999,"a":"\0"}',
        '{"exp":99999999999}'.encode("utf-16"),
        '{"exp":99999999999}'.encode("utf-32-le"),
    ],
    ids=["deep", "no UTF-8", "NUL", "UTF-16", "UTF-32"],
)
def test_what_no_parser_should_get_is_refused_with_a_known_header_too(payload):
    assert verdict(warm(Settings(jwt_secret=SECRET)), token(payload)) in (
        jwt.DecodeError,
        ValueError,
        UnicodeDecodeError,
    )


def test_a_known_header_is_good_for_its_key_alone():
    verifier = warm(Settings(jwt_secret=SECRET))
    other = Key("another secret that is long enough", ("HS256",))
    assert verdict(verifier, token(good(), secret=other.value)) is jwt.InvalidSignatureError
    assert verdict(verifier, token(good()), other) is jwt.InvalidSignatureError
    assert verdict(verifier, token(good(sub="bob"), secret=other.value), other)["sub"] == "bob"


def test_a_known_header_does_not_outlive_the_algorithms_of_its_key():
    verifier = warm(Settings(jwt_secret=SECRET))
    assert verdict(verifier, token(good()), Key(SECRET, ("HS512",))) is jwt.InvalidAlgorithmError


@pytest.mark.parametrize("member", ['"crit":["x"]', '"b64":false', '"cty":"JWT"', '"x5u":"http://evil"'])
def test_an_unusual_header_is_judged_each_time(member):
    verifier, header = warm(Settings(jwt_secret=SECRET)), HEADER[:-1] + b"," + member.encode() + b"}"
    first, second = (verdict(verifier, token(good(n=n), header)) for n in range(2))
    fresh = verdict(Verifier(Settings(jwt_secret=SECRET)), token(good(n=1), header))
    assert second == fresh
    assert (first is fresh) or isinstance(first, dict)


def test_headers_that_nobody_meant_do_not_pile_up():
    verifier = warm(Settings(jwt_secret=SECRET))
    for n in range(3 * MAX_HEADERS):
        verifier.claims(token(good(), HEADER[:-1] + b',"kid":"%d"}' % n), KEY)
    assert len(verifier._known) <= MAX_HEADERS


ASYMMETRIC = [
    ("RS256", rsa.generate_private_key(65537, 2048)),
    ("PS384", rsa.generate_private_key(65537, 2048)),
    ("ES256", ec.generate_private_key(ec.SECP256R1())),
    ("EdDSA", ed25519.Ed25519PrivateKey.generate()),
]


@pytest.mark.parametrize(("name", "private"), ASYMMETRIC, ids=[name for name, _ in ASYMMETRIC])
def test_every_kind_of_key_is_known_after_its_first_token(name, private):
    verifier, key = Verifier(Settings(jwt_secret=SECRET)), Key(private.public_key(), (name,))
    for n in range(2):
        one = jwt.encode({"sub": "ada", "n": n, "exp": time.time() + 60}, private, name)
        assert verifier.claims(one, key)["n"] == n
        start, _, signature = one.rpartition(".")
        assert verdict(verifier, f"{start}.{signature[::-1]}", key) in (
            jwt.InvalidSignatureError,
            jwt.DecodeError,
        )
    assert len(verifier._known) == 1
