"""The operator sees who watches, who is behind, and why viewers went."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from contextlib import AsyncExitStack, suppress

import httpx
import pytest
from playwright.async_api import expect
from redis.asyncio import Redis
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from hub.broker.keys import CONTROL_CHANNEL
from hub.serve.server import listen
from hub.web import inspection_socket
from tests.faults.rig.process import Hub, RedisProcess
from tests.faults.rig.rude import path_of, request
from tests.support import producers
from tests.support.browser import chromium, opened
from tests.support.live import ADMIN, Live, live_hub, operator, token
from tests.support.sse import SseViewer


async def seen(live: Live, path: str = "overview", **query) -> dict:
    async with httpx.AsyncClient() as client:
        got = await client.get(f"{live.url}/admin/api/{path}", params=query, headers=operator())
    assert got.status_code == 200, got.text
    return got.json()


@pytest.mark.parametrize("wire", ["door", "portable"])
async def test_jobs_and_their_viewers_are_seen(real_redis, wire):
    async with live_hub(real_redis, wire=wire) as live:
        many, few = await producers.job(live, events=3), await producers.job(live, events=1)
        async with live.sse(many, "?types=step"), live.websocket(many), live.websocket(few) as one:
            await one.recv()
            await live.until(lambda: live.hub.statistics().viewers == 3)
            found = await seen(live)
            assert [(row["job_id"], row["viewers"]) for row in found["jobs"]] == [(many, 2), (few, 1)]
            (process,) = found["processes"]
            assert (process["pid"], process["host"]) == (os.getpid(), socket.gethostname())
            assert process["totals"]["viewers"] == 3
            assert len(process["timings"]["join sse"]) == len(found["bounds"]) + 1
            assert (sum(process["timings"]["join sse"]), sum(process["timings"]["join websocket"])) == (1, 2)
            one_job = await seen(live, f"jobs/{many}")
            (row,) = one_job["watched"]
            assert (row["window_events"], row["status"], row["user"]) == (3, "queued", "ada")
            watching = one_job["watching"]
            assert sorted(one["types"] for one in watching) == [[], ["step"]]
            assert sorted(one["transport"] for one in watching) == ["sse", "websocket"]
            assert {(one["behind"], one["unsent"], one["user"]) for one in watching} == {(0, 0, "ada")}
            assert all(0 <= one["seconds"] < 60 < one["ends_in"] <= 3600 for one in watching)
            assert len((await seen(live, limit=1))["jobs"]) == 1


@pytest.mark.parametrize("wire", ["door", "portable"])
@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_a_viewer_that_takes_nothing_is_found_with_the_reason(real_redis, wire, transport):
    async with live_hub(real_redis, wire=wire, send_timeout=0.3, heartbeat=0.2) as live:
        job = await producers.job(live, events=1)
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", live.port))
        sock.sendall(request(path_of(job, transport)))
        await live.until(lambda: live.hub.statistics().viewers == 1)
        for n in range(60):
            await live.publisher.emit(job, "step", {"n": n, "x": "x" * 100_000})
        async with asyncio.timeout(15):
            while not (gone := (await seen(live))["gone"]):
                await asyncio.sleep(0.05)
        sock.close()
        assert [(one["job"], one["user"]) for one in gone] == [(job, "ada")]
        assert gone[0]["why"] in ("took no bytes", "too slow, resume")
        assert (await seen(live, f"jobs/{job}"))["gone"] == gone


@pytest.mark.parametrize("way", ["sse", "websocket", "dashboard"])
@pytest.mark.parametrize("wire", ["door", "portable"])
async def test_each_end_has_its_reason(real_redis, wire, way):
    async with live_hub(real_redis, wire=wire) as live:
        over, left = await producers.job(live, events=1), await producers.job(live, events=1)

        async def watch(job: str, leave: bool) -> None:
            if way == "sse":
                async with live.sse(job) as viewer:
                    await viewer.next()
                    if not leave:
                        await live.publisher.ready(job)
                        await viewer.all()
                return
            async with live.websocket(job) if way == "websocket" else live.dashboard() as one:
                await one.recv()
                if way == "dashboard":
                    await one.send(f'{{"op":"subscribe","job":"{job}"}}')
                    while b"subscribed" not in (await one.recv()).encode():
                        pass
                    await one.recv()
                if not leave:
                    await live.publisher.ready(job)
                    while '"end"' not in await one.recv():
                        pass

        await watch(over, leave=False)
        await watch(left, leave=True)
        await live.until(lambda: live.hub.statistics().viewers == 0)
        gone = {one["job"]: one["why"] for one in (await seen(live))["gone"]}
        assert gone == {over: "job ended", left: "client left"}


async def test_reads_leave_no_note(real_redis):
    async with (
        live_hub(real_redis) as live,
        httpx.AsyncClient(headers={"Authorization": f"Bearer {token()}"}) as client,
    ):
        job = await producers.job(live, events=1)
        assert (await client.get(f"{live.url}/api/jobs/{job}")).status_code == 200
        assert (await client.get(f"{live.url}/api/jobs/{job}/events")).status_code == 200
        assert (await seen(live))["gone"] == []


async def test_it_is_the_operators(real_redis):
    async with live_hub(real_redis) as live, httpx.AsyncClient(base_url=live.url) as client:
        missing = await client.get("/admin/nothing")
        for path in ("", "/static/inspector.js", "/api/overview", "/api/jobs/a", "/api/jobs/a/stream"):
            for headers in ({}, {"Authorization": f"Bearer {token()}"}):
                got = await client.get(f"/admin{path}", headers=headers)
                assert (got.status_code, got.text) == (missing.status_code, missing.text)
        for headers in ({}, {"Authorization": f"Bearer {token()}"}):
            got = await client.post("/admin/api/away", headers=headers, json={"job": "a"})
            assert (got.status_code, got.text) == (missing.status_code, missing.text)
        for path in ("jobs/nobodys", "jobs/a%20b", "jobs/nobodys/stream"):
            assert (await client.get(f"/admin/api/{path}", headers=operator())).status_code == 404, path
        for body in ({}, {"job": ""}, {"nothing": 1}):
            got = await client.post("/admin/api/away", headers=operator(), json=body)
            assert got.status_code == 422, body


async def test_every_process_of_every_hub_is_asked(redis_server, real_redis):
    """Each answers for itself; a job that several watch is one row. One that is frozen is missed."""
    hubs = [Hub(redis_server.url, workers=2), Hub(redis_server.url)]
    one = Live(None, real_redis, hubs[0].port, None)
    try:
        job = await producers.job(one, events=1)
        async with AsyncExitStack() as viewers:
            for port in [hubs[0].port] * 8 + [hubs[1].port]:
                viewer = await viewers.enter_async_context(Live(None, real_redis, port, None).websocket(job))
                await viewer.recv()
            found = await seen(one)
            assert found["asked"] == 3
            assert len({process["pid"] for process in found["processes"]}) == 3
            assert sum(process["totals"]["viewers"] for process in found["processes"]) == 9
            (row,) = found["jobs"]
            assert row["viewers"] == 9
            assert row["processes"] in (2, 3)  # the kernel chooses the worker
            assert len((await seen(one, f"jobs/{job}"))["watching"]) == 9
            hubs[1].freeze()
            found = await seen(one)
            assert (found["asked"], len(found["processes"])) == (3, 2)
    finally:
        for hub in hubs:
            hub.close()


async def test_a_hub_answers_for_itself_while_redis_is_away(redis_server, real_redis):
    store = RedisProcess()
    try:
        async with Redis.from_url(store.url) as client, live_hub(client) as live:
            job = await producers.job(live, events=1)
            async with live.websocket(job) as viewer:
                await viewer.recv()
                store.kill()
                await live.until(lambda: not live.hub.ready)
                found = await seen(live)
                assert job in [row["job_id"] for row in found["jobs"]]
                assert (found["asked"], len(found["processes"])) == (1, 1)
                assert any("no subscription connection" in one["said"] for one in found["incidents"])
    finally:
        store.close()


@pytest.mark.parametrize("way", ["sse", "websocket", "dashboard"])
@pytest.mark.parametrize("whose", ["job", "user", "both", "others"])
async def test_viewers_are_sent_away(real_redis, way, whose):
    """And told to come back; those whom it does not concern stay."""
    async with live_hub(real_redis) as live, httpx.AsyncClient(base_url=live.url) as client:
        job = await producers.job(live, events=1)
        body = {"job": {"job": job}, "user": {"user": "ada"}, "both": {"job": job, "user": "ada"}}
        wanted = body.get(whose, {"job": job, "user": "eve"})

        async def send() -> None:
            got = await client.post("/admin/api/away", headers=operator(), json=wanted)
            assert got.status_code == 204

        if way == "sse":
            async with live.sse(job) as viewer:
                await viewer.next()
                await send()
                if whose == "others":
                    await producers.publish(live, job, 1, start=1)
                    while (await viewer.next()).json.get("n") != 1:
                        pass
                    return
                assert (await viewer.all())[-1].event == "reconnect"
            return
        async with live.websocket(job) if way == "websocket" else live.dashboard() as one:
            if way == "dashboard":
                await one.send(f'{{"op":"subscribe","job":"{job}"}}')
            await live.until(lambda: any(a.seats for a in live.hub.feeds.audiences()))
            await send()
            if whose == "others":
                await producers.publish(live, job, 1, start=1)
                while '"n":1' not in (await one.recv()).replace(" ", ""):
                    pass
                return
            said = [frame["type"] async for frame in parsed(one)]
            assert said[-1] == "reconnect"
            assert one.close_code == 1012


async def parsed(socket):
    async with asyncio.timeout(10):
        with suppress(ConnectionClosed):
            while True:
                yield json.loads(await socket.recv())


async def test_the_operator_watches_as_the_owner_would(real_redis):
    async with live_hub(real_redis) as live:
        job = await producers.job(live, events=2)
        async with SseViewer(f"{live.url}/admin/api/jobs/{job}/stream", ADMIN) as viewer:
            await live.until(lambda: any(a.seats for a in live.hub.feeds.audiences()))
            await live.publisher.ready(job)
            seen_events = await viewer.all()
        assert [event.json["n"] for event in seen_events if "n" in event.json] == [0, 1]
        assert seen_events[-1].event == "end"


async def test_what_is_no_question_of_ours_changes_nothing(real_redis):
    """The control channel is anybody's who has the Redis."""
    async with live_hub(real_redis) as live:
        for text in (
            b'{"question":1,"job":null,"limit":5}',
            b'{"question":"a","job":"a b","limit":5}',
            b'{"question":"a","job":null,"limit":-1}',
            b'{"question":"a","job":null,"limit":true}',
            b'{"question":"","job":null,"limit":5}',
            b'{"answer":',
            b'{"answer":"a","process":"x","said":1}',
            b'{"away":{}}',
            b'{"away":{"job":"a b"}}',
            b'{"away":{"job":null,"user":1}}',
            b'{"away":[]}',
            b"[" * 100_000,
        ):
            await real_redis.publish(CONTROL_CHANNEL, text)
        assert (await seen(live))["asked"] == 1


async def test_top_prints_it(real_redis):
    async with live_hub(real_redis) as live:
        job = await producers.job(live, events=2)

        async def run(*args: str) -> tuple[int, str]:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "hub", "top", "--once", "--url", live.url, *args),
                env={**os.environ, "HUB_ADMIN_TOKEN": ADMIN, "COLUMNS": "200"},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            said, _ = await process.communicate()
            return process.returncode, said.decode()

        async with live.websocket(job) as viewer:
            await viewer.recv()
            code, said = await run()
            assert code == 0, said
            assert job in said
            code, said = await run(job)
            assert code == 0, said
            assert "websocket" in said
        await live.until(lambda: live.hub.statistics().viewers == 0)
        assert "client left" in (await run())[1]
        code, said = await run("nobodys")
        assert code == 1
        assert "Traceback" not in said
        code, said = await run("--url", "http://127.0.0.1:9")
        assert code == 1
        assert "expected a hub" in said


async def test_the_page_shows_it_live(redis_server, real_redis):
    """In a real browser, on the admin port of a hub with two processes: a job, its viewers, and why one went."""
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    hub = Hub(redis_server.url, workers=2, admin_port=port, admin_token="")
    live = Live(None, real_redis, hub.port, None)
    try:
        job = await producers.job(live, events=3)
        async with chromium() as browser, live.websocket(job) as stays, live.websocket(job) as goes:
            await stays.recv()
            await goes.recv()
            async with opened(browser, f"http://127.0.0.1:{port}/admin") as page:
                await page.wait_for_selector("body[data-ready=true]")
                await expect(page.locator("#state")).to_contain_text("2 processes")
                await page.get_by_role("button", name=job).click()
                await expect(page.locator("#watching tr")).to_have_count(3)
                assert "websocket" in await page.inner_text("#watching")
                await goes.close()
                await expect(page.locator("#job-gone")).to_contain_text("client left")
                await page.click("#watch")
                await expect(page.locator("#frames")).to_contain_text("step")
                await live.publisher.emit(job, "step", {"n": 77})
                await expect(page.locator("#frames")).to_contain_text("77")
                await page.get_by_role("button", name="Send its viewers away").click()
                said = [frame["type"] async for frame in parsed(stays)]
                assert said[-1] == "reconnect"
    finally:
        hub.close()


async def test_the_figures_come_by_themselves(real_redis):
    """Over a WebSocket: all, and the job that the page shows, at once when it asks and then every second."""
    async with live_hub(real_redis) as live:
        job = await producers.job(live, events=3)
        async with (
            live.websocket(job) as viewer,
            connect(
                f"{live.url.replace('http', 'ws')}/admin/api/live", additional_headers=operator()
            ) as page,
        ):
            await viewer.recv()
            first = json.loads(await page.recv())
            assert (first["job_id"], first["job"]) == (None, None)
            assert first["processes"]
            await page.send(json.dumps({"job": job}))
            found = await _one(page, lambda said: said["job_id"] == job)
            assert [row["user"] for row in found["job"]["watching"]] == ["ada"]
            assert job in [row["job_id"] for row in found["jobs"]]
            await viewer.close()
            found = await _one(page, lambda said: not said["job"]["watching"])
            assert found["job"]["gone"][0]["why"] == "client left"
            await page.send(json.dumps({"job": None}))
            await _one(page, lambda said: said["job_id"] is None)


async def test_a_page_that_asks_waits_for_no_turn_and_one_that_goes_leaves_nothing(real_redis, monkeypatch):
    monkeypatch.setattr(inspection_socket, "EVERY", 600)

    def served() -> int:
        return sum("run_asgi" in repr(task) for task in asyncio.all_tasks())

    async with live_hub(real_redis) as live:
        url = f"{live.url.replace('http', 'ws')}/admin/api/live"
        async with connect(url, additional_headers=operator()) as page:
            await page.recv()
            await page.send('{"job":"a"}')
            await _one(page, lambda said: said["job_id"] == "a")
            assert served() == 1
        await live.until(lambda: not served())


@pytest.mark.parametrize("said", ["", "[]", "{", '{"job":1}', '{"job":"a b"}', "[" * 9000, b"\xff"])
async def test_what_a_page_does_not_say_shows_no_job(real_redis, said):
    async with (
        live_hub(real_redis) as live,
        connect(f"{live.url.replace('http', 'ws')}/admin/api/live", additional_headers=operator()) as page,
    ):
        await page.send(said)
        for _ in range(2):
            assert json.loads(await page.recv())["job_id"] is None


async def test_the_figures_are_the_operators(real_redis):
    """Another's handshake gets what a path gets that does not exist."""
    async with live_hub(real_redis) as live:
        answers = []
        for path in ("nothing", "live"):
            for headers in ({}, {"Authorization": f"Bearer {token()}"}):
                with pytest.raises(InvalidStatus) as refused:
                    await connect(
                        f"{live.url.replace('http', 'ws')}/admin/api/{path}", additional_headers=headers
                    )
                answer = refused.value.response
                answers.append((answer.status_code, answer.body, sorted(answer.headers)))
        assert all(answer == answers[0] for answer in answers)


async def test_a_page_of_another_site_gets_no_figures_and_an_open_one_holds_up_no_exit(redis_server):
    """A browser reaches the admin port of its own machine for any page."""
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    hub = Hub(redis_server.url, admin_port=port, admin_token="")
    try:
        url = f"ws://127.0.0.1:{port}/admin/api/live"
        for origin in ("https://evil.example", "http://127.0.0.1:1", "null"):
            with pytest.raises(InvalidStatus):
                await connect(url, origin=origin)
        with pytest.raises(InvalidStatus):  # a name that was made to point here
            await connect(url, origin="http://evil.example", additional_headers={"Host": "evil.example"})
        async with connect(url, origin=f"http://127.0.0.1:{port}") as page:
            assert json.loads(await page.recv())["processes"]
            hub.terminate()
            with pytest.raises(ConnectionClosed):
                while True:
                    await page.recv()
            assert await hub.wait(10) == 0
    finally:
        hub.close()


async def test_the_page_asks_over_http_where_no_websocket_comes_through(real_redis, redis_server):
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    hub = Hub(redis_server.url, admin_port=port, admin_token="")
    live = Live(None, real_redis, hub.port, None)
    try:
        job = await producers.job(live, events=3)
        async with chromium() as browser, live.websocket(job) as viewer:
            await viewer.recv()
            async with opened(browser, "about:blank") as page:
                await page.add_init_script(
                    "window.WebSocket = class { constructor() { setTimeout(() => this.onclose()); } close() {} }"
                )
                await page.goto(f"http://127.0.0.1:{port}/admin")
                await expect(page.locator("#state")).to_contain_text("live")
                await page.get_by_role("button", name=job).click()
                await expect(page.locator("#watching tr")).to_have_count(2)
                await viewer.close()
                await expect(page.locator("#job-gone")).to_contain_text("client left")
    finally:
        hub.close()


async def _one(page, is_it) -> dict:
    async with asyncio.timeout(10):
        while not is_it(said := json.loads(await page.recv())):
            pass
    return said
