"""Somebody else's FastAPI: prefixes, overrides, users, sessions, test clients."""

from __future__ import annotations

import asyncio
import json
import uuid
from contextlib import asynccontextmanager
from types import SimpleNamespace

import httpx
import pytest
from fastapi import Depends, FastAPI, Request
from redis.asyncio import Redis
from starlette.testclient import TestClient

from hub import JobStateMachine, Publisher, User, get_redis, mount, require_auth
from hub.engine.caller import Caller
from hub.job.cursor import Wish
from hub.serve.server import Server, config, listen
from tests.support.live import settings, token
from tests.support.sse import SseViewer


def headers() -> dict[str, str]:
    return {"Authorization": f"Bearer {token()}"}


@asynccontextmanager
async def served(app: FastAPI, chosen, *, root_path: str = ""):
    """`app` on a real uvicorn; gives its URL."""
    sock = listen("127.0.0.1", 0)
    its_config = config(app, chosen)
    its_config.root_path = root_path
    server = Server(its_config, app.state.push_hub)
    running = asyncio.create_task(server._serve([sock]))
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        await asyncio.wait_for(running, 20)


async def until(condition, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def made(real_redis, job):
    """A job with an event."""
    await JobStateMachine(real_redis).create_job(job, user_id="ada")
    await Publisher(real_redis, strict=True).emit(job, "step", {"n": 0})
    return job


@pytest.mark.parametrize("root_path", ["", "/proxy"])
async def test_the_hub_may_stand_below_a_path(redis_server, made, root_path):
    """Also behind a proxy that takes a prefix away."""
    chosen = settings(redis_url=redis_server.url)
    app = FastAPI()
    mount(app, chosen, path="/push")
    async with served(app, chosen, root_path=root_path) as url:
        stream = SseViewer(f"{url}/push/api/jobs/{made}/events/stream?from=start", token())
        async with stream:
            assert (await stream.next()).data is not None
        async with httpx.AsyncClient(headers=headers()) as client:
            assert (await client.get(f"{url}/push/api/jobs/{made}")).status_code == 200
            assert (await client.get(f"{url}/api/jobs/{made}")).status_code == 404


def with_request(client, url):
    async def override(request: Request) -> Redis:
        assert request.url.path
        return client

    return override


def with_yield(client, url):
    async def override():
        yield client

    return override


def per_request(client, url):
    async def override():
        async with Redis.from_url(url) as made:
            yield made

    return override


@pytest.mark.parametrize("override", [with_request, with_yield, per_request])
async def test_get_redis_may_be_overridden_as_people_do(redis_server, real_redis, made, override):
    """One hub serves them all, on connections of its own; it begins with the first request."""
    chosen = settings(redis_url="redis://127.0.0.1:1/0")
    app = FastAPI()
    context = mount(app, chosen)
    app.dependency_overrides[get_redis] = override(real_redis, redis_server.url)
    async with served(app, chosen) as url:
        streams = [SseViewer(f"{url}/api/jobs/{made}/events/stream?from=start", token()) for _ in range(5)]
        for stream in streams:
            async with stream:
                assert (await stream.next()).data is not None
                await Publisher(real_redis, strict=True).emit(made, "step", {"n": 1})
                assert (await stream.next()).data is not None
        assert len(context.services) == 1
        before = len(await real_redis.client_list())
        async with httpx.AsyncClient(headers=headers()) as client:
            for _ in range(20):
                assert (await client.get(f"{url}/api/jobs/{made}")).status_code == 200
        assert len(await real_redis.client_list()) <= before + 1


@pytest.mark.parametrize("identity", [7, uuid.UUID(int=7)])
async def test_a_user_of_ones_own_may_have_any_id(redis_server, real_redis, job, identity):
    """A row whose id is a number or a UUID is compared as text."""
    await JobStateMachine(real_redis).create_job(job, user_id=str(identity))
    await Publisher(real_redis, strict=True).emit(job, "step")
    chosen = settings(redis_url=redis_server.url)
    app = FastAPI()
    mount(app, chosen)
    app.dependency_overrides[require_auth] = lambda: SimpleNamespace(id=identity)
    async with served(app, chosen) as url:
        stream = SseViewer(f"{url}/api/jobs/{job}/events/stream?from=start", token())
        async with stream:
            assert (await stream.next()).data is not None
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{url}/api/jobs/{job}")).status_code == 200


async def test_a_session_is_not_held_for_the_life_of_a_stream(redis_server, made, transport):
    """A `yield` dependency of `require_auth`, five streams open: no session is, on both wires."""
    from websockets.asyncio.client import connect

    open_sessions: set[object] = set()

    async def session():
        one = object()
        open_sessions.add(one)
        try:
            yield one
        finally:
            open_sessions.discard(one)

    async def auth(_: object = Depends(session)):
        assert open_sessions
        yield User("ada")

    chosen = settings(redis_url=redis_server.url)
    app = FastAPI()
    mount(app, chosen)
    app.dependency_overrides[require_auth] = auth
    for portable in (True, False):
        its_config = config(app, chosen)
        if portable:
            its_config.http, its_config.ws = "httptools", "websockets-sansio"
        sock = listen("127.0.0.1", 0)
        server = Server(its_config, app.state.push_hub)
        running = asyncio.create_task(server._serve([sock]))
        await until(lambda: server.started)  # noqa: B023
        port = sock.getsockname()[1]
        if transport == "sse":
            streams = [
                SseViewer(f"http://127.0.0.1:{port}/api/jobs/{made}/events/stream", token()) for _ in range(5)
            ]
        else:
            streams = [connect(f"ws://127.0.0.1:{port}/api/jobs/{made}/events/ws") for _ in range(5)]
        for stream in streams:
            await stream.__aenter__()
        await until(lambda: not open_sessions)
        for stream in streams:
            await stream.__aexit__(None, None, None)
        server.should_exit = True
        await asyncio.wait_for(running, 20)


async def test_an_applications_exception_handlers_see_the_hubs_refusals(redis_server, made):
    """A 404 in the application's own words."""
    from fastapi import HTTPException
    from fastapi.responses import JSONResponse

    chosen = settings(redis_url=redis_server.url)
    app = FastAPI()
    mount(app, chosen)

    @app.exception_handler(HTTPException)
    async def in_own_words(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"problem": error.detail}, error.status_code)

    async with served(app, chosen) as url, httpx.AsyncClient() as client:
        answer = await client.get(f"{url}/api/jobs/{made}/events/stream")
        assert (answer.status_code, answer.json()) == (404, {"problem": "Job not found"})


def test_a_test_client_may_come_again(redis_server):
    """Each brings a loop of its own; the application and its publishers are the module's."""
    chosen = settings(redis_url=redis_server.url)
    app = FastAPI()
    mount(app, chosen)
    made = uuid.uuid4().hex

    async def make() -> None:
        async with Redis.from_url(redis_server.url) as client:
            await JobStateMachine(client).create_job(made, user_id="ada")

    asyncio.run(make())
    for _ in range(2):
        with TestClient(app, headers=headers()) as client:
            for _ in range(3):
                assert client.get(f"/api/jobs/{made}").status_code == 200


def test_an_asgi_transport_needs_no_lifespan(redis_server):
    """`httpx.ASGITransport` has none; each run is another loop."""
    import gc
    import warnings

    chosen = settings(redis_url=redis_server.url)
    app = FastAPI()
    context = mount(app, chosen)
    made = uuid.uuid4().hex

    async def ask() -> int:
        async with Redis.from_url(redis_server.url) as client:
            if not await client.exists(f"job:{made}"):
                await JobStateMachine(client).create_job(made, user_id="ada")
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://hub", headers=headers()) as client:
            status = (await client.get(f"/api/jobs/{made}")).status_code
        await context.aclose()
        return status

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        assert [asyncio.run(ask()) for _ in range(3)] == [200] * 3
        gc.collect()


async def test_blanks_in_a_list_of_types_are_stripped(start_hub, made, real_redis):
    """`?types=a, step`."""
    async with start_hub() as live:
        stream = live.sse(made, "?from=start&types=a,%20step")
        async with stream:
            assert json.loads((await stream.next()).data)["type"] == "step"


async def test_hashes_with_large_private_fields_cost_what_small_ones_cost(start_hub, real_redis, monkeypatch):
    """A hundred watched jobs with a private field of 1 MB, through two position checks: none of it is ever read."""
    for n in range(100):
        await real_redis.hset(
            f"job:fat-{n}", mapping={"user_id": "ada", "status": "code", "blob": "x" * 1_000_000}
        )
    before = (await real_redis.info("stats"))["total_net_output_bytes"]
    async with start_hub(position_check=0.2) as live:
        views = [await live.hub.view(Caller("ada"), f"fat-{n}", Wish()) for n in range(100)]
        read, checked = live.hub.broker.jobs, 0

        async def count(jobs):
            nonlocal checked
            found = await read(jobs)
            checked += len(jobs)
            return found

        monkeypatch.setattr(live.hub.broker, "jobs", count)
        await live.until(lambda: checked >= 200)
        sent = (await real_redis.info("stats"))["total_net_output_bytes"] - before
        for one in views:
            one.close()
    assert sent < 1_000_000
