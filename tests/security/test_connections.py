"""Connections of strangers: none holds the loop, and none stays without a request."""

from __future__ import annotations

import asyncio
import re

import pytest
import pytest_asyncio

from hub.transports import uvicorn_http
from hub.transports.uvicorn_http import MAX_PIPELINED
from tests.support.live import live_hub

REQUEST = b"GET /api/jobs/x HTTP/1.1\r\nHost: hub\r\n\r\n"


@pytest_asyncio.fixture
async def live(real_redis):
    """A hub on the real Redis, whose sockets are handed over."""
    async with live_hub(real_redis) as hub:
        yield hub


async def test_a_packet_of_pipelined_requests_is_refused(live):
    """14,000 requests without credentials took the loop for four seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
    writer.write(REQUEST * 14_000)
    try:
        answers = await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:  # the hub closed with bytes unread
        answers = b""
    writer.close()
    assert answers.count(b"HTTP/1.1 ") <= MAX_PIPELINED + 2


async def test_a_few_pipelined_requests_are_answered_in_order(live):
    """As RFC 9112, section 9.3.2, demands."""
    reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
    writer.write(REQUEST * MAX_PIPELINED + b"GET /healthz HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n")
    answers = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert re.findall(rb"HTTP/1.1 ([0-9]+)", answers) == [b"404"] * MAX_PIPELINED + [b"200"]


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
    monkeypatch.setattr(uvicorn_http, "HEAD_TIMEOUT", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
    writer.write(head)
    await reader.readuntil(b'{"detail":"Job not found"}')
    writer.write(later)
    assert await asyncio.wait_for(reader.read(), 4.5) == b"", "closed before uvicorn's idle timer"
    writer.close()
