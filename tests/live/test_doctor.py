"""`push-hub doctor` finds what is wrong, and nothing where all is well."""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from hub import Settings
from hub.cli.findings import of_redis, of_settings
from hub.cli.keys import of_keys
from hub.client.checkup import checkup
from hub.client.finding import Level
from hub.client.way import of_http2
from hub.demo.embedded import EmbeddedServer
from tests.faults.rig.tls import certificates
from tests.support import producers
from tests.support.live import SECRET, live_hub, token

GOOD = {"jwt_secret": SECRET}


@pytest.mark.parametrize(
    ("settings", "environment", "what", "change"),
    [
        ({}, {"HUB_HEARTBEET": "9"}, "HUB_HEARTBEET is no setting", "HUB_HEARTBEAT?"),
        ({}, {"HUB_XYZZY": "9"}, "HUB_XYZZY is no setting", "`push-hub settings` lists them"),
        ({"heartbeat": 90}, {}, "heartbeats come every 90 s", "HUB_HEARTBEAT=15"),
        (
            {"allowed_origins": "app.example.com"},
            {},
            "HUB_ALLOWED_ORIGINS has 'app.example.com'",
            "HUB_ALLOWED_ORIGINS=https://app.example.com",
        ),
        ({"admin_host": "0.0.0.0"}, {}, "the admin port is open on 0.0.0.0", "HUB_ADMIN_TOKEN"),
    ],
)
def test_each_setting_that_hurts_is_found(settings, environment, what, change):
    (found,) = of_settings(Settings(**{**GOOD, **settings}), environment)
    assert found.what == what
    assert change in found.change
    assert found.why


def test_good_settings_are_good():
    every = {f"HUB_{name.upper()}": "" for name in Settings.model_fields} | {
        "HUB_JWT_SECRET_FILE": "",
        "HUB_TOKEN": "",
    }
    made = Settings(
        **GOOD, allowed_origins="https://app.example.com,http://localhost:5173", admin_token="x" * 16
    )
    assert not list(of_settings(made, every))


def test_no_key_is_found():
    assert [one.level for one in of_settings(Settings(), {})] == [Level.ERROR]


async def test_a_redis_that_evicts_is_found():
    from redis.asyncio import Redis

    with EmbeddedServer() as server:
        async with Redis.from_url(server.url) as client:
            assert {one.level for one in await of_redis(client)} == {Level.OK}
            await client.config_set("maxmemory", "100mb")
            await client.config_set("maxmemory-policy", "allkeys-lru")
            warned = [one for one in await of_redis(client) if one.level is not Level.OK]
    assert [one.change for one in warned] == ["CONFIG SET maxmemory-policy noeviction"]


@asynccontextmanager
async def in_front_of(port: int, kind: str) -> AsyncIterator[str]:
    """A proxy that does this to what passes; the URL of it."""

    open_now: set[asyncio.Task] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        open_now.add(task)
        task.add_done_callback(open_now.discard)
        lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        dropped = {"no upgrade": (b"upgrade:", b"connection:"), "no authorization": (b"authorization:",)}.get(
            kind, ()
        )
        kept = [line for line in lines if not dropped or not line.lower().startswith(dropped)]
        if not any(line.lower().startswith(b"upgrade:") for line in kept):  # one request per connection
            kept = [line for line in kept if not line.lower().startswith(b"connection:")]
            kept[1:1] = [b"Connection: close"]
        upstream, out = await asyncio.open_connection("127.0.0.1", port)
        out.write(b"\r\n".join(kept))
        answer = b""
        back = asyncio.create_task(passed_on(reader, out))
        open_now.add(back)
        try:
            with suppress(OSError, asyncio.CancelledError):
                while data := await upstream.read(1 << 16):
                    answer += data
                    if kind == "buffers" and b"text/event-stream" in answer and len(answer) < 100_000:
                        continue
                    if kind == "compresses":
                        answer = answer.replace(
                            b"no-cache, no-store, no-transform", b"no-cache\r\ncontent-encoding: gzip"
                        )
                    writer.write(answer)
                    answer = b""
        finally:
            back.cancel()
            writer.close()
            out.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    for task in list(open_now):
        task.cancel()
    await asyncio.gather(*open_now, return_exceptions=True)


async def passed_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What the client sends after its request."""
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("nothing", []),
        ("buffers", ["nothing of an event stream came within 0.5 s"]),
        ("compresses", ["a proxy compresses streams (gzip)", "a proxy has changed Cache-Control"]),
        ("no upgrade", ["a WebSocket does not open"]),
        ("no authorization", ["the credentials are not good (401)"]),
    ],
)
async def test_what_a_proxy_does_is_found(real_redis, monkeypatch, kind, expected):
    monkeypatch.setattr("hub.client.checkup.AT_ONCE", 0.5)
    async with live_hub(real_redis) as live:
        job = await producers.job(live, events=2)
        async with in_front_of(live.port, kind) as url:
            headers = {"Authorization": f"Bearer {token()}"}
            found = [one async for one in checkup(url, job, headers, long=False)]
    wrong = [one for one in found if one.level is not Level.OK]
    assert len(wrong) == len(expected), wrong
    for one, words in zip(wrong, expected, strict=True):
        assert one.what.startswith(words)
        assert one.why
        assert one.change


async def test_a_quiet_minute_is_listened_to(real_redis, monkeypatch):
    monkeypatch.setattr("hub.client.checkup.IDLE", 1.0)
    async with live_hub(real_redis, heartbeat=0.2) as live:
        job = await producers.job(live, events=1)
        headers = {"Authorization": f"Bearer {token()}"}
        found = [one.what async for one in checkup(live.url, job, headers, long=True)]
    assert any("the stream lives for 1 s" in words for words in found)


async def test_a_hub_that_is_not_there_is_said():
    (found,) = [one async for one in checkup("http://127.0.0.1:9", "a", {}, long=False)]
    assert found.level is Level.ERROR
    assert "does not answer" in found.what


async def test_the_command_says_it_and_exits_with_1(redis_server):
    async def run(**environment) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "hub", "doctor"),
            env={**os.environ, "HUB_REDIS_URL": redis_server.url, **environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        return process.returncode, said.decode()

    code, said = await run(HUB_JWT_SECRET=SECRET)
    assert (code, "Traceback" in said, "the settings" in said) == (0, False, True), said
    code, said = await run(HUB_JWT_SECRET=SECRET, HUB_HEARTBEET="9", HUB_REDIS_URL="redis://127.0.0.1:9")
    assert code == 1
    assert "HUB_HEARTBEET is no setting" in said
    assert "Redis:" in said
    assert "Traceback" not in said


async def test_a_user_who_may_no_more_than_a_hub_is_told_what_was_not_looked_at(redis_server, real_redis):
    """The hub would serve with these rights, so it is no error."""
    rights = ("-@all", "+ping", "+hello", "+select", "~*", "&*")
    await real_redis.execute_command("ACL", "SETUSER", "small", "on", ">small", *rights)
    try:
        url = redis_server.url.replace("redis://", "redis://small:small@")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "hub", "doctor"),
            env={**os.environ, "HUB_REDIS_URL": url, "HUB_JWT_SECRET": SECRET},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said = (await process.communicate())[0].decode()
    finally:
        await real_redis.execute_command("ACL", "DELUSER", "small")
    assert process.returncode == 0, said
    assert "Redis's own settings were not looked at" in said
    assert "the keys were not looked at" in said


async def test_whose_keys_are_whose(real_redis):
    statuses = frozenset({"ready", "failed"})

    async def looked(template: str = "job:{id}") -> list[tuple[Level, str]]:
        return [(one.level, one.what) for one in await of_keys(real_redis, template, statuses)]

    assert await looked() == [(Level.WARNING, "none of 0 keys is like job:{id}")]
    await real_redis.hset("job:a", mapping={"status": "code", "user_id": "ada"})
    await real_redis.hset("job:b", mapping={"status": "ready", "user_id": "ada"})
    await real_redis.hset("push-hub:{job:a}:meta", "epoch", "5")
    await real_redis.set("session:1", "x")
    good = [
        (Level.OK, "of 4 keys 1 are the hub's, and 2 are like job:{id}"),
        (Level.OK, "of 2 jobs 1 have ended, and 1 run"),
    ]
    assert await looked() == good
    assert await looked("build:{id}") == [(Level.WARNING, "none of 4 keys is like build:{id}")]
    await real_redis.set("job:text", "x")
    await real_redis.hset("job:nobodys", "status", "code")
    await real_redis.hset("job:silent", "user_id", "ada")
    assert [what for level, what in await looked() if level is Level.WARNING] == [
        "1 keys like a job's are no hashes: job:text",
        "1 jobs have no status: job:silent",
        "1 jobs have no user_id: job:nobodys",
    ]


async def test_a_viewer_that_leaves_is_noticed(real_redis, monkeypatch):
    monkeypatch.setattr("hub.client.checkup.IDLE", 0.3)
    monkeypatch.setattr("hub.engine.presence.INTERVAL", 0.1)
    async with live_hub(real_redis, heartbeat=0.1) as live:
        job = await producers.job(live, events=1)
        headers = {"Authorization": f"Bearer {token()}"}
        found = [one async for one in checkup(live.url, job, headers, long=True)]
        assert any("a viewer that leaves is noticed" in one.what for one in found)
        assert {one.level for one in found} == {Level.OK}


@pytest.mark.parametrize(
    ("offered", "level"),
    [(["h2", "http/1.1"], Level.OK), (["http/1.1"], Level.WARNING)],
    ids=["h2", "http/1.1"],
)
async def test_what_a_browser_speaks_over_tls_is_said(tmp_path, monkeypatch, offered, level):
    made = certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    context.set_alpn_protocols(offered)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        assert (await of_http2(url)).what.startswith("TLS fails"), "nobody knows the certificate"
        monkeypatch.setenv("SSL_CERT_FILE", str(made.authority))
        assert (await of_http2(url)).level is level
    finally:
        server.close()
