"""A viewer's lines in the log: opened, and closed with the reason, both with the id of its request."""

from __future__ import annotations

import logging

import httpx
import pytest

from hub.engine import journal
from tests.support import producers
from tests.support.live import live_hub, token
from tests.support.sse import SseViewer

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def logger(monkeypatch):
    """A logger of ours: a hub that starts configures its own anew."""
    made = logging.getLogger("tests.viewers")
    made.setLevel(logging.INFO)
    monkeypatch.setattr(journal, "logger", made)
    return made


@pytest.fixture
def records(logger):
    """The lines of viewers."""
    kept: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = kept.append
    logger.addHandler(handler)
    return kept


@pytest.fixture
def lines(records):
    """What they say, as the JSON format has it."""
    return lambda: [record.viewer for record in records]


@pytest.mark.parametrize("wire", ["door", "fast", "portable"])
@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_a_stream_is_opened_and_closed(real_redis, lines, records, wire, transport):
    async with live_hub(real_redis, wire=wire) as live:
        job = await producers.job(live, events=2)
        headers = {"X-Request-Id": "req-7/a"}
        received = 0
        if transport == "sse":
            url = f"{live.url}/api/jobs/{job}/events/stream"
            async with SseViewer(url, token(), headers=headers) as viewer:
                await viewer.next()
                await live.publisher.ready(job)
                await viewer.all()
                received = len(viewer.raw)
        else:
            async with live.websocket(job, more=headers) as viewer:
                await viewer.recv()
                await live.publisher.ready(job)
                with pytest.raises(Exception, match="1000"):
                    while True:
                        received += len(await viewer.recv())
        await live.until(lambda: len(lines()) == 2)
        opened, closed = lines()
        same = {"request_id": "req-7/a", "transport": transport, "job": job, "user": "ada"}
        assert opened == {"event": "opened", **same, "position": opened["position"]}
        assert closed.items() >= {"event": "closed", **same, "reason": "job ended"}.items()
        assert closed["events"] == 4, "two of the past, the terminal one and the end"
        assert 0 <= closed["seconds"] < 20
        if wire == "portable":
            assert closed["bytes"] is None
        else:
            assert closed["bytes"] >= received > 0
        said = [record.getMessage() for record in records]
        assert (
            said[0] == f"viewer req-7/a opened: {transport} of job {job}, user ada, at {opened['position']}"
        )
        assert said[1].startswith(
            f"viewer req-7/a closed: {transport} of job {job}, user ada: job ended, after "
        )


@pytest.mark.parametrize("wire", ["door", "portable"])
@pytest.mark.parametrize(
    ("headers", "request_id"),
    [
        ({"traceparent": TRACE}, "0af7651916cd43dd8448eb211c80319c"),
        ({"traceparent": TRACE, "X-Request-Id": "mine"}, "mine"),
        ({"X-Request-Id": "a b\x01"}, None),
        ({"X-Request-Id": "x" * 129}, None),
        ({"X-Request-Id": "forged\tviewer 1 opened"}, None),
        ({"traceparent": "00-zz-b7ad6b7169203331-01"}, None),
        ({}, None),
    ],
)
async def test_the_id_is_the_requests_or_made(real_redis, lines, wire, headers, request_id):
    """Text that is no id makes no line of its own."""
    async with live_hub(real_redis, wire=wire) as live:
        job = await producers.job(live, events=1)
        async with SseViewer(f"{live.url}/api/jobs/{job}/events/stream", token(), headers=headers) as viewer:
            if viewer.status == 200:
                await viewer.next()
        if viewer.status != 200:
            assert viewer.status == 400, "uvicorn refuses a control character"
            return
        await live.until(lambda: len(lines()) == 2)
        opened, closed = lines()
        assert opened["request_id"] == closed["request_id"]
        assert closed["reason"] == "client left"
        if request_id is not None:
            assert opened["request_id"] == request_id
        else:
            assert len(opened["request_id"]) == 12


async def test_each_job_of_a_dashboard_has_its_lines(real_redis, lines):
    async with live_hub(real_redis) as live:
        jobs = [await producers.job(live, events=1) for _ in range(2)]
        async with live.dashboard() as socket:
            for job in jobs:
                await socket.send(f'{{"op":"subscribe","job":"{job}"}}')
            await live.until(lambda: len(lines()) == 2)
        await live.until(lambda: len(lines()) == 4)
        assert {line["job"] for line in lines()} == set(jobs)
        assert {line["transport"] for line in lines()} == {"dashboard"}


async def test_above_info_there_are_none_and_nothing_is_remembered(real_redis, logger, records):
    logger.setLevel(logging.WARNING)
    async with live_hub(real_redis) as live:
        job = await producers.job(live, events=1)
        async with live.sse(job) as viewer:
            await viewer.next()
            (view,) = live.hub._views
            assert view.note is None
        await live.until(lambda: live.hub.statistics().viewers == 0)
    assert records == []


async def test_a_state_call_is_no_stream(real_redis, lines):
    async with live_hub(real_redis) as live, httpx.AsyncClient() as client:
        job = await producers.job(live, events=1)
        headers = {"Authorization": f"Bearer {token()}"}
        assert (await client.get(f"{live.url}/api/jobs/{job}", headers=headers)).status_code == 200
        assert (await client.get(f"{live.url}/api/jobs/{job}/events", headers=headers)).status_code == 200
    assert lines() == []
