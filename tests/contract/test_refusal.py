"""Strangers learn nothing: every refusal is the same, on every endpoint and both transports."""

from __future__ import annotations

import asyncio
import json
import time
from urllib.parse import quote

import httpx
import jwt
import pytest
import pytest_asyncio

from tests.support import producers
from tests.support.live import SECRET, token
from tests.support.quiet import errors
from tests.support.viewer import bearer, with_headers

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = {"detail": "Job not found"}

STREAMS = ["/api/jobs/{job}/events/stream", "/api/jobs/{job}/stream"]
SOCKET = "/api/jobs/{job}/events/ws"
PLAIN = ["/api/jobs/{job}", "/api/jobs/{job}/events"]


def signed(key=SECRET, algorithm="HS256", **claims):
    """Headers with a token that has these claims."""
    return {"Authorization": "Bearer " + jwt.encode(claims, key, algorithm)}


LATER = int(time.time()) + 86_400
NO_CREDENTIALS = {
    "nothing": {},
    "another key": signed("another secret that is long enough too", sub="ada", exp=LATER),
    "another algorithm": signed(SECRET * 2, "HS512", sub="ada", exp=LATER),
    "no algorithm": {"Authorization": f"Bearer {jwt.encode({'sub': 'ada', 'exp': LATER}, '', 'none')}"},
    "expired": signed(sub="ada", exp=int(time.time()) - 60),
    "no expiry": signed(sub="ada"),
    "no user": signed(exp=LATER),
    "empty user": signed(sub="", exp=LATER),
    "not yet": signed(sub="ada", exp=LATER, nbf=LATER - 1),
    "junk": {"Authorization": "Bearer junk"},
    "empty": {"Authorization": "Bearer"},
    "basic": {"Authorization": "Basic YWRhOmFkYQ=="},
    "huge": {"Authorization": "Bearer " + "x" * 9000},
    "two dots": {"Authorization": "Bearer .."},
    "a cookie that is junk": {"Cookie": "__session=junk"},
    "a cookie from another origin": {"Cookie": f"__session={token()}", "Origin": "https://elsewhere.example"},
}

MALFORMED = ["a b", "a\u00e9", "x" * 129, "a\n", "a*", "a{b}", "a\x00b", "job:x:events|", "%25"]


@pytest_asyncio.fixture(loop_scope="module")
async def reasons(live) -> dict[str, tuple[str, dict[str, str]]]:
    """The reasons to refuse a request, each with the job's id and the headers of such a request."""
    mine, theirs = await producers.job(live, events=1), await producers.job(live, events=1, user="bob")
    return {
        "unknown job": ("nothing", bearer()),
        "theirs": (theirs, bearer()),
        **{f"malformed {job!r}": (quote(job), bearer()) for job in MALFORMED},
        **{why: (mine, headers) for why, headers in NO_CREDENTIALS.items()},
    }


def known(headers) -> list[tuple[str, str]]:
    """The headers without the date."""
    return sorted((name.lower(), value) for name, value in dict(headers).items() if name.lower() != "date")


@pytest.mark.parametrize("path", [*STREAMS, *PLAIN])
async def test_every_refusal_over_http_is_the_same_404(live, reasons, path):
    """Unknown, foreign and malformed jobs, no or bad credentials: same status, body and headers."""
    answers = {}
    async with httpx.AsyncClient(base_url=live.url, timeout=10) as http:
        for why, (job, headers) in reasons.items():
            answer = await http.get(path.format(job=job), headers=headers)
            answers[why] = (answer.status_code, answer.content, known(answer.headers))
    expected = answers["unknown job"]
    assert (expected[0], json.loads(expected[1])) == (404, BODY)
    assert {why: answer for why, answer in answers.items() if answer != expected} == {}


async def test_every_refusal_of_a_handshake_is_the_same_404(live, reasons):
    """A denial response has the body of every other refusal."""
    answers = {}
    del reasons["huge"]  # has its own test below
    for why, (job, headers) in reasons.items():
        async with with_headers(live, SOCKET.format(job=job), headers) as refused:
            answers[why] = (refused.status, bytes(refused.body), known(refused.headers))
    expected = answers["unknown job"]
    assert (expected[0], json.loads(expected[1])) == (404, BODY)
    assert {why: answer for why, answer in answers.items() if answer != expected} == {}


async def test_a_handshake_with_a_huge_header_is_answered(start_hub):
    """The handshake is refused or closed, not left without an answer."""
    lines = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    lines += ["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Authorization: Bearer " + "x" * 9000]
    async with start_hub(wire="fast") as live:  # without our protocol class, uvicorn does not answer
        job = await producers.job(live)
        reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
        try:
            writer.write(f"GET {SOCKET.format(job=job)} HTTP/1.1\r\nHost: x\r\n".encode())
            writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
            answer = await asyncio.wait_for(reader.read(100), 3)
        finally:
            writer.transport.abort()  # an open connection would also delay the hub's shutdown
            await live.until(lambda: not live.server.server_state.connections)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")


async def test_both_transports_refuse_in_the_same_words(live):
    """A refused handshake has the body and content type of HTTP."""
    answers = []
    for path in (*STREAMS, SOCKET, *PLAIN):
        async with with_headers(live, path.format(job="nothing"), bearer()) as refused:
            answers.append((refused.status, bytes(refused.body), refused.headers["content-type"]))
    assert len(set(answers)) == 1


@pytest.mark.parametrize(
    "query", ["?limit=x", "?limit=0", "?wait=1", "?last_event_id=1-1", "?from=x&types=,"]
)
async def test_parameters_do_not_tell_a_stranger_that_a_job_exists(live, query):
    """With bad parameters, a foreign job and an unknown one get the same answer."""
    theirs = await producers.job(live, user="bob")
    async with httpx.AsyncClient(base_url=live.url, timeout=10) as http:
        for path in (*STREAMS, *PLAIN):
            answers = [
                await http.get(path.format(job=job) + query, headers=headers)
                for job in (theirs, "nothing")
                for headers in (bearer(), {})
            ]
            assert len({(answer.status_code, answer.content) for answer in answers[:1] + answers[2:3]}) == 1
            assert len({(answer.status_code, answer.content) for answer in answers[1::2]}) == 1
            assert answers[1].status_code == 404


@pytest.mark.parametrize("path", [*STREAMS, SOCKET, *PLAIN])
async def test_a_stranger_is_refused_while_the_owner_watches(live, job, path):
    """A job in memory is refused with the same status and body as an unknown one."""
    async with with_headers(live, f"/api/jobs/{job}/events/stream", bearer()):
        for headers in (bearer("bob"), {}):
            async with with_headers(live, path.format(job=job), headers) as refused:
                assert (refused.status, json.loads(refused.body)) == (404, BODY)


@pytest.mark.parametrize("path", [STREAMS[0], SOCKET])
async def test_a_job_without_an_owner_is_nobodys(live, redis, path):
    """A hash without user_id matches no user, however odd the token's user is."""
    job = producers.name()
    await redis.hset(f"job:{job}", "status", "code")
    async with with_headers(live, path.format(job=job), bearer()) as refused:
        assert refused.status == 404


async def test_the_dashboard_needs_credentials(live):
    """Without credentials the handshake gets the same refusal."""
    async with with_headers(live, "/api/events/ws", {}) as refused:
        assert (refused.status, json.loads(refused.body)) == (404, BODY)


async def test_a_cookie_opens_a_stream_of_the_same_origin(live, job):
    """EventSource sends no Origin to its own site, so none is needed."""
    cookie = {"Cookie": f"__session={token()}"}
    for headers in (cookie, {**cookie, "Origin": live.url}):
        async with with_headers(live, f"/api/jobs/{job}/events/stream", headers) as viewer:
            assert viewer.status == 200


@pytest.mark.parametrize("origin", [None, "null", "https://elsewhere.example", "https://app.example.evil"])
async def test_a_cookie_on_a_websocket_needs_an_origin_on_the_list(start_hub, origin):
    """Any site can open a WebSocket with the browser's cookie, so the origin must be on the list."""
    async with start_hub(allowed_origins="https://app.example") as live:
        job = await producers.job(live)
        headers = {"Cookie": f"__session={token()}"} | ({"Origin": origin} if origin else {})
        async with with_headers(live, SOCKET.format(job=job), headers) as refused:
            assert refused.status == 404
        async with with_headers(
            live, SOCKET.format(job=job), headers | {"Origin": "https://app.example"}
        ) as viewer:
            assert viewer.status == 101


async def test_a_token_in_the_url_is_refused(live, job):
    """A long-lived token would end up in logs and histories."""
    for name in ("token", "access_token", "jwt", "ticket"):
        path = f"/api/jobs/{job}/events/stream?{name}={token()}"
        async with with_headers(live, path, {}) as refused:
            assert refused.status == 404


async def test_a_refusal_leaves_nothing_behind(live):
    """A refused job has no feed, no subscription and no viewer."""
    theirs = await producers.job(live, user="bob")
    for path in (*STREAMS, SOCKET, *PLAIN):
        async with with_headers(live, path.format(job=theirs), bearer()) as refused:
            assert refused.status == 404
    assert theirs not in live.hub.feeds.watched
    assert live.hub.statistics().viewers == 0


async def test_a_refused_handshake_logs_no_error(start_hub, caplog):
    """Otherwise strangers could fill the log with errors."""
    path = SOCKET.format(job="nothing")
    async with (
        start_hub(wire="fast") as live,
        with_headers(live, path, bearer()) as refused,
    ):  # uvicorn alone does
        assert refused.status == 404
    assert [record.getMessage() for record in errors(caplog)] == []
