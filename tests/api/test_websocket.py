"""The WebSocket endpoints inside one process: httpx-ws on fakeredis, with both dependencies overridden."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import fakeredis
import httpx
import pytest
from fastapi import FastAPI
from httpx_ws import WebSocketDisconnect, WebSocketUpgradeError, aconnect_ws
from httpx_ws.transport import ASGIWebSocketTransport

from hub import JobStateMachine, Publisher, Settings, User, create_app, get_redis, require_auth


@asynccontextmanager
async def connected(path: str, *, user: str = "user-1") -> AsyncIterator[tuple]:
    """A socket of `user` on `path`, and a publisher; there is a job `a` of user-1."""
    redis = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer())
    await JobStateMachine(redis).create_job("a", user_id="user-1")
    app: FastAPI = create_app(Settings())
    app.dependency_overrides[require_auth] = lambda: User(user)
    app.dependency_overrides[get_redis] = lambda: redis
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=ASGIWebSocketTransport(app)) as client,
        aconnect_ws(f"http://hub{path}", client) as socket,
    ):
        yield socket, Publisher(redis, strict=True)


async def test_events_come_with_their_ids_and_then_the_end():
    """An event's id is its first field, `end` is the last frame, and the socket closes with 1000."""
    async with connected("/api/jobs/a/events/ws") as (socket, publisher):
        event_id = await publisher.stage_started("a", "code", "Writing")
        await publisher.ready("a")
        hello, *seen = [await socket.receive_json(timeout=5) for _ in range(4)]
        with pytest.raises(WebSocketDisconnect) as closed:
            await socket.receive_json(timeout=5)
    assert hello["type"] == "hello"
    assert list(seen[0])[0] == "id"
    assert seen[0]["id"] == str(event_id)
    assert [one["type"] for one in seen] == ["build.stage.started", "build.stage.started", "end"]
    assert closed.value.code == 1000


@pytest.mark.parametrize(
    ("path", "user"), [("/api/jobs/nothing/events/ws", "user-1"), ("/api/jobs/a/events/ws", "user-2")]
)
async def test_a_stranger_is_answered_404(path, user):
    """The handshake is denied, in the same way for an unknown job and another user's job."""
    with pytest.raises(BaseException) as refused:
        async with connected(path, user=user):
            pass
    error = refused.value
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    assert isinstance(error, WebSocketUpgradeError)
    assert error.response.status_code == 404


async def test_a_dashboard_names_the_job_in_every_frame():
    """A dashboard's frames name their job, and its answers carry the client's ref."""
    async with connected("/api/events/ws") as (socket, publisher):
        assert (await socket.receive_json(timeout=5))["type"] == "hello"
        await socket.send_json({"op": "subscribe", "job": "a", "ref": 7})
        answer = await socket.receive_json(timeout=5)
        await publisher.stage_started("a", "code")
        event = await socket.receive_json(timeout=5)
    assert (answer["type"], answer["ref"]) == ("subscribed", 7)
    assert answer["job_id"] == event["job_id"] == "a"
