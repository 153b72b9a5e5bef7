"""A uvicorn that is not the one we know costs speed and nothing else."""

from __future__ import annotations

import logging

import pytest
from redis.asyncio import Redis
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from hub.serve import protocols as module
from hub.serve.protocols import UVICORNS_OWN, protocols
from hub.transports.uvicorn_door import DoorHttpProtocol
from hub.transports.uvicorn_websocket import HandoffWebSocketProtocol
from tests.support.live import frames, live_hub


def test_the_installed_uvicorn_is_the_one_we_know(caplog: pytest.LogCaptureFixture) -> None:
    """Or the tested range in pyproject.toml is wrong."""
    with caplog.at_level(logging.WARNING, "hub"):
        assert protocols() == (DoorHttpProtocol, HandoffWebSocketProtocol)
    assert not caplog.records


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (HttpToolsProtocol, "_unset_keepalive_if_required"),
        (RequestResponseCycle, "send"),
        (WebSocketsSansIOProtocol, "send_receive_event_to_app"),
    ],
)
def test_what_uvicorn_lost_is_said_in_one_line(
    kind: type, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And uvicorn's own classes serve."""
    monkeypatch.delattr(kind, name)
    with caplog.at_level(logging.WARNING, "hub"):
        assert protocols() == UVICORNS_OWN
    (record,) = caplog.records
    assert f"{kind.__name__}.{name}" in record.getMessage()


@pytest.mark.parametrize("lists", ["_HTTP_SETS", "_CYCLE_SETS", "_WEBSOCKET_SETS"])
def test_an_attribute_that_uvicorn_no_longer_sets_is_missed(
    lists: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instances have them only once they are made, so the code that makes them is read."""
    monkeypatch.setattr(module, lists, "something_of_tomorrow")
    assert protocols() == UVICORNS_OWN


async def test_an_unknown_uvicorn_serves_both_transports(
    real_redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the server's own configuration. (The contract suite runs on uvicorn's classes over the fake Redis.)"""
    monkeypatch.setattr(module, "_CYCLE_SETS", "something_of_tomorrow")
    async with live_hub(real_redis) as live:
        assert live.server.config.http == UVICORNS_OWN[0]
        await live.jobs.create_job("a", user_id="ada")
        async with live.websocket("a") as socket, live.sse("a") as viewer:
            await live.publisher.ready("a")
            assert [frame["type"] for frame in await frames(socket)] == [
                "build.stage.started",
                "end",
            ]
            assert (await viewer.all())[-1].event == "end"
