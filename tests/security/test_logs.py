"""No credential is in a log, at any level, by whatever way it travels."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from hub import JobStateMachine
from tests.live.test_cli import running, signed
from tests.support.live import ADMIN, SECRET, token
from tests.support.sse import SseViewer

QUERY_NAMES = (
    "token",
    "access_token",
    "jwt",
    "ticket",
    "auth",
    "authorization",
    "key",
    "bearer",
    "t",
    "code",
)


@pytest.mark.parametrize(("level", "form"), [("debug", "line"), ("info", "line"), ("debug", "json")])
async def test_a_session_leaves_no_credential_in_the_log(redis_server, real_redis, level, form):
    """Header, cookie, subprotocol, each query name, path, and commands; good ones and bad ones."""
    await JobStateMachine(real_redis).create_job("logged", user_id="ada")
    good, bad = token(), token()[:-4] + "AAAA"
    secrets = {good, bad, ADMIN, SECRET}
    env = {**signed(redis_server.url), "HUB_LOG_LEVEL": level, "HUB_HEARTBEAT": "1", "HUB_LOG_FORMAT": form}
    async with running("serve", "--port", "0", env=env) as command:
        url = (await command.error_line(r"listening on (http://127\.0\.0\.1:\d+)"))[1]
        socket = url.replace("http", "ws") + "/api/jobs/logged/events/ws"
        async with httpx.AsyncClient(base_url=url, timeout=10) as client:
            made = await client.post(
                "/api/jobs/logged/tickets", json={"uses": 9}, headers={"Authorization": f"Bearer {good}"}
            )
            ticket = made.json()["ticket"]
            secrets.add(ticket)
            for secret in secrets:
                for headers in (
                    {"Authorization": f"Bearer {secret}"},
                    {"Authorization": f"Basic {base64.b64encode(secret.encode()).decode()}"},
                    {"Authorization": secret},
                    {"Cookie": f"__session={secret}"},
                    {"Sec-WebSocket-Protocol": f"bearer, {secret.replace(' ', '_')}"},
                    {"X-Api-Key": secret},
                ):
                    await client.get("/api/jobs/logged", headers=headers)
                    await client.get("/metrics", headers=headers)
                for name in QUERY_NAMES:
                    await client.get("/api/jobs/logged", params={name: secret})
                    await client.get(
                        "/api/jobs/logged/events/stream", params={"x": "1", name.upper(): secret}
                    )
                for path in (
                    f"/api/jobs/{secret}",
                    f"/api/jobs/{secret}/events/stream",
                    f"/{secret}",
                    f"/metrics/{secret}",
                ):
                    await client.get(path)
                for name in QUERY_NAMES:
                    await refused(f"{socket}?{name}={secret.replace(' ', '%20')}")
                await refused(socket, additional_headers={"Cookie": f"__session={secret}"})
                await refused(socket, subprotocols=["bearer", secret.replace(" ", "_")])
                async with connect(
                    socket, additional_headers={"Authorization": f"Bearer {good}"}
                ) as open_socket:
                    # A refused token ends the stream: what is said after it may find nobody.
                    with contextlib.suppress(ConnectionClosed):
                        await open_socket.send(f'{{"op":"authenticate","token":"{secret}"}}')
                        await open_socket.recv()
                        await open_socket.send(f'{{"op":"{secret}","token":7}}')
                        await open_socket.send("\x00" + secret)
            async with SseViewer(f"{url}/api/jobs/logged/events/stream?ticket={ticket}", "") as viewer:
                assert viewer.status == 200
            await asyncio.sleep(1.2)  # a heartbeat and a ping
        command.process.terminate()
        await command.wait()
    for secret in secrets:
        for text in {secret, secret.rpartition(".")[2], secret.replace(" ", "_"), secret.replace(" ", "%20")}:
            assert text not in command.errors, next(
                line for line in command.errors.splitlines() if text in line
            )[:300]
    if level == "debug":
        assert "refused:" in command.errors, "the operator learns why"
    if form == "json":
        lines = [line for line in command.errors.splitlines() if not line.startswith("push-hub:")]
        said = [json.loads(line) for line in lines]
        assert {one["level"] for one in said} >= {"debug", "info"}
        assert all({"time", "level", "logger", "message"} <= one.keys() for one in said)


async def refused(url: str, **options) -> None:
    """A handshake that may be refused."""
    try:
        async with connect(url, **options):
            pass
    except (WebSocketException, OSError):
        pass
