"""What an operator tells hubs that run: a level for the log, and to end."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from redis.asyncio import Redis

from hub import JobStateMachine
from tests.live.test_cli import assert_one_clear_line, run, running, served, signed
from tests.live.test_workers import metric, until
from tests.support import producers
from tests.support.live import ADMIN, live_hub, operator, token
from tests.support.sse import SseViewer


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_hub_is_drained_without_a_signal(redis_server, real_redis, workers):
    """All its processes: each viewer is told to come back, and the command ends after the hub."""
    env = {**signed(redis_server.url), "HUB_DRAIN": "1"}
    job = producers.name("drained")
    await JobStateMachine(real_redis).create_job(job, user_id="ada")
    async with running("serve", "--port", "0", "--workers", workers, env=env) as command:
        url = (await command.error_line(r"listening on (http://127\.0\.0\.1:\d+)"))[1]

        async def all_up():
            return await metric(url, "connected") == int(workers)

        await until(all_up)
        stream = f"{url}/api/jobs/{job}/events/stream"
        viewers = [await SseViewer(stream, token()).__aenter__() for _ in range(12)]
        code, out, errors = await run("drain", "--url", url, env=env)
        assert (code, errors) == (0, "")
        assert "over 1 s at most" in out
        assert "It ended after" in out
        for viewer in viewers:
            last = (await viewer.all())[-1]
            assert (last.event, last.json["reason"]) == ("reconnect", "server restarts, resume")
            await viewer.__aexit__(None, None, None)
        code, _ = await command.wait()
        assert code == 0
    assert_one_clear_line(*(await run("drain", "--url", url, env=env))[::2], "expected a hub at")


async def test_who_is_no_operator_drains_nothing(redis_server):
    """The answer is that of a path that does not exist."""
    env = signed(redis_server.url)
    async with served(redis_server.url) as (command, url):
        for wrong in ({"HUB_ADMIN_TOKEN": "another token, of 16 bytes"}, {"HUB_ADMIN_TOKEN": ""}):
            given = {name: value for name, value in {**env, **wrong}.items() if value}
            assert_one_clear_line(*(await run("drain", "--url", url, env=given))[::2], "HUB_ADMIN_TOKEN")
        assert_one_clear_line(*(await run("drain", "--url", "hub:8001", env=env))[::2], "http://host:port")
        assert command.process.returncode is None


async def test_an_application_ends_its_hub_itself(real_redis):
    """A hub that is mounted has no process of its own."""
    async with (
        live_hub(real_redis) as live,
        httpx.AsyncClient(base_url=live.url, headers=operator()) as client,
    ):
        answer = await client.post("/admin/drain")
        assert answer.status_code == 409
        assert "application" in answer.json()["detail"]
        assert not live.hub.draining


async def test_every_hub_logs_at_another_level_for_a_while(redis_server):
    """By the command and over HTTP; a line per request is there at `info`, and gone after the time."""
    env = signed(redis_server.url)
    quiet = {"HUB_LOG_LEVEL": "warning"}
    async with (
        served(redis_server.url, **quiet) as (first, one),
        served(redis_server.url, **quiet) as (second, two),
        httpx.AsyncClient(headers={"Authorization": f"Bearer {ADMIN}"}) as client,
    ):
        for url in (one, two):

            async def up(url=url):
                return (await client.get(f"{url}/readyz")).status_code == 200

            await until(up)
        code, out, errors = await run("log", "info", "--seconds", "2", env=env)
        assert (code, out, errors) == (0, "Every hub logs at info for 2 s.\n", "")
        await asyncio.gather(*(hub.error_line("the log's level is info for 2 s") for hub in (first, second)))
        for url in (one, two):
            async with httpx.AsyncClient() as fresh:  # what was connected before has no line per request
                await fresh.get(f"{url}/healthz")
        for hub in (first, second):
            await hub.error_line("GET /healthz")
            await hub.error_line("the log's level is warning$")
        answer = await client.post(f"{one}/admin/log", json={"level": "debug", "seconds": 60})
        assert answer.status_code == 204
        for hub in (first, second):
            await hub.error_line("the log's level is debug for 60 s")
        for body in ({}, {"level": "loud"}, {"level": "info", "seconds": 0}, {"level": "info", "more": 1}):
            assert (await client.post(f"{one}/admin/log", json=body)).status_code == 422
    assert_one_clear_line(*(await run("log", "loud", env=env))[::2], "debug, info, warning, error")


async def test_what_is_no_message_of_ours_changes_nothing(redis_server):
    """Whoever can publish there: the hub goes on, and hears the next one."""
    async with served(redis_server.url) as (command, url), Redis.from_url(redis_server.url) as client:
        async with httpx.AsyncClient() as plain:

            async def up():
                return (await plain.get(f"{url}/readyz")).status_code == 200

            await until(up)
        for text in (
            b"",
            b"\xff",
            b"[",
            b'{"log":"debug"}',
            b'{"drain":true}',
            b'{"log":"debug","seconds":1e999}',
        ):
            await client.publish("push-hub:control", text)
        await client.publish("push-hub:control", b'{"log":"warning","seconds":30}')
        await command.error_line("the log's level is warning for 30 s")
        assert "level is debug" not in command.errors
