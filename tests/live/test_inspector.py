"""The operator sees who watches, who is behind, and why viewers went."""

from __future__ import annotations

import asyncio
import os
import socket
import sys

import httpx
import pytest

from tests.faults.rig.rude import path_of, request
from tests.support import producers
from tests.support.live import ADMIN, Live, live_hub, operator, token


async def seen(live: Live, path: str = "", **query) -> dict:
    async with httpx.AsyncClient() as client:
        got = await client.get(f"{live.url}/admin/jobs{path}", params=query, headers=operator())
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
            assert found["process"] == os.getpid()
            row = await seen(live, f"/{many}")
            assert (row["window_events"], row["status"], row["user"]) == (3, "queued", "ada")
            assert sorted(one["types"] for one in row["watching"]) == [[], ["step"]]
            assert {one["behind"] for one in row["watching"]} == {0}
            assert {one["user"] for one in row["watching"]} == {"ada"}
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
        assert (await seen(live, f"/{job}"))["gone"] == gone


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
        for path in ("/admin/jobs", "/admin/jobs/a"):
            missing = await client.get("/admin/nothing")
            for headers in ({}, {"Authorization": f"Bearer {token()}"}):
                got = await client.get(path, headers=headers)
                assert (got.status_code, got.text) == (missing.status_code, missing.text)
        got = await client.get("/admin/jobs/nobodys", headers=operator())
        assert got.status_code == 404
        assert (await client.get("/admin/jobs/a%20b", headers=operator())).status_code == 404


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
