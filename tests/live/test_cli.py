"""The command as users run it: real processes, real sockets, one clear line for an error."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from hub import JobStateMachine, Publisher
from tests.support import producers
from tests.support.live import ADMIN, SECRET, token
from tests.support.sse import SseViewer

ROOT = Path(__file__).parents[2]


def environment(**values: str) -> dict[str, str]:
    """This process's environment, without settings of the hub."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HUB_")}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **values}


def signed(url: str) -> dict[str, str]:
    """An environment with settings that authenticate."""
    return environment(HUB_JWT_SECRET=SECRET, HUB_REDIS_URL=url, HUB_ADMIN_PORT="0", HUB_ADMIN_TOKEN=ADMIN)


class Command:
    """A running `python -m hub ...`; `errors` has what it has written to stderr so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.errors = ""

    async def error_line(self, pattern: str) -> re.Match[str]:
        """Return the first line on stderr that matches."""
        async with asyncio.timeout(20):
            while line := (await self.process.stderr.readline()).decode():
                self.errors += line
                if match := re.search(pattern, line):
                    return match
        raise AssertionError(f"expected {pattern!r}, got {self.errors}")

    async def output_line(self) -> str:
        """Return the next line on stdout."""
        async with asyncio.timeout(20):
            return (await self.process.stdout.readline()).decode().rstrip("\n")

    async def wait(self) -> tuple[int, str]:
        """Return the exit code and the rest of stdout."""
        async with asyncio.timeout(20):
            out, errors = await self.process.communicate()
        self.errors += errors.decode()
        return self.process.returncode, out.decode()


@asynccontextmanager
async def running(*words: str, env: dict[str, str]):
    """Run the command; it is ended in any case."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hub", *words, env=env, cwd=ROOT, stdout=pipe, stderr=pipe
    )
    try:
        yield Command(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def served(redis_url: str, **settings: str):
    """A hub run by `push-hub serve`: yields the command and the hub's URL."""
    async with running("serve", "--port", "0", env={**signed(redis_url), **settings}) as command:
        yield command, (await command.error_line(r"(http://127\.0\.0\.1:\d+)"))[1]


async def run(*words: str, env: dict[str, str]) -> tuple[int, str, str]:
    """Run the command to its end; returns exit code, stdout and stderr."""
    async with running(*words, env=env) as command:
        code, out = await command.wait()
        return code, out, command.errors


def assert_one_clear_line(code: int, errors: str, *words: str) -> None:
    """The command failed, and printed the reason in one line without a traceback."""
    assert code not in (0, None)
    (line,) = errors.strip().splitlines()
    assert line.startswith("push-hub: ")
    assert all(word in line for word in words), line


async def test_serve_refuses_to_start_without_authentication(redis_server):
    """The error names the settings that would authenticate."""
    code, _, errors = await run("serve", "--port", "0", env=environment(HUB_REDIS_URL=redis_server.url))
    assert_one_clear_line(code, errors, "HUB_JWT_SECRET", "HUB_JWT_PUBLIC_KEY", "HUB_JWKS_URL")


async def test_serve_refuses_a_short_secret(redis_server):
    """A secret shorter than the hash is refused, and is not printed."""
    code, _, errors = await run(
        "serve", "--port", "0", env={**signed(redis_server.url), "HUB_JWT_SECRET": "hunter2"}
    )
    assert_one_clear_line(code, errors, "HUB_JWT_SECRET", "32")
    assert "hunter2" not in errors


async def test_serve_says_when_the_port_is_in_use(redis_server):
    """The error names the port."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, _, errors = await run("serve", "--port", port, env=signed(redis_server.url))
    assert_one_clear_line(code, errors, port, "in use")


async def test_serve_waits_for_a_redis_that_is_unreachable_and_says_so():
    """It lives and is not ready; the log has the address of Redis without the password."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{closed.getsockname()[1]}"
        async with running("serve", "--port", "0", env=signed(f"redis://:hunter2@{place}/0")) as command:
            url = (await command.error_line(r"(http://127\.0\.0\.1:\d+)"))[1]
            said = (await command.error_line(r"(.*no subscription connection to Redis.*)"))[1]
            assert place.partition(":")[2] in said
            async with httpx.AsyncClient() as client:
                assert (await client.get(f"{url}/healthz")).status_code == 200
                assert (await client.get(f"{url}/readyz")).status_code == 503
    assert "hunter2" not in command.errors


@pytest.mark.parametrize("url", ["localhost:6379", "redis://127.0.0.1:notaport/0"])
async def test_serve_says_when_the_redis_url_is_none(url):
    """A bad URL gives one line, whatever its text is."""
    code, _, errors = await run("serve", "--port", "0", "--redis-url", url, env=signed("redis://x"))
    assert_one_clear_line(code, errors)


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_serve_cleanly(redis_server, which):
    """Viewers get `reconnect`, there is no traceback, and Redis has nothing left of the process."""
    async with (
        served(redis_server.url, HUB_DRAIN="0.2") as (command, url),
        Publisher.from_url(redis_server.url) as publisher,
    ):
        job = producers.name("cli")
        await JobStateMachine(publisher._clients.get()).create_job(job, user_id="ada")
        async with httpx.AsyncClient(base_url=url, timeout=10) as http:
            headers = {"Authorization": f"Bearer {token()}"}
            async with http.stream("GET", f"/api/jobs/{job}/events/stream", headers=headers) as answer:
                assert answer.status_code == 200
                lines = answer.aiter_lines()
                await anext(lines)
                command.process.send_signal(which)
                rest = [line async for line in lines]
        code, _ = await command.wait()
    assert "event: reconnect" in rest
    assert code in (0, 130, -which)  # uvicorn raises the signal again when it has ended
    assert "Traceback" not in command.errors
    assert "ERROR" not in command.errors


async def test_publish_token_and_watch_work_together(redis_server):
    """`watch --json` shows what `publish` prints, up to the end; the exit code says how the job ended."""
    env = signed(redis_server.url)
    async with served(redis_server.url) as (_, url), Publisher.from_url(redis_server.url) as publisher:
        code, key, _ = await run("token", "--user", "ada", env=env)
        assert code == 0
        for status, expected in (("ready", 0), ("failed", 1)):
            job = producers.name("cli")
            await JobStateMachine(publisher._clients.get()).create_job(job, user_id="ada")
            words = ("watch", job, "--url", url, "--token", key.strip(), "--json")
            async with running(*words, env=env) as watching:
                code, event_id, _ = await run(
                    "publish", job, "build.stage.completed", "stage=code", "duration=1.5", env=env
                )
                assert code == 0
                assert json.loads(await watching.output_line())["type"] == "hello"
                first = json.loads(await watching.output_line())
                assert first == {
                    "id": event_id.strip(),
                    "type": "build.stage.completed",
                    "stage": "code",
                    "duration": 1.5,
                    "job_id": job,
                }
                await run("publish", job, "build.stage.started", f"status={status}", env=env)
                code, out = await watching.wait()
            assert [json.loads(line)["type"] for line in out.splitlines()] == ["build.stage.started", "end"]
            assert code == expected
            assert watching.errors == ""


async def test_revoke_ends_the_streams_of_a_served_hub(redis_server):
    """Of that user, by one command."""
    env = signed(redis_server.url)
    async with Redis.from_url(redis_server.url) as client:
        await JobStateMachine(client).create_job("revoked", user_id="ada")
        async with served(redis_server.url) as (_, url):
            viewer = SseViewer(f"{url}/api/jobs/revoked/events/stream", token())
            async with viewer:
                code, out, _ = await run("revoke", "--user", "ada", env=env)
                assert (code, out) == (
                    0,
                    "Revoked everything for ada: tokens that were issued until now are refused.\n",
                )
                assert (await viewer.all())[-1].json["reason"] == "revoked"
        await client.delete("push-hub:revoked")
    assert_one_clear_line(
        *(await run("revoke", "--user", "ada", "--job", "a b", env=env))[::2], "expected a user's"
    )


async def test_publish_with_a_key_publishes_once(redis_server):
    """The second call prints the first id."""
    env, job = signed(redis_server.url), producers.name("cli")
    first, second = [await run("publish", job, "step", "--once", "k", env=env) for _ in range(2)]
    assert first[0] == second[0] == 0
    assert first[1] == second[1]


@pytest.mark.parametrize(
    "words",
    [
        ("publish", "job", "step", "novalue"),
        ("publish", "job", "build.stage.completed"),
    ],
)
async def test_publish_says_what_is_wrong(redis_server, words):
    """An error is one line, and the exit code is not 0."""
    code, _, errors = await run(*words, env=signed(redis_server.url))
    assert_one_clear_line(code, errors)


async def test_watch_takes_several_jobs_and_says_whose_each_line_is(redis_server):
    """Exit code 1 if any of them failed; a status of one's own is as good as ready."""
    env = signed(redis_server.url)
    async with (
        served(redis_server.url, HUB_TERMINAL_STATUSES="ready,done") as (_, url),
        Redis.from_url(redis_server.url) as client,
    ):
        names = [producers.name("several") for _ in range(3)]
        for name, status in zip(names, ("ready", "done", "failed"), strict=True):
            await client.hset(f"job:{name}", mapping={"user_id": "ada", "status": status})
        for chosen, expected in ((names[:2], 0), (names, 1)):
            code, out, _ = await run("watch", *chosen, "--url", url, "--token", token(), "--json", env=env)
            assert code == expected
            ends = [json.loads(line) for line in out.splitlines() if json.loads(line)["type"] == "end"]
            assert {one["job_id"] for one in ends} == set(chosen)
        code, out, _ = await run(
            "watch", names[0], "--url", url, "--cookie", f"__session={token()}", "--types", "nothing", env=env
        )
        assert code == 0, "a client that is no browser may send the cookie"


async def test_watch_says_that_no_token_was_given(redis_server):
    env = signed(redis_server.url)
    async with served(redis_server.url) as (_, url):
        code, _, errors = await run("watch", "nothing", "--url", url, env=env)
        assert_one_clear_line(code, errors, "no token was given")
        code, _, errors = await run("watch", "nothing", "--url", "hub.example.com", env=env)
        assert_one_clear_line(code, errors, "http://")


async def test_watch_says_that_a_job_is_not_there(redis_server):
    """An unknown or foreign job gives one line, and the exit code is not 0."""
    async with served(redis_server.url) as (_, url):
        code, _, errors = await run("watch", "nothing", "--url", url, "--token", token(), env=environment())
    assert_one_clear_line(code, errors, "nothing")


async def test_settings_lists_every_setting_and_no_secret(redis_server):
    """Settings are listed by the names of the environment."""
    code, out, _ = await run("settings", env=signed(redis_server.url))
    assert code == 0
    assert {"HUB_REDIS_URL", "HUB_HEARTBEAT", "HUB_JWT_SECRET", "HUB_MAX_VIEWERS_PER_USER"} <= set(
        out.split()
    )
    assert SECRET not in out


async def test_the_demo_prints_its_url_and_serves_its_pages():
    """The demo has its own Redis and builds, also by the printed curl line; Ctrl-C ends it."""
    words = ("demo", "--no-browser", "--port", "0", "--pace", "0.05")
    async with running(*words, env=environment()) as demo:
        url = (await demo.error_line(r"(http://127\.0\.0\.1:\d+)"))[1]
        curl = await demo.error_line(r"Authorization: (Bearer [\w.-]+)' (\S+)")
        async with httpx.AsyncClient(timeout=20) as http:
            page = await http.get(url)
            assert page.status_code == 200
            assert "<html" in page.text
            assert (await http.get(f"{url}/dashboard")).status_code == 200
            async with http.stream("GET", curl[2], headers={"Authorization": curl[1]}) as answer:
                assert answer.status_code == 200
                lines = [line async for line in answer.aiter_lines()]  # the whole build
        assert "event: end" in lines
        demo.process.send_signal(signal.SIGINT)
        code, _ = await demo.wait()
    assert code in (0, 130, -signal.SIGINT)
    assert "Traceback" not in demo.errors


async def test_it_says_its_version():

    code, said, errors = await run("--version", env=environment())
    assert (code, said.strip(), errors) == (0, f"push-hub {version('push-hub')}", "")
