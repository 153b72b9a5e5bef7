"""Heartbeats in virtual time: the tests call the application as a server does, without waiting.

`seen` leaves out the `hello` of each connection.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import fakeredis
import pytest
import pytest_asyncio

from hub import create_app, get_redis
from tests.support import producers
from tests.support.live import settings
from tests.support.sse import Parser
from tests.support.viewer import bearer

pytestmark = pytest.mark.looptime

TICK = 1.0
"""The heartbeat's clock ticks once a second."""


@pytest_asyncio.fixture
async def app():
    """An application on an empty fake Redis, without a lifespan, so that it runs on the test's loop."""
    app = create_app(settings())
    async with fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer()) as client:
        app.dependency_overrides[get_redis] = lambda: client
        app.state.client = client
        yield app
        await app.state.push_hub.aclose()


class Connection:
    """The server's side of one connection: what the application sent and when (loop time)."""

    def __init__(self, app, scope) -> None:
        self.sent: list[tuple[float, dict]] = []
        self._from_client: asyncio.Queue = asyncio.Queue()
        headers = [(name.lower().encode(), value.encode()) for name, value in bearer().items()]
        base = {"asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "query_string": b""}
        base |= {
            "headers": headers,
            "server": ("test", 80),
            "client": ("test", 1),
            "root_path": "",
            "app": app,
        }
        self._run = app(
            {**base, **scope, "raw_path": scope["path"].encode()}, self._from_client.get, self._send
        )

    async def _send(self, message) -> None:
        self.sent.append((asyncio.get_running_loop().time(), message))

    def say(self, message) -> None:
        self._from_client.put_nowait(message)

    @asynccontextmanager
    async def open(self, gone):
        """Run the application until the block ends; then the client leaves."""
        task = asyncio.create_task(self._run)
        while not self.sent:
            await asyncio.sleep(0)
        yield self
        self.say(gone)
        await asyncio.wait_for(task, 60)


@asynccontextmanager
async def sse(app, job):
    """An event stream; yields a function that returns the (time, message) pairs so far."""
    connection = Connection(app, {"type": "http", "method": "GET", "path": f"/api/jobs/{job}/events/stream"})
    connection.say({"type": "http.request", "body": b"", "more_body": False})

    def seen():
        parser = Parser()
        bodies = [(at, message["body"]) for at, message in connection.sent if "body" in message]
        messages = [(at, message) for at, body in bodies for message in parser.feed(body)]
        return [(at, message) for at, message in messages if message.event != "hello"]

    async with connection.open({"type": "http.disconnect"}):
        yield seen


@asynccontextmanager
async def websocket(app, path):
    """A WebSocket; yields a function that returns the (time, frame) pairs so far, and one that sends."""
    extra = {"scheme": "ws", "subprotocols": [], "state": {}, "extensions": {"websocket.http.response": {}}}
    connection = Connection(app, {"type": "websocket", "path": path, **extra})
    connection.say({"type": "websocket.connect"})

    def seen():
        frames = [(at, json.loads(message["text"])) for at, message in connection.sent if message.get("text")]
        return [(at, frame) for at, frame in frames if frame.get("type") != "hello"]

    def say(**command):
        connection.say({"type": "websocket.receive", "text": json.dumps(command)})

    async with connection.open({"type": "websocket.disconnect", "code": 1005}):
        yield seen, say


def gaps(times) -> list[float]:
    """The seconds between consecutive times."""
    return [after - before for before, after in zip(times, times[1:], strict=False)]


def assert_every_15_seconds(times, *, begin, end):
    """Between `begin` and `end` heartbeats are 15 s apart, plus at most a tick."""
    assert all(15 <= gap <= 15 + TICK for gap in gaps([begin, *times])), times
    assert end - times[-1] <= 15 + TICK


async def new_job(app) -> str:
    """A job without events."""
    return await producers.foreign_job(app.state.client)


def now() -> float:
    """Virtual time."""
    return asyncio.get_running_loop().time()


async def test_an_idle_event_stream_gets_a_heartbeat_every_15_seconds(app):
    """In ten minutes of silence `event: heartbeat` with `data: {}` and no id comes every 15 s plus a tick."""
    async with sse(app, await new_job(app)) as seen:
        begin = now()
        await asyncio.sleep(600)
        frames = seen()
        assert {(one.event, one.data, one.own_id) for _, one in frames} == {("heartbeat", "{}", None)}
        assert len(frames) in range(37, 41)
        assert_every_15_seconds([at for at, _ in frames], begin=begin, end=now())


async def test_an_idle_websocket_gets_a_heartbeat_every_15_seconds(app):
    """The frame is `{"type":"heartbeat"}`."""
    async with websocket(app, f"/api/jobs/{await new_job(app)}/events/ws") as (seen, _):
        begin = now()
        await asyncio.sleep(600)
        assert {json.dumps(frame) for _, frame in seen()} == {'{"type": "heartbeat"}'}
        assert_every_15_seconds([at for at, _ in seen()], begin=begin, end=now())


@pytest.mark.parametrize("jobs", [0, 2])
async def test_an_idle_dashboard_gets_one_heartbeat_every_15_seconds(app, jobs):
    """There is one per socket, not one per job, also for a socket without jobs."""
    async with websocket(app, "/api/events/ws") as (seen, say):
        for _ in range(jobs):
            say(op="subscribe", job=await new_job(app))
        await asyncio.sleep(5)
        before, begin = len(seen()), now() - 5
        await asyncio.sleep(595)
        frames = seen()[before:]
        assert {json.dumps(frame) for _, frame in frames} == {'{"type": "heartbeat"}'}
        times = [at for at, _ in frames]
        assert all(15 <= gap <= 15 + TICK for gap in gaps(times))
        assert 15 <= times[0] - begin <= 15 + 5
        assert now() - times[-1] <= 15 + TICK


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_data_resets_the_heartbeat(app, transport):
    """With an event every 10 s there is no heartbeat, until 15 s after the last event."""
    job = await new_job(app)
    opened = sse(app, job) if transport == "sse" else websocket(app, f"/api/jobs/{job}/events/ws")
    async with opened as given:
        seen = given if transport == "sse" else given[0]
        for n in range(60):
            await asyncio.sleep(10)
            await producers.shout(app.state.client, job, {"type": "step", "n": n})
        await asyncio.sleep(1)
        last = now() - 1
        assert len(seen()) == 60
        await asyncio.sleep(20)
        assert len(seen()) == 61
        assert 15 <= seen()[-1][0] - last <= 15 + TICK + 0.1


async def test_data_of_another_job_does_not_reset_the_heartbeat(app):
    """Each stream has its own heartbeat."""
    quiet, loud = await new_job(app), await new_job(app)
    async with sse(app, quiet) as seen, sse(app, loud) as others:
        begin = now()
        for n in range(60):
            await asyncio.sleep(10)
            await producers.shout(app.state.client, loud, {"type": "step", "n": n})
        await asyncio.sleep(0.1)
        assert_every_15_seconds([at for at, _ in seen()], begin=begin, end=now())
        assert "heartbeat" not in {one.event for _, one in others()}


async def test_data_that_a_filter_keeps_back_does_not_reset_the_heartbeat(app):
    """A viewer whose filter stops all events still needs its heartbeats."""
    job = await new_job(app)
    path = f"/api/jobs/{job}/events/stream"
    connection = Connection(
        app, {"type": "http", "method": "GET", "path": path, "query_string": b"types=never"}
    )
    connection.say({"type": "http.request", "body": b"", "more_body": False})
    async with connection.open({"type": "http.disconnect"}):
        for n in range(10):
            await asyncio.sleep(10)
            await producers.shout(app.state.client, job, {"type": "step", "n": n})
        beats = [at for at, message in connection.sent if b"event: heartbeat" in message.get("body", b"")]
    assert len(beats) in (6, 7)


async def test_a_viewer_that_joins_late_waits_no_longer_than_the_others(app):
    """The first heartbeat comes within 15 s and a tick of the viewer's last byte."""
    job = await new_job(app)
    async with sse(app, job):
        for wait in (1, 7, 14, 14.5, 3):
            await asyncio.sleep(wait)
            async with sse(app, job) as late:
                begin = now()
                await asyncio.sleep(15 + TICK)
                assert late(), f"no heartbeat in {now() - begin} s"


async def test_a_heartbeat_does_not_move_the_cursor(app):
    """A viewer that loses its connection after a heartbeat resumes after the last event."""
    job = await new_job(app)
    async with sse(app, job) as seen:
        await producers.shout(app.state.client, job, {"type": "step", "n": 0})
        await asyncio.sleep(40)
        event, *beats = [one for _, one in seen()]
        assert beats
        assert {one.id for one in beats} == {event.own_id}


async def test_a_viewer_that_comes_back_within_linger_keeps_the_feed(app):
    """The linger of the first viewer does not end the stream of the second, half an hour later."""
    job = await new_job(app)
    async with sse(app, job):
        pass
    await asyncio.sleep(3)
    async with sse(app, job) as seen:
        await asyncio.sleep(1800)
        await producers.shout(app.state.client, job, {"type": "step", "n": 1})
        await asyncio.sleep(0.1)
        assert seen()[-1][1].json == {"type": "step", "n": 1}


async def test_a_feed_ends_five_seconds_after_its_last_viewer(app):
    """It stays for the linger, so that a reload is cheap, and ends soon after."""
    job = await new_job(app)
    hub = app.state.push_hub.service(app.state.client).hub
    async with sse(app, job):
        assert hub.statistics().jobs == 1
    await asyncio.sleep(4.5)
    assert hub.statistics().jobs == 1
    await asyncio.sleep(1)
    assert not hub.statistics().jobs


async def test_an_ended_stream_has_no_heartbeats(app):
    """After the end no frame comes, however long the client listens."""
    job = await new_job(app)
    async with sse(app, job) as seen:
        await producers.shout(app.state.client, job, {"type": "x", "status": "ready"})
        await asyncio.sleep(120)
        assert [one.event for _, one in seen()] == ["message", "end"]
