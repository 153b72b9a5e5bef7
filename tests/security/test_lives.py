"""A stream ends when the token that opened it expires."""

from __future__ import annotations

import json
import time

import pytest
import pytest_asyncio

from tests.support import producers
from tests.support.live import live_hub, token
from tests.support.viewer import dashboard, view


@pytest_asyncio.fixture(params=["fast", "portable"])
async def live(real_redis, request, monkeypatch):
    """A hub that looks at its streams every tenth of a second, and whose tokens live for a second."""
    monkeypatch.setattr("tests.support.live.token", lambda user: token(user, exp=time.time() + 1.5))
    async with live_hub(real_redis, wire=request.param, stream_age=10, jwt_leeway=0) as hub:
        yield hub


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_a_stream_ends_with_its_token(live, transport):
    """SSE says `reconnect` at once, for a page may have a newer cookie; a WebSocket is closed with 4401."""
    job = await producers.job(live, events=2)
    async with view(live, transport, job) as viewer:
        seen = await viewer.all()
    if transport == "sse":
        assert (seen[-1].name, seen[-1].fields) == ("reconnect", {"after_ms": 0, "reason": "expired"})
    else:
        assert viewer.code == 4401
    assert producers.numbers([one for one in seen if not one.control]) == [0, 1]


async def test_a_dashboard_ends_with_its_token(live):
    """It subscribes nothing more."""
    job = await producers.job(live, events=1)
    async with dashboard(live) as board:
        await board.say("subscribe", job=job)
        names = [json.loads(seen.text)["type"] for seen in await board.all()]
        assert names[0] == "subscribed"
        assert board.code == 4401
