"""The pytest plugin, as an application uses it: on a fake Redis, and with `--push-hub-redis` on a real one."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import FastAPI, HTTPException
from starlette.requests import HTTPConnection

from hub import HubError, User, mount, require_auth
from hub.demo.embedded import EmbeddedServer
from hub.testing.clock import Clock

BOTH = pytest.mark.parametrize("transport", ["sse", "websocket"])


@pytest.fixture(params=["fake", "real"])
def push_hub_redis(request):
    """Both kinds, whatever the option says."""
    return None if request.param == "fake" else request.getfixturevalue("private_redis")


@pytest.fixture(scope="module")
def private_redis():
    with EmbeddedServer() as server:
        yield server


@BOTH
async def test_a_viewer_sees_what_a_worker_publishes(viewer, publisher, job, transport):
    watching = viewer(transport)
    await watching.connected()
    await publisher.stage_started(job, "code", "Writing code")
    seen = await watching.saw("build.stage.started", stage="code")
    assert seen["narration"] == "Writing code"
    await publisher.failed(job, "It broke")
    await watching.ended("failed")
    await watching.saw_exactly(2)
    assert watching.connections == 1


async def test_what_was_not_seen_is_said_with_what_was(viewer, publisher, job):
    watching = viewer()
    await watching.connected()
    await publisher.emit(job, "step", {"n": 1})
    await watching.saw("step", n=1)
    watching._patience = 0.2
    with pytest.raises(AssertionError, match=r"expected step \{'n': 2\}, got \['hello', 'step [0-9-]+'\]"):
        await watching.saw("step", n=2)
    with pytest.raises(AssertionError, match=r"expected the events \[1, 2\]"):
        await watching.saw_exactly(2)
    with pytest.raises(AssertionError, match=r"expected the events \[2\], got \[1\]"):
        await watching.saw_exactly([2])
    with pytest.raises(AssertionError, match="expected the end, 'ready'"):
        await watching.ended()
    await publisher.failed(job)
    with pytest.raises(AssertionError, match="expected the end 'ready', got .*failed"):
        await watching.ended()


@BOTH
async def test_a_cut_is_survived(push_hub, viewer, publisher, job, transport):
    watching = viewer(transport)
    await watching.connected()
    for n in range(3):
        await publisher.emit(job, "step", {"n": n})
        await watching.saw("step", n=n)
        await push_hub.cut()
    await publisher.ready(job)
    await watching.ended()
    await watching.saw_exactly(4)
    assert watching.connections == 4


async def test_a_cut_does_not_wait_for_viewers_that_are_back(push_hub, viewer, job):
    await viewer("sse").connected()
    connections, returned = push_hub._server.server_state.connections, object()
    asyncio.get_running_loop().call_soon(connections.add, returned)
    async with asyncio.timeout(5):
        await push_hub.cut()
    connections.remove(returned)


async def test_a_lost_announcement_is_healed_by_the_next_event_or_by_the_check(
    push_hub, viewer, publisher, job
):
    watching = viewer()
    await watching.connected()
    push_hub.lose(2)
    for n in range(3):
        await publisher.emit(job, "step", {"n": n})
    await watching.saw_exactly(3)
    push_hub.lose()
    await publisher.emit(job, "step", {"n": 3})
    await asyncio.sleep(0.05)
    assert len(watching.events) == 3
    await push_hub.advance(40)
    await watching.saw_exactly(4)


@BOTH
async def test_a_redis_that_is_away_costs_nobody_an_event(push_hub, viewer, publisher, job, transport):
    watching = viewer(transport)
    await watching.connected()
    await publisher.emit(job, "step", {"n": 0})
    async with push_hub.freeze_redis():
        await push_hub.advance(3)
    await push_hub.advance(3)
    await publisher.emit(job, "step", {"n": 1})
    await publisher.ready(job)
    await watching.ended()
    await watching.saw_exactly(3)


@BOTH
async def test_a_deploy_moves_a_viewer(push_hub, viewer, publisher, job, transport):
    watching = viewer(transport)
    await watching.connected()
    await publisher.emit(job, "step", {"n": 0})
    await watching.saw("step")
    await push_hub.drain()
    await publisher.ready(job)
    await watching.ended()
    await watching.saw_exactly(2)
    assert watching.connections >= 2


@BOTH
async def test_an_expired_token_ends_the_stream_and_opens_none(push_hub, viewer, publisher, job, transport):
    token = push_hub.token("ada")
    watching, other = viewer(transport, token=token), viewer(transport)
    await watching.connected()
    await other.connected()
    await push_hub.expire(token)
    await watching.was_refused()
    await publisher.ready(job)
    await other.ended()  # of the same user, with a newer token


async def test_the_hub_has_jobs_of_several_users(push_hub, viewer):
    theirs = await push_hub.create_job(user_id="grace", title="A render")
    watching = viewer(of=theirs, user="grace")
    await watching.connected()
    await viewer(of=theirs).was_refused()
    await push_hub.publisher.ready(theirs)
    await watching.ended()


@BOTH
async def test_heartbeats_take_no_time(push_hub, viewer, transport):
    watching = viewer(transport)
    await watching.connected()
    loop = asyncio.get_running_loop()
    before = loop.time()
    await push_hub.advance(61)
    assert loop.time() - before >= 61
    await watching.saw("heartbeat")
    assert sum(frame["type"] == "heartbeat" for frame in watching.frames) in (3, 4)
    assert watching.connections == 1


class TestInAnApplication:
    """The hub in somebody's FastAPI, with their own authentication, below a path."""

    app = FastAPI()
    mount(app, path="/push")
    sessions = {"a-session": User("ada")}  # noqa: RUF012

    @staticmethod
    def signed_in(connection: HTTPConnection) -> User:
        user = TestInAnApplication.sessions.get(connection.cookies.get("session", ""))
        if user is None:
            raise HTTPException(404, "Job not found")
        return user

    @pytest.fixture
    def push_hub_app(self):
        self.app.dependency_overrides[require_auth] = self.signed_in
        return self.app

    @BOTH
    async def test_their_session_is_what_counts(self, push_hub, viewer, publisher, job, transport):
        cookie = {"Cookie": "session=a-session"}
        watching = viewer(transport, headers=cookie)
        await watching.connected()
        await push_hub.cut()
        await publisher.ready(job)
        await watching.ended()
        await viewer(transport, headers={"Cookie": "session=another"}).was_refused()
        await viewer(transport).was_refused()
        assert push_hub.url.endswith("/push")

    async def test_the_application_is_as_before_after_a_test(self, push_hub):
        assert set(push_hub.app.dependency_overrides) > {require_auth}

    def test_nothing_of_the_kit_is_left(self):
        assert list(self.app.dependency_overrides) in ([], [require_auth])


async def test_a_publisher_without_redis_raises(push_hub, publisher, job):
    async with push_hub.freeze_redis():
        publishing = asyncio.create_task(publisher.emit(job, "step", {}))
        await push_hub.advance(30)
        with pytest.raises(HubError):
            await publishing


def test_the_clock_of_uvloop_cannot_be_moved():
    import uvloop

    loop = uvloop.new_event_loop()
    with pytest.raises(TypeError, match="uvloop"):
        Clock(loop, pause=0)
    loop.close()
