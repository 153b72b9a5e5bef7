"""The hand-over on a real uvicorn: it happens, is refused where necessary, and changes no bytes."""

from __future__ import annotations

import asyncio
import re

import pytest
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware

from hub.transports.fast import SseWire
from hub.transports.fast_websocket import WebSocketWire
from tests.faults.rig.rude import CLOSE, TEXT, frame, request
from tests.support.live import frames, token
from tests.support.viewer import view


async def watch_over_sse(live, job: str) -> bytes:
    """The whole body of a stream with two events, without the values that differ between runs."""
    async with live.sse(job) as viewer:
        await live.until(lambda: live.hub.statistics().viewers == 1)
        await live.publisher.stage_started(job, "code")
        await live.publisher.ready(job)
        await viewer.all()
        return re.sub(rb'\d{13}|retry: \d+|"retry_ms":\d+', b"#", viewer.raw)


async def buffering(request, call_next):
    return await call_next(request)


class Rewriting:
    """A middleware that changes bodies, in the endpoint's own task."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def rewrite(message):
            if message["type"] == "http.response.body":
                message = {**message, "body": bytes(message.get("body", b""))[:] + b""}
                message["body"] = bytearray(message["body"])
            await send(message)

        await self.app(scope, receive, rewrite)


async def test_the_task_ends_and_the_socket_is_ours(start_hub):
    """On both transports the request is freed, and uvicorn still counts the connection."""
    async with start_hub() as live:
        await live.jobs.create_job("a", user_id="ada")
        state = live.server.server_state
        async with live.sse("a"), live.websocket("a"):
            await live.until(lambda: live.hub.statistics().viewers == 2 and not state.tasks)
            assert {type(one) for one in state.connections} == {SseWire, WebSocketWire}
        await live.until(lambda: not state.connections)
        assert live.hub.statistics().viewers == 0


async def test_every_wire_gives_the_same_bytes(start_hub):
    """The fast wire, middlewares that buffer, rewrite or compress, and HTTP/1.0 give the same bytes."""
    bodies = {}
    for name, middleware in {
        "handed over": None,
        "cors": (CORSMiddleware, {"allow_origins": ["*"]}),
        "buffering": (BaseHTTPMiddleware, {"dispatch": buffering}),
        "rewriting": (Rewriting, {}),
        "gzip": (GZipMiddleware, {}),
    }.items():
        async with start_hub(middleware=middleware) as live:
            await live.jobs.create_job(name.replace(" ", "-"), user_id="ada")
            bodies[name] = (await watch_over_sse(live, name.replace(" ", "-"))).replace(
                name.replace(" ", "-").encode(), b"JOB"
            )
    assert len(set(bodies.values())) == 1, bodies


@pytest.mark.parametrize("middleware", [(BaseHTTPMiddleware, {"dispatch": buffering}), (Rewriting, {})])
async def test_a_middleware_in_the_way_keeps_the_socket(start_hub, middleware):
    """The portable wire serves, with a task."""
    async with start_hub(middleware=middleware) as live:
        await live.jobs.create_job("a", user_id="ada")
        async with live.sse("a"):
            await live.until(lambda: live.hub.statistics().viewers == 1)
            await asyncio.sleep(0)
            assert not any(isinstance(one, SseWire) for one in live.server.server_state.connections)
            assert live.server.server_state.tasks


async def test_http_1_0_is_served_by_the_portable_wire(start_hub):
    """The end of the stream is the end of the connection."""
    async with start_hub() as live:
        await live.jobs.create_job("a", user_id="ada")
        await live.publisher.ready("a")
        reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
        writer.write(
            f"GET /api/jobs/a/events/stream HTTP/1.0\r\nAuthorization: Bearer {token()}\r\n\r\n".encode()
        )
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
    assert b'"status":"ready"' in answer
    assert b"event: end" in answer


async def test_a_second_request_behind_a_stream_ends_it(start_hub):
    """The second request could never be answered, so the connection is closed."""
    async with start_hub() as live:
        await live.jobs.create_job("a", user_id="ada")
        async with live.sse("a") as viewer:
            await live.until(lambda: live.hub.statistics().viewers == 1)
            viewer.writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            await live.until(lambda: live.hub.statistics().viewers == 0)


async def test_a_command_on_a_handed_over_socket_is_answered(start_hub):
    """`ping` and `state` are answered between events."""
    async with start_hub() as live:
        await live.jobs.create_job("a", user_id="ada")
        async with live.websocket("a") as socket:
            await live.until(lambda: not live.server.server_state.tasks)
            await socket.send('{"op":"ping","ref":1}')
            await socket.send('{"op":"state","ref":2}')
            await socket.send("nonsense")
            await live.until(lambda: live.hub.statistics().viewers == 1)
            await live.publisher.ready("a")
            seen = await frames(socket)
    assert [one["type"] for one in seen] == ["pong", "state", "error", "build.stage.started", "end"]
    assert (seen[0]["ref"], seen[1]["ref"]) == (1, 2)


@pytest.mark.parametrize("path", ["/api/jobs/a/events/ws", "/api/events/ws"])
async def test_what_a_client_says_together_with_its_handshake_is_heard(start_hub, path):
    """uvicorn drops those bytes.

    RFC 6455 has clients wait for the answer, but not all do, and the hub would wait for a dropped Close.
    """
    async with start_hub() as live:
        await live.jobs.create_job("a", user_id="ada")
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
            writer.write(request(path) + frame(TEXT, b'{"op":"ping","ref":7}'))
            await reader.readuntil(b'{"type":"pong","ref":7}')
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
            writer.write(request(path) + frame(CLOSE, b"\x03\xe8"))
            await reader.read()
            writer.close()
        await live.until(lambda: not live.server.server_state.connections)


async def test_all_requests_of_a_connection_learn_that_the_client_is_gone(start_hub):
    """Of two pipelined requests the portable wire streams the first, and uvicorn tells only the second."""
    async with start_hub() as live:
        await live.jobs.create_job("a", user_id="ada")
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
            writer.write(request("/api/jobs/a/events/stream") * 2)
            await reader.readuntil(b"retry: ")
            writer.transport.abort()
        await live.until(lambda: not live.server.server_state.tasks)
        assert live.hub.statistics().viewers == 0


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
async def test_early_words_are_heard_wherever_the_head_is_cut(start_hub, cut):
    """The end of the head may come in a read of its own."""
    async with start_hub() as live:
        await live.jobs.create_job("a", user_id="ada")
        head = request("/api/jobs/a/events/ws")
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
            writer.write(head[: len(head) - cut])
            await asyncio.sleep(0.05)
            writer.write(head[len(head) - cut :] + frame(TEXT, b'{"op":"ping","ref":7}'))
            await reader.readuntil(b'{"type":"pong","ref":7}')
            writer.close()


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_an_end_that_fills_the_buffer_is_told_all_the_same(start_hub, transport):
    """After a terminal event larger than the write buffer, `end` and an orderly close follow."""
    async with start_hub() as live:
        await live.jobs.create_job("a", user_id="ada")
        async with view(live, transport, "a") as viewer:
            await live.publisher.ready("a", content="x" * 600_000)
            async with asyncio.timeout(5):
                assert [one.name for one in await viewer.all()] == ["build.stage.started", "end"]
        assert viewer.closed == "ended"
