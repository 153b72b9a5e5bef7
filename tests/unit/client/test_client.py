"""The Python client against a scripted hub."""

from __future__ import annotations

import json

import pytest
from websockets.asyncio.server import serve

from hub import watch
from hub.client import following as client_module


async def test_the_position_of_a_state_is_the_cursor_of_the_next_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A viewer that was given the state after a gap goes on from there, not from before the gap."""
    monkeypatch.setattr(client_module, "BACKOFF", (0.0, 0.0))
    paths: list[str] = []

    async def hub(socket) -> None:
        paths.append(socket.request.path)
        if len(paths) == 1:
            await socket.send(json.dumps({"id": "7-1", "type": "t"}))
            await socket.send(json.dumps({"type": "gap", "reason": "trimmed"}))
            await socket.send(json.dumps({"type": "state", "position": "7-9"}))
            await socket.close(4010)
            return
        await socket.send(json.dumps({"type": "end", "status": "ready"}))

    async with serve(hub, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        seen = [frame["type"] async for frame in watch(f"http://127.0.0.1:{port}", "a", "token")]
    assert seen == ["t", "gap", "state", "end"]
    assert paths == ["/api/jobs/a/events/ws", "/api/jobs/a/events/ws?last_event_id=7-9"]
