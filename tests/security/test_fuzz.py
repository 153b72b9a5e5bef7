"""Five thousand tokens, heads and frames that nobody would send, on a real process: no 500, no traceback, no growth.

The same ones each time (`derandomize`). PUSH_HUB_FUZZ=20 makes twenty times as many, and others.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterator

import jwt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jwt.utils import base64url_encode

from tests.faults.rig.process import Hub
from tests.support.live import SECRET, token

TIMES = int(os.environ.get("PUSH_HUB_FUZZ", "1"))
MEGABYTE = 1_000_000
STALL = 0.05
"""Most seconds of CPU that the loop may spend on one exchange: it can stand still no longer than that. CPU, because a
busy machine says nothing of the hub."""


def many(number: int):
    """Examples of a strategy, without shrinking or a database: the process remembers nothing between them."""
    return settings(
        max_examples=number * TIMES,
        derandomize=TIMES == 1,
        database=None,
        deadline=None,
        phases=[*settings.get_profile("default").phases][:3],
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def hub(redis_server) -> Iterator[Hub]:
    """A hub in a process of its own, which lived through everything and logged no traceback."""
    process = Hub(redis_server.url, log_level="debug", max_misses=10**7, max_viewers_per_user=10**7)
    process.get("/api/jobs/warm")
    for _ in range(200):
        exchange(process, REQUEST % b"warm")
    before = process.memory
    yield process
    assert process.get("/healthz")[0] == 200
    assert process.memory - before < 20 * MEGABYTE
    log = process.said
    process.close()
    assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:3000]
    assert "Exception in ASGI" not in log


REQUEST = b"GET /api/jobs/%b HTTP/1.1\r\nHost: hub\r\n\r\n"


def exchange(hub: Hub, data: bytes, *, answers: bool = True) -> bytes:
    """Send bytes on a connection of their own, and nothing more; what comes back until the hub closes, or is silent."""
    before = hub.main_thread_seconds
    with socket.create_connection(("127.0.0.1", hub.port), timeout=0.25) as sock:
        got = b""
        try:
            sock.sendall(data)
            if answers:
                sock.shutdown(socket.SHUT_WR)
            while len(got) < 100_000 and (more := sock.recv(65_536)):
                got += more
        except OSError:
            pass  # it reset the connection, or waits for the rest of a head
    assert hub.main_thread_seconds - before < STALL, data[:500]
    return got


def no_failure(answer: bytes) -> None:
    statuses = re.findall(rb"HTTP/1\.1 ([0-9]{3})", answer)
    assert not [status for status in statuses if status.startswith(b"5")], answer[:500]


# --- tokens

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**400), 10**400) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
claims = st.fixed_dictionaries(
    {"sub": json_values | st.just("ada"), "exp": json_values | st.just(int(time.time()) + 9999)},
    optional=dict.fromkeys(("iat", "nbf", "iss", "aud", "azp", "email", "jti"), json_values),
)
heads_of_tokens = st.fixed_dictionaries(
    {
        "alg": st.sampled_from(["HS256", "none", "None", "RS256", "ES256", "hs256", "HS512", "EdDSA", ""])
        | json_values
    },
    optional=dict.fromkeys(
        ("kid", "typ", "crit", "jwk", "jku", "x5u", "x5c", "zip", "b64", "cty"), json_values
    ),
)


def encoded(value: object) -> bytes:
    return base64url_encode(json.dumps(value).encode("utf-8", "replace"))


@st.composite
def tokens(draw) -> bytes:
    """Signed with the right key, or not; whole, or with bytes of it changed."""
    head, body = draw(heads_of_tokens), draw(claims)
    signed = encoded(head) + b"." + encoded(body)
    if draw(st.booleans()):
        signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(
            signed, SECRET.encode()
        )
    else:
        signature = draw(st.binary(max_size=70))
    return draw(mutated(signed + b"." + base64url_encode(signature)))


@st.composite
def mutated(draw, data: bytes) -> bytes:
    """Some bytes changed, cut out, doubled."""
    text = bytearray(data)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(0, len(text) - 1)))
        end = min(len(text), at + draw(st.integers(0, 20)))
        kind = draw(st.sampled_from(["change", "cut", "double", "insert"]))
        if kind == "cut":
            del text[at:end]
        elif kind == "double":
            text[at:at] = text[at:end]
        else:
            text[at : at + (kind == "change")] = draw(st.binary(max_size=5))
    return bytes(text)


@many(1500)
@given(value=tokens(), way=st.sampled_from([b"Authorization: Bearer %b", b"Cookie: __session=%b"]))
def test_tokens(hub, value, way):
    """As a header and as a cookie."""
    head = way % re.sub(rb"[\r\n\0]", b"", value)
    no_failure(exchange(hub, b"GET /api/jobs/x HTTP/1.1\r\nHost: hub\r\n" + head + b"\r\n\r\n"))


# --- heads

templates = st.sampled_from(
    [
        b"GET /api/jobs/x/events/stream?last_event_id=1-2&from=-3&types=a,b&wait=0 HTTP/1.1\r\nHost: hub\r\nLast-Event-ID: 5-6\r\n\r\n",
        b"GET /api/jobs/x/events?after=1-1&limit=5&wait=0&ticket=pht_AAAAAAAAAAAAAAAAAAAAAA HTTP/1.1\r\nHost: hub\r\n\r\n",
        (
            b"POST /api/jobs/x/tickets HTTP/1.1\r\nHost: hub\r\nContent-Type: application/json\r\nContent-Length: 22\r\n\r\n"
            b'{"ttl": 60, "uses": 1}'
        ),
        b"POST /api/jobs/x/tickets HTTP/1.1\r\nHost: hub\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        (
            b"GET /api/jobs/x/events/ws HTTP/1.1\r\nHost: hub\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\nOrigin: http://hub\r\n\r\n"
        ),
        b"GET /metrics HTTP/1.0\r\nAuthorization: Bearer x\r\n\r\nGET /readyz HTTP/1.1\r\nHost: hub\r\n\r\n",
        b"OPTIONS /api/session HTTP/1.1\r\nHost: hub\r\nOrigin: https://a.b\r\nAccess-Control-Request-Method: GET\r\n\r\n",
    ]
)


@many(2000)
@given(data=templates.flatmap(mutated))
def test_heads(hub, data):
    """Requests with bytes changed, cut out, doubled."""
    signed = data.replace(
        b"Host: hub\r\n", b"Host: hub\r\nAuthorization: Bearer " + token().encode() + b"\r\n"
    )
    for one in (data, signed):
        no_failure(exchange(hub, one))


# --- frames

HANDSHAKE = (
    b"GET /api/events/ws HTTP/1.1\r\nHost: hub\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\nAuthorization: Bearer %b\r\n\r\n"
)
commands = st.fixed_dictionaries(
    {
        "op": st.sampled_from(["subscribe", "unsubscribe", "state", "ping", "authenticate", "nothing"])
        | json_values
    },
    optional={name: json_values | st.just("x") for name in ("job", "ref", "after", "from", "types", "token")},
)


def frame(data: bytes, first: int = 0x81) -> bytes:
    """One masked frame, with a mask of zeros."""
    size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
    return bytes([first]) + size + b"\0\0\0\0" + data


@st.composite
def conversations(draw) -> bytes:
    """Some commands, and bytes that are none."""
    parts = []
    for _ in range(draw(st.integers(1, 4))):
        said = json.dumps(draw(commands)).encode("utf-8", "replace")[:60_000]
        first = draw(st.sampled_from([0x81, 0x82, 0x01, 0x80, 0x88, 0x89, 0x8A, 0xC1, 0x91, 0x83]))
        parts.append(frame(said if first < 0x88 else said[:125], first))
    return draw(mutated(b"".join(parts)))


@many(1500)
@given(data=conversations())
def test_frames(hub, data):
    """Together with a handshake that is in order. Who breaks a rule before the answer gets none."""
    answer = exchange(hub, HANDSHAKE % token().encode() + data)
    assert answer.startswith(b"HTTP/1.1 101") or answer == b"", answer[:200]
    assert b"\x03\xf3" not in answer.rpartition(b"\x88")[2][:4], "no socket ends with 1011, an internal error"
