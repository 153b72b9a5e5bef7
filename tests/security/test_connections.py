"""Connections of strangers: none holds the loop, and none stays without a request."""

from __future__ import annotations

import asyncio
import re
import socket

import pytest
import pytest_asyncio

from hub.transports import uvicorn_limits
from hub.transports.uvicorn_limits import MAX_HELD
from tests.support import producers
from tests.support.live import live_hub, token
from tests.support.viewer import view

REQUEST = b"GET /api/jobs/x HTTP/1.1\r\nHost: hub\r\n\r\n"


@pytest_asyncio.fixture
async def live(real_redis):
    """A hub on the real Redis, whose sockets are handed over."""
    async with live_hub(real_redis) as hub:
        yield hub


async def test_pipelined_requests_are_parsed_one_at_a_time(live):
    reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
    writer.write(REQUEST * 300)
    for asked in range(1, 51):
        await reader.readuntil(b"Job not found")
        (protocol,) = live.server.server_state.connections
        assert not protocol.pipeline
        assert live.server.server_state.total_requests <= asked + 1
    writer.transport.abort()
    await live.until(lambda: not live.server.server_state.connections)


async def test_more_than_a_head_behind_a_request_is_not_kept(live):
    """14,000 requests in a packet, without credentials, took the loop for four seconds: one is answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
    writer.write(REQUEST * 14_000)
    try:
        answers = await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:  # the hub closed with bytes unread
        answers = b""
    writer.close()
    assert answers.count(b"HTTP/1.1 ") <= 2
    await live.until(lambda: live.server.server_state.total_requests <= 2)


@pytest.mark.parametrize("bodies", [False, True])
async def test_pipelined_requests_are_answered_in_order(live, bodies):
    """As RFC 9112, section 9.3.2, demands."""
    requests = []
    for n in range(20):
        body = b"12345" if bodies and n % 3 else b""
        requests.append(
            b"GET /%b HTTP/1.1\r\nHost: hub\r\nContent-Length: %d\r\n\r\n"
            % (b"healthz" if n % 2 else b"api/jobs/x", len(body))
            + body
        )
    last = b"GET /healthz HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
    writer.write(b"".join(requests) + last)
    answers = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert re.findall(rb"HTTP/1.1 ([0-9]+)", answers) == [b"404", b"200"] * 10 + [b"200"]


async def test_what_comes_behind_a_stream_is_not_read(live):
    """The portable wire serves such a stream, and the client's bytes wait in the kernel."""
    job = await producers.job(live)
    reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
    head = b"GET /api/jobs/%b/events/stream HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer %b\r\n\r\n"
    writer.write(head % (job.encode(), token().encode()) + b"x")
    await reader.readuntil(b"event: hello")
    (protocol,) = live.server.server_state.connections
    for _ in range(100):
        writer.write(b"x" * 10_000)
    await asyncio.sleep(0.2)
    assert len(protocol._held) <= MAX_HELD
    assert writer.transport.get_write_buffer_size() > 0 or protocol.flow.read_paused
    await live.publisher.emit(job, "step", {"n": 1})
    await reader.readuntil(b'"n":1')
    writer.transport.abort()


@pytest.mark.parametrize(
    ("head", "later"),
    [
        (REQUEST, b"\r\n"),
        (REQUEST, b"G"),
        (b"GET /api/jobs/x HTTP/1.1\r\nHost: hub\r\nContent-Length: 100\r\n\r\n", b"x"),
        (b"GET /api/jobs/x HTTP/1.1\r\nHost: hub\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n"),
    ],
    ids=["a line end", "half a head", "half a body", "half a chunk"],
)
async def test_bytes_after_an_answer_do_not_keep_a_connection(live, monkeypatch, head, later):
    """Each ended uvicorn's timer and began none: 420 such connections used up a hub of 400 files."""
    monkeypatch.setattr(uvicorn_limits, "HEAD_TIMEOUT", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
    writer.write(head)
    await reader.readuntil(b'{"detail":"Job not found"}')
    writer.write(later)
    assert await asyncio.wait_for(reader.read(), 4.5) == b"", "closed before uvicorn's idle timer"
    writer.close()


async def ask(live, request: bytes, *, wait: float = 5) -> bytes:
    """What the hub answers until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
    writer.write(request)
    try:
        return await asyncio.wait_for(reader.read(), wait)
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


HOST = b"Host: hub\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + 2 * HOST + b"\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET /healthz HTTP/0.9\r\n" + HOST + b"\r\n",
        b"GET /healthz HTTP/2.0\r\n" + HOST + b"\r\n",
        b"GET /healthz HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + HOST + b" folded\r\n\r\n",
    ],
)
async def test_what_the_rfc_does_not_allow_is_refused(live, request_):
    """And the connection is closed (RFC 9112, 3.2 and 6.1)."""
    answer = await ask(live, request_)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"connection: close" in answer


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_stream_is_what_the_clients_version_knows(live, version):
    """HTTP/1.0 has no chunks; the close ends it. Whoever asks for a close is told so."""
    job = await producers.job(live, events=2)
    head = b"GET /api/jobs/%b/events/stream HTTP/%b\r\nHost: hub\r\nConnection: close\r\nAuthorization: Bearer %b\r\n\r\n"
    asking = asyncio.create_task(ask(live, head % (job.encode(), version, token().encode())))
    await live.until(lambda: live.hub.statistics().viewers == 1)
    await live.publisher.ready(job)
    answer = await asking
    fields, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in fields
    assert b"keep-alive" not in fields
    assert (b"transfer-encoding: chunked" in fields) is (version == b"1.1")
    assert body.endswith(b"0\r\n\r\n") is (version == b"1.1")
    assert b"event: end" in body
    if version == b"1.0":
        assert body.startswith(b"retry: ")
        assert body.endswith(b"\n\n")


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 65537\r\n\r\n",
        b"Content-Length: " + b"9" * 400 + b"\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n" + b"10000\r\n" + b"x" * 65_536 + b"\r\n1\r\nx\r\n",
    ],
)
async def test_a_body_that_is_too_large_is_refused(live, body):
    """No endpoint takes more than 64 KB."""
    head = b"POST /api/jobs/x/tickets HTTP/1.1\r\n" + HOST + f"Authorization: Bearer {token()}\r\n".encode()
    answer = await ask(live, head + body)
    assert answer.startswith((b"HTTP/1.1 413 ", b"HTTP/1.1 400 "))


async def test_a_body_that_does_not_come_is_not_waited_for(live, monkeypatch):
    """A byte a second does not extend the time."""
    monkeypatch.setattr(uvicorn_limits, "HEAD_TIMEOUT", 0.5)
    reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
    writer.write(b"POST /api/jobs/x/tickets HTTP/1.1\r\n" + HOST + b"Content-Length: 100\r\n\r\n")
    reading = asyncio.create_task(reader.read())
    for _ in range(20):
        writer.write(b"x")
        await asyncio.wait([reading], timeout=0.1)
        if reading.done():
            break
    assert await reading == b""
    writer.close()


async def test_who_takes_nothing_of_a_large_answer_is_cut_off(live, monkeypatch):
    """It would stay in the buffer for ever: a close waits for it."""
    monkeypatch.setattr(uvicorn_limits, "STALLED", 0.3)
    job = await producers.job(live)
    for n in range(20):
        await live.publisher.emit(job, f"t{n}", {"x": "x" * 45_000})
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", live.port))
    _, writer = await asyncio.open_connection(sock=sock, limit=1)
    head = b"GET /api/jobs/%b HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer %b\r\n\r\n"
    before = len(live.server.server_state.connections)
    writer.write(head % (job.encode(), token().encode()))
    await live.until(lambda: len(live.server.server_state.connections) > before)
    await live.until(lambda: len(live.server.server_state.connections) == before, timeout=5)
    writer.transport.abort()


async def test_idle_connections_make_room_for_others(live, monkeypatch):
    """420 of them used up a hub of 400 files. The one that is idle the longest goes; a viewer does not."""
    monkeypatch.setattr(uvicorn_limits, "MOST_WAITING", 5)
    job = await producers.job(live, events=1)
    async with view(live, "sse", job) as viewer:
        await viewer.until("step")
        idle = []
        for _ in range(8):
            idle.append(await asyncio.open_connection("127.0.0.1", live.port))
            await asyncio.sleep(0.02)
        gone = [reader.at_eof() or reader.exception() is not None for reader, _ in idle]
        assert gone == [True] * 3 + [False] * 5
        idle[-1][1].write(REQUEST)
        assert await idle[-1][0].readuntil(b"Job not found")
        await producers.publish(live, job, 1)
        await viewer.until("step")
        for _, writer in idle:
            writer.transport.abort()
    await live.until(lambda: not uvicorn_limits._WAITING)
