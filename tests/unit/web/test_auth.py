"""Who the viewer is: every way to be wrong is the same refusal."""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import RSAAlgorithm
from starlette.requests import HTTPConnection

from hub.errors import InvalidSettings, JobNotFound
from hub.settings import Settings
from hub.web import auth as auth_module
from hub.web import keys as keys_module
from hub.web.auth import MAX_TOKEN, Authenticator, User

SECRET = "a secret that is long enough for HS256"
KEY = rsa.generate_private_key(65537, 2048)
OTHER = rsa.generate_private_key(65537, 2048)
PEM = (
    KEY.public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    .decode()
)


def now() -> int:
    """Seconds since 1970. Asked in each test: the suite may take longer than a token lives."""
    return int(time.time())


def claims(**more) -> dict:
    return {"sub": "ada", "exp": now() + 600} | more


def hs(_secret: str = SECRET, _headers: dict | None = None, **more) -> str:
    return jwt.encode(claims(**more), _secret, "HS256", headers=_headers)


def rs(_key=KEY, _headers: dict | None = None, **more) -> str:
    return jwt.encode(claims(**more), _key, "RS256", headers=_headers)


def part(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def signed(header: bytes, payload: bytes, secret: bytes = SECRET.encode()) -> str:
    """A token no library would make, with a good HS256 signature."""
    text = part(header) + b"." + part(payload)
    return (text + b"." + part(hmac.new(secret, text, hashlib.sha256).digest())).decode()


def hs256(**settings) -> Authenticator:
    return Authenticator(Settings(jwt_secret=SECRET, **settings))


def rs256(**settings) -> Authenticator:
    return Authenticator(Settings(jwt_public_key=PEM, **settings))


async def test_a_good_token_is_its_subject():
    """With the e-mail, where it has one."""
    assert await hs256().verify(hs(email="ada@x.org")) == User("ada", "ada@x.org")
    assert await rs256().verify(rs()) == User("ada")
    assert await hs256().verify(hs(email=["x"])) == User("ada")


GOOD_HEADER = b'{"alg":"HS256","typ":"JWT"}'
TOMORROW = b"%d" % (time.time() + 86_400)
GOOD_CLAIMS = b'{"sub":"ada","exp":%b}' % TOMORROW

BAD_HS256: dict[str, Callable[[], str | None]] = {
    "none": lambda: None,
    "empty": lambda: "",
    "text": lambda: "hello",
    "dots": lambda: "..",
    "many dots": lambda: "." * 100,
    "not ascii": lambda: "é.é.é",
    "surrogate": lambda: "\udcff.\udcff.\udcff",
    "nul": lambda: "\0.\0.\0",
    "9 KB": lambda: hs(pad="x" * 9000),
    "alg none": lambda: jwt.encode(claims(), None, "none"),
    "alg none, signed": lambda: signed(b'{"alg":"none"}', GOOD_CLAIMS),
    "alg None": lambda: signed(b'{"alg":"NONE"}', GOOD_CLAIMS),
    "no alg": lambda: signed(b"{}", GOOD_CLAIMS),
    "alg list": lambda: signed(b'{"alg":["HS256"]}', GOOD_CLAIMS),
    "alg object": lambda: signed(b'{"alg":{}}', GOOD_CLAIMS),
    "alg HS512": lambda: jwt.encode(claims(), SECRET * 2, "HS512"),
    "alg RS256": lambda: rs(),
    "header list": lambda: signed(b"[]", GOOD_CLAIMS),
    "header text": lambda: signed(b"x", GOOD_CLAIMS),
    "deep header": lambda: signed(b'{"alg":"HS256","x":' + b"[" * 2000 + b"]" * 2000 + b"}", GOOD_CLAIMS),
    "crit": lambda: signed(b'{"alg":"HS256","crit":["x"],"x":1}', GOOD_CLAIMS),
    "crit empty": lambda: signed(b'{"alg":"HS256","crit":[]}', GOOD_CLAIMS),
    "crit exp": lambda: signed(b'{"alg":"HS256","crit":["exp"]}', GOOD_CLAIMS),
    "kid number": lambda: signed(b'{"alg":"HS256","kid":5}', GOOD_CLAIMS),
    "kid object": lambda: signed(b'{"alg":"HS256","kid":{}}', GOOD_CLAIMS),
    "other secret": lambda: hs("another secret that is long enough 1"),
    "empty secret": lambda: signed(GOOD_HEADER, GOOD_CLAIMS, b""),
    "no signature": lambda: hs().rpartition(".")[0] + ".",
    "cut signature": lambda: hs()[:-4],
    "other claims": lambda: ".".join([hs().split(".")[0], part(GOOD_CLAIMS).decode(), hs().split(".")[2]]),
    "claims list": lambda: signed(GOOD_HEADER, b"[1]"),
    "claims text": lambda: signed(GOOD_HEADER, b"x"),
    "claims not utf8": lambda: signed(GOOD_HEADER, b'{"sub":"\xff","exp":%b}' % TOMORROW),
    "no sub": lambda: signed(GOOD_HEADER, b'{"exp":%b}' % TOMORROW),
    "no exp": lambda: signed(GOOD_HEADER, b'{"sub":"ada"}'),
    "sub null": lambda: signed(GOOD_HEADER, b'{"sub":null,"exp":%b}' % TOMORROW),
    "sub empty": lambda: signed(GOOD_HEADER, b'{"sub":"","exp":%b}' % TOMORROW),
    "sub fraction": lambda: signed(GOOD_HEADER, b'{"sub":5.5,"exp":%b}' % TOMORROW),
    "sub true": lambda: signed(GOOD_HEADER, b'{"sub":true,"exp":%b}' % TOMORROW),
    "sub list": lambda: signed(GOOD_HEADER, b'{"sub":["ada"],"exp":%b}' % TOMORROW),
    "sub object": lambda: signed(GOOD_HEADER, b'{"sub":{},"exp":%b}' % TOMORROW),
    "exp text": lambda: signed(GOOD_HEADER, b'{"sub":"ada","exp":"soon"}'),
    "exp null": lambda: signed(GOOD_HEADER, b'{"sub":"ada","exp":null}'),
    "exp list": lambda: signed(GOOD_HEADER, b'{"sub":"ada","exp":[%b]}' % TOMORROW),
    "exp nan": lambda: signed(GOOD_HEADER, b'{"sub":"ada","exp":NaN}'),
    "exp infinite": lambda: signed(GOOD_HEADER, b'{"sub":"ada","exp":1e400}'),
    "exp -infinite": lambda: signed(GOOD_HEADER, b'{"sub":"ada","exp":-1e400}'),
    "expired": lambda: hs(exp=now() - 60),
    "expired twice": lambda: signed(GOOD_HEADER, b'{"sub":"ada","exp":%b,"exp":1}' % TOMORROW),
    "nbf in future": lambda: hs(nbf=now() + 6000),
    "nbf infinite": lambda: signed(GOOD_HEADER, b'{"sub":"ada","exp":%b,"nbf":1e400}' % TOMORROW),
    "iat infinite": lambda: signed(GOOD_HEADER, b'{"sub":"ada","exp":%b,"iat":1e400}' % TOMORROW),
    "iat text": lambda: signed(GOOD_HEADER, b'{"sub":"ada","exp":%b,"iat":"x"}' % TOMORROW),
    "deep claims": lambda: signed(
        GOOD_HEADER, GOOD_CLAIMS[:-1] + b',"x":' + b"[" * 2000 + b"]" * 2000 + b"}"
    ),
}


@pytest.mark.parametrize("token", BAD_HS256.values(), ids=BAD_HS256.keys())
async def test_a_bad_token_is_nobody(token):
    """None, and never an error."""
    assert await hs256().verify(token()) is None


def arrays(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


async def test_a_token_may_be_nested_as_deep_as_an_event():
    """64 levels in header and claims, the object itself included, and not one more on any Python."""
    header, good = b'{"alg":"HS256","x":', GOOD_CLAIMS[:-1] + b',"x":'
    assert await hs256().verify(signed(header + arrays(63) + b"}", good + arrays(63) + b"}")) == User("ada")
    assert await hs256().verify(signed(header + arrays(64) + b"}", GOOD_CLAIMS)) is None
    assert await hs256().verify(signed(GOOD_HEADER, good + arrays(64) + b"}")) is None


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32-be", "utf-8-sig"])
async def test_brackets_do_not_hide_in_another_encoding(encoding):
    """A parser would find them, after a character that has a quote's byte in it."""
    deep = ('{"\u2222":' + "[" * 600 + "]" * 600 + ',"alg":"HS256"}').encode(encoding)
    assert await hs256().verify(signed(deep, GOOD_CLAIMS)) is None
    assert await hs256().verify(signed(GOOD_HEADER, deep)) is None


async def test_a_subject_is_text_that_can_be_written():
    """A lone surrogate would break whoever writes the name down."""
    user = await hs256().verify(signed(GOOD_HEADER, b'{"sub":"\\ud800","exp":%b}' % TOMORROW))
    assert user is None or user.user_id.encode()


async def test_the_largest_token_fits():
    """The bound is inclusive."""
    pad = "x"
    while len(hs(pad=pad)) < MAX_TOKEN - 3:
        pad += "x" * max(1, (MAX_TOKEN - len(hs(pad=pad))) * 3 // 4 - 2)
    assert await hs256().verify(hs(pad=pad)) == User("ada")


async def test_clocks_may_differ_a_little():
    """Five seconds."""
    assert await hs256().verify(hs(exp=int(time.time()) - 1)) is not None
    assert await hs256().verify(hs(nbf=int(time.time()) + 3)) is not None


JWK = json.loads(RSAAlgorithm.to_jwk(OTHER.public_key()))

BAD_RS256: dict[str, Callable[[], str]] = {
    "the PEM as secret": lambda: signed(GOOD_HEADER, GOOD_CLAIMS, PEM.encode()),
    "the PEM as secret, stripped": lambda: signed(GOOD_HEADER, GOOD_CLAIMS, PEM.strip().encode()),
    "other key": lambda: rs(OTHER),
    "embedded jwk": lambda: rs(OTHER, {"jwk": JWK}),
    "embedded jku": lambda: rs(OTHER, {"jku": "http://127.0.0.1:1/keys"}),
    "embedded x5u": lambda: rs(OTHER, {"x5u": "http://127.0.0.1:1/cert"}),
    "embedded x5c": lambda: rs(OTHER, {"x5c": ["MIIB"]}),
    "kid of a file": lambda: rs(OTHER, {"kid": "../../etc/passwd"}),
    "kid of a query": lambda: rs(OTHER, {"kid": "x' OR 1=1 --"}),
    "alg ES256": lambda: jwt.encode(claims(), ec.generate_private_key(ec.SECP256R1()), "ES256"),
    "alg none": lambda: jwt.encode(claims(), None, "none"),
}


@pytest.mark.parametrize("token", BAD_RS256.values(), ids=BAD_RS256.keys())
async def test_the_key_and_the_algorithm_are_ours_alone(token):
    """Nothing in a token says how it is checked."""
    assert await rs256().verify(token()) is None


async def test_issuer_audience_and_party_must_be_the_configured_ones():
    """Where they are configured."""
    strict = hs256(jwt_issuer="https://i", jwt_audience="hub", authorized_parties="https://a, https://b")
    good = {"iss": "https://i", "aud": "hub", "azp": "https://b"}
    assert await strict.verify(hs(**good)) == User("ada")
    assert await strict.verify(hs(**good | {"aud": ["x", "hub"]})) == User("ada")
    for wrong in (
        {"iss": "https://j"},
        {"aud": "x"},
        {"aud": []},
        {"azp": "https://c"},
        {"azp": ""},
        {"azp": None},
    ):
        assert await strict.verify(hs(**good | wrong)) is None
    for missing in good:
        assert (
            await strict.verify(hs(**{name: value for name, value in good.items() if name != missing}))
            is None
        )
    assert await hs256().verify(hs(**good)) == User("ada")


@pytest.mark.parametrize("azp", [["https://a"], {"a": 1}, 5, True])
async def test_a_party_of_another_kind_is_nobody(azp):
    """None, and never an error."""
    assert await hs256(authorized_parties="https://a").verify(hs(azp=azp)) is None


async def test_without_any_key_nobody_is_anybody():
    """Fail closed."""
    assert await Authenticator(Settings()).verify(hs()) is None
    assert not Settings().authenticates


def test_two_kinds_of_keys_contradict_each_other():
    """Which algorithm would be the one?"""
    with pytest.raises(InvalidSettings):
        Authenticator(Settings(jwt_secret=SECRET, jwt_public_key=PEM))
    with pytest.raises(InvalidSettings):
        Authenticator(Settings(jwt_public_key=PEM, jwks_url="http://127.0.0.1:1"))


async def test_a_public_key_is_text_or_a_files_path(tmp_path):
    """Both the same."""
    path = tmp_path / "key.pem"
    path.write_text(PEM)
    assert await Authenticator(Settings(jwt_public_key=str(path))).verify(rs()) == User("ada")
    assert await Authenticator(Settings(jwt_public_key="\n" + PEM)).verify(rs()) == User("ada")


@pytest.mark.parametrize(
    "value", ["/no/such/file", "", "-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----", "x\0y"]
)
def test_a_bad_public_key_keeps_the_process_from_starting(value):
    """InvalidSettings that names the setting."""
    with pytest.raises(InvalidSettings, match="HUB_JWT_PUBLIC_KEY"):
        Authenticator(Settings(jwt_public_key=value))


# --- where the token is


def connection(kind: str = "http", *, scheme: str = "http", **headers: str) -> HTTPConnection:
    raw = [(b"host", b"hub.example")]
    raw += [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return HTTPConnection({"type": kind, "headers": raw, "scheme": scheme, "path": "/", "query_string": b""})


async def who(authenticator: Authenticator, made: HTTPConnection) -> str | None:
    try:
        return (await authenticator.authenticate(made)).user_id
    except JobNotFound:
        return None


def cookie() -> str:
    return f"__session={hs()}"


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("headers", "user"),
    [
        ({}, None),
        ({"authorization": "Bearer TOKEN"}, "ada"),
        ({"authorization": "bearer TOKEN"}, "ada"),
        ({"authorization": "Bearer  TOKEN "}, "ada"),
        ({"authorization": "Bearer TOKEN", "origin": "https://evil.example"}, "ada"),
        ({"authorization": "Basic TOKEN"}, None),
        ({"authorization": "TOKEN"}, None),
        ({"authorization": "Bearer"}, None),
        ({"authorization": "Bearer "}, None),
        ({"authorization": "Bearer é"}, None),
        ({"cookie": "__session=TOKEN", "origin": "https://app.example"}, "ada"),
        ({"cookie": "__session=TOKEN", "origin": "https://app.example.evil.example"}, None),
        ({"cookie": "__session=TOKEN", "origin": "https://app.example:444"}, None),
        ({"cookie": "__session=TOKEN", "origin": "http://app.example"}, None),
        ({"cookie": "__session=TOKEN", "origin": "https://APP.example/"}, None),
        ({"cookie": "__session=TOKEN", "origin": "null"}, None),
        ({"cookie": "__session=TOKEN", "origin": ""}, None),
        ({"cookie": "__session=TOKEN", "origin": "https://evil.example"}, None),
        ({"cookie": "__session=TOKEN", "origin": "http://[evil"}, None),
        ({"cookie": "__session=TOKEN", "origin": "https://hub.example@evil.example"}, None),
        ({"cookie": "other=TOKEN", "origin": "https://app.example"}, None),
        ({"cookie": "__session=", "origin": "https://app.example"}, None),
        ({"authorization": "Bearer bad", "cookie": "__session=TOKEN", "origin": "https://app.example"}, None),
    ],
    ids=repr,
)
async def test_header_or_cookie_from_a_page_on_the_list(kind, headers, user):
    """The same on both transports; a bad header is not saved by a good cookie. `TOKEN` stands for a good token."""
    token = hs()
    headers = {name: value.replace("TOKEN", token) for name, value in headers.items()}
    assert await who(hs256(allowed_origins="https://app.example"), connection(kind, **headers)) == user


async def test_a_cookie_without_an_origin_is_a_same_origin_get_and_nothing_else():
    """A browser's WebSocket always has an Origin; its same-origin EventSource has none."""
    assert await who(hs256(), connection("http", cookie=cookie())) == "ada"
    assert await who(hs256(), connection("websocket", cookie=cookie())) is None


async def test_a_same_origin_request_may_use_the_cookie():
    """On both transports; scheme, host and port as the browser has them, and as a proxy says."""
    for kind in ("http", "websocket"):
        for origin, more, user in (
            ("http://hub.example", {}, "ada"),
            ("https://hub.example", {}, "ada"),  # a proxy that says nothing may have taken the TLS away
            ("https://hub.example", {"x_forwarded_proto": "https"}, "ada"),
            ("http://hub.example", {"x_forwarded_proto": "https"}, None),
            ("https://hub.example", {"x_forwarded_proto": "http"}, None),
            ("http://hub.example:8000", {}, None),
            ("http://sub.hub.example", {}, None),
        ):
            made = connection(kind, cookie=cookie(), origin=origin, **more)
            assert await who(hs256(), made) == user, (kind, origin, more)
    made = connection("websocket", scheme="wss", cookie=cookie(), origin="http://hub.example")
    assert await who(hs256(), made) is None


@pytest.mark.parametrize(
    ("site", "user"),
    [("same-origin", "ada"), ("none", "ada"), ("same-site", None), ("cross-site", None), ("", None)],
)
async def test_a_sibling_subdomain_cannot_use_the_cookie_by_a_script_tag(site, user):
    """The browser sends the cookie and no Origin; `load` or `error` told whose job it is."""
    assert await who(hs256(), connection("http", cookie=cookie(), sec_fetch_site=site)) == user
    listed = connection("http", cookie=cookie(), sec_fetch_site=site, origin="https://app.example")
    assert await who(hs256(allowed_origins="https://app.example"), listed) == "ada"


async def test_the_cookies_name_is_a_setting():
    """Not every application has `__session`."""
    assert await who(hs256(session_cookie="sid"), connection(cookie=f"sid={hs()}")) == "ada"
    assert await who(hs256(session_cookie="sid"), connection(cookie=cookie())) is None


# --- published keys


def jwk(key: rsa.RSAPrivateKey, kid: str | None, **more) -> dict:
    made = json.loads(RSAAlgorithm.to_jwk(key.public_key()))
    return {**made, **({"kid": kid} if kid else {}), "use": "sig", "alg": "RS256", **more}


class Publication:
    """A server of key sets in this loop: answers when it may, and counts."""

    def __init__(self) -> None:
        self.keys: list[dict] = [jwk(KEY, "one")]
        self.fetches = 0
        self.answer: bytes | None = None  # raw bytes instead of a good answer
        self.may = asyncio.Event()
        self.may.set()
        self.asked = asyncio.Event()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.fetches += 1
            self.asked.set()
            await self.may.wait()
            body = json.dumps({"keys": self.keys}).encode()
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
            writer.write(head % len(body) + body if self.answer is None else self.answer)
            await writer.drain()
        finally:
            writer.close()


@pytest.fixture
async def published() -> AsyncIterator[Publication]:
    made = Publication()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys"
    yield made
    made.may.set()
    server.close()


def jwks(published: Publication) -> Authenticator:
    return Authenticator(Settings(jwks_url=published.url))


async def test_a_published_key_is_found_by_its_id(published):
    """One fetch serves all."""
    authenticator = jwks(published)
    for _ in range(5):
        assert await authenticator.verify(rs(_headers={"kid": "one"})) == User("ada")
    assert published.fetches == 1


async def test_a_storm_of_tokens_is_one_fetch(published):
    """Also while it is under way, and for key ids that strangers make up."""
    authenticator = jwks(published)
    tokens = [rs(_headers={"kid": "one"})] * 20 + [rs(OTHER, {"kid": f"random {n}"}) for n in range(20)]
    users = await asyncio.gather(*(authenticator.verify(token) for token in tokens))
    assert users == [User("ada")] * 20 + [None] * 20
    assert published.fetches == 1


async def test_unknown_ids_fetch_at_most_once_in_a_while(published, monkeypatch):
    """Thirty seconds; then one more."""
    authenticator = jwks(published)
    for n in range(10):
        assert await authenticator.verify(rs(OTHER, {"kid": f"random {n}"})) is None
    assert published.fetches == 1
    monkeypatch.setattr(keys_module, "MIN_REFRESH", -1.0)
    assert await authenticator.verify(rs(OTHER, {"kid": "random"})) is None
    assert published.fetches == 2


async def test_a_new_key_is_fetched_when_it_is_first_used(published, monkeypatch):
    """Rotation: the new one works, the withdrawn one does not."""
    authenticator = jwks(published)
    assert await authenticator.verify(rs(_headers={"kid": "one"})) == User("ada")
    published.keys = [jwk(OTHER, "two")]
    monkeypatch.setattr(keys_module, "MIN_REFRESH", -1.0)
    assert await authenticator.verify(rs(OTHER, {"kid": "two"})) == User("ada")
    assert await authenticator.verify(rs(_headers={"kid": "one"}, jti="another")) is None


async def test_an_old_set_is_refreshed_behind_the_answer(published, monkeypatch):
    """Who has a known key does not wait for the fetch."""
    authenticator = jwks(published)
    assert await authenticator.verify(rs(_headers={"kid": "one"})) == User("ada")
    monkeypatch.setattr(keys_module, "MIN_REFRESH", -1.0)
    monkeypatch.setattr(keys_module, "REFRESH", -1.0)
    published.may.clear()
    published.asked.clear()
    assert await authenticator.verify(rs(_headers={"kid": "one"}, jti="another")) == User("ada")
    await asyncio.wait_for(published.asked.wait(), 10)
    published.may.set()
    await asyncio.wait([authenticator._keys._fetch])
    assert published.fetches == 2


GARBAGE = {
    "closed": b"",
    "not HTTP": b"hello\r\n\r\n",
    "500": b"HTTP/1.1 500 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    "cut": b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{",
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "not JSON": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n<html>",
    "not an object": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n[1]",
    "no keys": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}",
    "keys of text": b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"keys":["x"]}',
    "keys null": b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"keys":[null]}',
    "odd key": b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"keys":[{"kty":5}]}',
    "not UTF-8": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n\xff\xfe\xfd",
}


@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE.keys())
async def test_the_last_good_keys_serve_while_the_publication_is_broken(published, monkeypatch, answer):
    """Whatever it answers: no error, no traceback, and strangers stay strangers."""
    complaints: list[dict] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    authenticator = jwks(published)
    assert await authenticator.verify(rs(_headers={"kid": "one"})) == User("ada")
    published.answer = answer
    monkeypatch.setattr(keys_module, "MIN_REFRESH", -1.0)
    assert await authenticator.verify(rs(OTHER, {"kid": "two"})) is None
    assert published.fetches >= 2
    monkeypatch.setattr(keys_module, "MIN_REFRESH", 30.0)
    assert await authenticator.verify(rs(_headers={"kid": "one"}, jti="another")) == User("ada")
    authenticator._keys._fetch = None
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []


async def test_keys_that_are_not_for_signatures_or_secret_sign_nothing(published):
    """`use: enc`, and a symmetric key that somebody published."""
    secret = {"kty": "oct", "kid": "oct", "k": part(SECRET.encode()).decode(), "alg": "HS256"}
    published.keys = [jwk(KEY, "enc", use="enc"), secret, jwk(KEY, "one")]
    authenticator = jwks(published)
    assert await authenticator.verify(rs(_headers={"kid": "enc"})) is None
    assert await authenticator.verify(hs(_headers={"kid": "oct"})) is None
    assert await authenticator.verify(rs(_headers={"kid": "oct"})) is None
    assert await authenticator.verify(rs()) is None
    assert await authenticator.verify(rs(_headers={"kid": "one"})) == User("ada")


async def test_a_slow_publication_holds_up_nobody_else(published):
    """The loop goes on, and one who stops waiting does not take the fetch along."""
    published.may.clear()
    authenticator = jwks(published)
    impatient = asyncio.create_task(authenticator.verify(rs(_headers={"kid": "one"})))
    patient = asyncio.create_task(authenticator.verify(rs(_headers={"kid": "one"})))
    await published.asked.wait()
    impatient.cancel()
    await asyncio.wait([impatient])
    published.may.set()
    assert await patient == User("ada")
    assert published.fetches == 1


def test_a_token_is_not_remembered_beyond_its_exp():
    """What is remembered is taken at its word for ten seconds at most, so a token that ends before that is not."""
    verified = auth_module._Verified()
    soon, later = "soon", "later"
    verified.put(soon, auth_module.User("ada"), expires=time.time() + 2 * auth_module.VERIFIED - 1)
    verified.put(later, auth_module.User("ada"), expires=time.time() + 2 * auth_module.VERIFIED + 60)
    assert verified.get(soon) is None
    assert verified.get(later) is not None


async def test_a_user_says_when_its_token_was_issued_and_expires():
    """In seconds since 1970."""
    expires = now() + 600
    user = await hs256().verify(hs(iat=1_700_000_000, exp=expires))
    assert (user.issued, user.expires) == (1_700_000_000, expires)


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", ["4000000000", "true", '"1"', "1" * 400, "1e999", "NaN", "[1]", "-1"])
async def test_times_are_numbers_that_a_clock_can_show(name, value):
    """A number of 400 digits was an internal error."""
    times = {"exp": str(now() + 600)} | {name: value}
    payload = "{" + ",".join(['"sub":"ada"', *(f'"{key}":{one}' for key, one in times.items())]) + "}"
    header = b'{"alg":"HS256","typ":"JWT"}'
    assert await hs256().verify(signed(header, payload.encode())) is None


async def test_a_token_may_be_valid_for_as_long_as_is_configured():
    """A year by default."""
    for seconds, is_valid in ((300 * 86400, True), (370 * 86400, False)):
        assert bool(await hs256().verify(hs(exp=now() + seconds))) is is_valid
    assert await hs256(jwt_max_age=400 * 86400.0).verify(hs(exp=now() + 370 * 86400))
