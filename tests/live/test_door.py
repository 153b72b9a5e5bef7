"""The door lets in plain viewers without ASGI, and makes no difference that a client could see."""

from __future__ import annotations

import asyncio
import functools
import logging
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from hub import JobStateMachine, Publisher, create_app
from hub.transports.uvicorn_door import DoorHttpProtocol
from hub.web.callers import may_watch
from hub.web.door import Visit
from tests.faults.rig.rude import PING, TEXT, frame, frames, path_of
from tests.support import producers
from tests.support.live import live_hub, token

HANDSHAKE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


def head(
    path: str, *lines: str, method: str = "GET", version: str = "1.1", user: str | None = "ada"
) -> bytes:
    """A request. `user`: whose Bearer token it has."""
    signed = () if user is None else (f"Authorization: Bearer {token(user)}",)
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: hub", *signed, *lines, "", ""]).encode(
        "latin-1"
    )


async def answer(port: int, request: bytes, *, quiet: float = 1.5) -> bytes:
    """All that comes until the hub closes, or has said nothing for a while."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    got = b""
    try:
        while data := await asyncio.wait_for(reader.read(1 << 16), quiet if got else 5):
            got += data
    except TimeoutError:
        pass
    writer.close()
    return got


def plain(got: bytes) -> tuple[list[bytes], bytes]:
    """An answer without what differs from one to the next: headers in any order, and no dates or jitter."""
    first, _, body = got.partition(b"\r\n\r\n")
    lines = [re.sub(rb"(?i)^([a-z-]+):", lambda m: m[0].lower(), line) for line in first.split(b"\r\n")]
    kept = sorted(line for line in lines if not line.startswith(b"date:"))
    body = re.sub(rb'retry: \d+|"retry_ms":\d+|"after_ms":\d+', b"", body)
    if b"chunked" in first:
        body = re.sub(rb"(?:^|\r\n)[0-9a-f]+\r\n", b"|", body)  # the sizes of chunks, and where they end
        body = body.replace(b"|", b"")
    return kept, body


@pytest.fixture
def visits(monkeypatch) -> list[Visit]:
    """The viewers that have come in by the door."""
    seen: list[Visit] = []
    enter = Visit.enter
    monkeypatch.setattr(Visit, "enter", lambda self, *given: seen.append(self) or enter(self, *given))
    return seen


STREAM, SOCKET = path_of("JOB", "sse"), path_of("JOB", "websocket")

INSIDE = {
    "bearer": head(STREAM),
    "bearer in small letters": head(STREAM, f"authorization: bEARER  {token()} ", user=None),
    "cookie": head(STREAM, f"Cookie: a=b; __session={token()}; c=d", user=None),
    "cookie of this origin": head(
        STREAM, f"Cookie: __session={token()}", "Sec-Fetch-Site: same-origin", user=None
    ),
    "from": head(STREAM + "?from=-1"),
    "live": head(STREAM + "?from=live"),
    "types": head(STREAM + "?types=step,ready&from=start"),
    "cursor": head(STREAM, "Last-Event-ID: POSITION"),
    "cursor in the query": head(STREAM + "?last_event_id=POSITION"),
    "cursor in the other query": head(STREAM + "?lastEventId=POSITION"),
    "cursor that nobody gave": head(STREAM, "Last-Event-ID: nonsense"),
    "cursor of nobody's bytes": head(STREAM, "Last-Event-ID: \xe9\xff"),
    "origin": head(STREAM, "Origin: https://elsewhere.example"),
    "browser": head(STREAM, "Sec-Fetch-Mode: cors", "Accept: text/event-stream", "Accept-Encoding: gzip"),
    "websocket": head(SOCKET, *HANDSHAKE),
    "websocket with parameters": head(SOCKET + "?from=-1&types=step", *HANDSHAKE),
    "websocket with an extension": head(
        SOCKET, *HANDSHAKE, "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
    ),
    "websocket of this origin": head(
        SOCKET, *HANDSHAKE, f"Cookie: __session={token()}", "Origin: http://hub", user=None
    ),
}

OUTSIDE = {
    "no credentials": head(STREAM, user=None),
    "bad token": head(STREAM, "Authorization: Bearer x.y.z", user=None),
    "expired": head(STREAM, f"Authorization: Bearer {token(exp=1)}", user=None),
    "basic": head(STREAM, "Authorization: Basic YTpi", user=None),
    "two credentials": head(STREAM, f"Authorization: Bearer {token('eve')}"),
    "foreign page's cookie": head(
        STREAM, f"Cookie: __session={token()}", "Sec-Fetch-Site: cross-site", user=None
    ),
    "foreign origin's cookie": head(STREAM, f"Cookie: __session={token()}", "Origin: http://evil", user=None),
    "another user": head(STREAM, user="eve"),
    "another user's browser": head(STREAM, "Sec-Fetch-Mode: cors", user="eve"),
    "no such job": head(path_of("nothing", "sse")),
    "no job's id": head(path_of("a%20b", "sse")),
    "job's id, escaped": head(STREAM.replace("JOB", "%4aOB")),
    "dots": head("/api/jobs/../events/stream"),
    "slash": head(STREAM + "/"),
    "two slashes": head("/" + STREAM),
    "absolute": head("http://hub" + STREAM),
    "HTTP/1.0": head(STREAM, version="1.0"),
    "close": head(STREAM, "Connection: close"),
    "HEAD": head(STREAM, method="HEAD"),
    "POST": head(STREAM, "Content-Length: 0", method="POST"),
    "OPTIONS": head(STREAM, method="OPTIONS"),
    "body": head(STREAM, "Content-Length: 2") + b"{}",
    "chunked body": head(STREAM, "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "expect": head(STREAM, "Expect: 100-continue"),
    "two cursors": head(STREAM, "Last-Event-ID: POSITION", "Last-Event-ID: 1-1"),
    "two froms": head(STREAM + "?from=live&from=-1"),
    "unknown parameter": head(STREAM + "?a=b"),
    "escaped parameter": head(STREAM + "?types=st%65p"),
    "no parameter": head(STREAM + "?"),
    "wait": head(path_of("nothing", "sse") + "?wait=0.1"),
    "ticket": head(STREAM + "?ticket=pht_aaaaaaaaaaaaaaaaaaaaaa"),
    "h2c": head(STREAM, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: x"),
    "GET of a socket": head(SOCKET),
    "upgrade of a stream": head(STREAM, *HANDSHAKE),
    "websocket without a key": head(SOCKET, *HANDSHAKE[:3]),
    "websocket with a bad key": head(SOCKET, *HANDSHAKE[:3], "Sec-WebSocket-Key: short"),
    "websocket of version 8": head(SOCKET, *HANDSHAKE[:2], "Sec-WebSocket-Version: 8", HANDSHAKE[3]),
    "websocket with a subprotocol": head(SOCKET, *HANDSHAKE, "Sec-WebSocket-Protocol: hub, other"),
    "websocket of another user": head(SOCKET, *HANDSHAKE, user="eve"),
    "websocket of another user's browser": head(SOCKET, *HANDSHAKE, "Origin: http://hub", user="eve"),
    "websocket with a bad token": head(SOCKET, *HANDSHAKE, "Authorization: Bearer x", user=None),
    "websocket of another origin": head(
        SOCKET, *HANDSHAKE, f"Cookie: __session={token()}", "Origin: http://evil", user=None
    ),
}


Answers = dict[str, list[tuple[list[bytes], bytes]]]


async def answers(redis: Redis, wire: str, requests: dict[str, bytes]) -> tuple[Answers, dict[str, int]]:
    """What a hub answers to each request, made twice: the job is not watched, and then it is. And what it has
    counted.
    """

    async def twice(request: bytes) -> list[tuple[list[bytes], bytes]]:
        return [plain(await answer(live.port, request)) for _ in range(2)]

    async with live_hub(redis, wire=wire, max_misses=1000) as live:
        got = await asyncio.gather(*map(twice, requests.values()))
        totals = live.context.statistics()
    names = (
        "opened",
        "refused",
        "unavailable",
        *(n for n in totals.__slots__ if n.startswith("auth_refused")),
    )
    return dict(zip(requests, got, strict=True)), {name: getattr(totals, name) for name in names}


@dataclass
class Both:
    """The same requests by the door and by the application."""

    door: Answers
    application: Answers
    counts: list[dict[str, int]]
    let_in: Counter[str]  # by the door, by job


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def both(redis_server) -> Both:
    """All requests at once, each about a job of its own."""
    let_in: Counter[str] = Counter()
    enter = Visit.enter
    async with Redis.from_url(redis_server.url) as redis:
        await redis.flushall()
        requests = {}
        publisher = Publisher(redis, strict=True)
        for number, (name, request) in enumerate((INSIDE | OUTSIDE).items()):
            job = f"JOB-{number}"
            await JobStateMachine(redis).create_job(job, user_id="ada")
            position = [str(await publisher.emit(job, "step", {"n": n})) for n in range(3)][1]
            requests[name] = request.replace(b"JOB", job.encode()).replace(b"POSITION", position.encode())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                Visit, "enter", lambda self, *given: let_in.update([self._job]) or enter(self, *given)
            )
            door, counted = await answers(redis, "door", requests)
        application, expected = await answers(redis, "fast", requests)
    return Both(door, application, [counted, expected], let_in)


@pytest.mark.parametrize(("number", "name"), list(enumerate([*INSIDE, *OUTSIDE])), ids=[*INSIDE, *OUTSIDE])
def test_the_answer_is_that_of_the_application(both, number, name):
    assert both.let_in[f"JOB-{number}"] == (2 if name in INSIDE else 0)
    assert both.door[name] == both.application[name]


def test_everything_is_counted_as_by_the_application(both):
    assert both.counts[0] == both.counts[1]
    assert both.counts[0]["opened"] > 40
    assert both.counts[0]["auth_refused_owner"] > 0


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_a_job_that_is_over_ends_as_by_the_application(real_redis, transport):
    job = producers.name()
    jobs, publisher = JobStateMachine(real_redis), Publisher(real_redis, strict=True)
    await jobs.create_job(job, user_id="ada")
    await publisher.emit(job, "step")
    last = str(await publisher.ready(job))
    lines = HANDSHAKE if transport == "websocket" else ()
    queries = ("", f"?last_event_id={last}", "?from=live")
    requests = {query: head(path_of(job, transport) + query, *lines) for query in queries}
    assert await answers(real_redis, "door", requests) == await answers(real_redis, "fast", requests)


async def test_a_past_from_before_the_window_is_read_by_the_application(real_redis, visits):
    async with live_hub(real_redis, window_bytes=300) as live:
        job = await producers.job(live)
        ids = [str(await live.publisher.emit(job, "step", {"n": n})) for n in range(30)]
        seen = []
        async with live.sse(job, "?from=live"), live.sse(job, f"?last_event_id={ids[2]}") as viewer:
            while len(seen) < len(ids[3:]):
                message = await viewer.next()
                seen += [message.id] * (message.event == "message")
        assert seen == ids[3:]


CHANGES = {
    "an override": lambda app: app.dependency_overrides.update({may_watch: lambda _user, _job: True}),
    "middleware": lambda app: app.add_middleware(GZipMiddleware),
    "a route before ours": lambda app: app.router.routes.insert(
        0, Route("/api/jobs/{job}/events/stream", lambda _: PlainTextResponse("mine"))
    ),
    "a wrapper": lambda app: setattr(app, "middleware_stack", _Wrapper(app.build_middleware_stack())),
}


class _Wrapper:
    """Middleware of somebody else."""

    def __init__(self, app) -> None:
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        await self.app(scope, receive, send)


@pytest.mark.parametrize("change", list(CHANGES))
async def test_an_application_that_somebody_changed_has_no_door(real_redis, visits, monkeypatch, change):
    monkeypatch.setattr("tests.support.live.create_app", functools.partial(_changed, CHANGES[change]))
    async with live_hub(real_redis, wire="door") as live:
        job = await producers.job(live)
        got = await answer(live.port, head(path_of(job, "sse")), quiet=0.3)
        assert b"200 OK" in got
        assert (b"mine" in got) is (change == "a route before ours")
    assert not visits


def _changed(change, settings):
    app = create_app(settings)
    change(app)
    return app


async def test_an_override_closes_the_door_while_it_is_there(real_redis, visits):
    async with live_hub(real_redis, wire="door") as live:
        job = await producers.job(live)
        request = functools.partial(answer, live.port, head(path_of(job, "sse"), user="eve"), quiet=0.3)
        live.app.dependency_overrides[may_watch] = lambda user, _job: user.user_id == "eve"
        assert b"200 OK" in await request()
        live.app.dependency_overrides.clear()
        assert b"404" in await request()
    assert not visits


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_a_client_that_leaves_at_the_door_leaves_nothing(real_redis, monkeypatch, transport):
    """`live_hub` fails at its end if a viewer, a view, or a feed is left."""
    arrived, go = asyncio.Event(), asyncio.Event()
    ask = Visit.ask

    async def slow(self) -> bool:
        found = await ask(self)
        arrived.set()
        await go.wait()
        return found

    monkeypatch.setattr(Visit, "ask", slow)
    async with live_hub(real_redis, linger=0) as live:
        job = await producers.job(live)
        _, writer = await asyncio.open_connection("127.0.0.1", live.port)
        writer.write(head(path_of(job, transport), *(HANDSHAKE if transport == "websocket" else ())))
        await arrived.wait()
        writer.transport.abort()
        await live.until(
            lambda: not any(type(one) is DoorHttpProtocol for one in live.server.server_state.connections)
        )
        go.set()
        await live.until(lambda: live.hub.statistics().viewers == 0 and not live.hub.statistics().jobs)


async def test_what_comes_behind_a_handshake_is_read(real_redis, visits):
    async with live_hub(real_redis) as live:
        job = await producers.job(live)
        early = frame(TEXT, b'{"op":"ping","ref":7}') + frame(PING, b"hi")
        for cut in (0, 1, len(early)):
            request = head(SOCKET.replace("JOB", job), *HANDSHAKE)
            reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
            writer.write(request[:-1] if cut else request + early)
            await asyncio.sleep(0.02)
            if cut:
                writer.write(request[-1:] + early[:cut])
                await asyncio.sleep(0.02)
                writer.write(early[cut:])
            got = b""
            while b"pong" not in got or b"hi" not in got:
                got += await asyncio.wait_for(reader.read(1 << 16), 5)
            assert [code for code, _ in frames(got)] == [TEXT, TEXT, 10]
            writer.close()
    assert len(visits) == 3


async def test_what_comes_behind_a_stream_is_not_answered(real_redis):
    """A request behind a stream: the portable wire leaves it unread, and the stream lives."""
    async with live_hub(real_redis) as live:
        job = await producers.job(live)
        got = await answer(live.port, head(path_of(job, "sse")) + head("/healthz"), quiet=0.3)
        assert got.count(b"HTTP/1.1") == 1
        assert b"event: hello" in got


async def test_a_refused_viewer_may_ask_again_on_its_connection(real_redis, visits):
    async with live_hub(real_redis) as live:
        job = await producers.job(live)
        reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
        for path in (path_of("nothing", "sse"), "/healthz", path_of("nothing", "sse")):
            writer.write(head(path))
            got = await asyncio.wait_for(reader.readuntil(b"}"), 5)
            assert (b"404" in got) is (path != "/healthz")
        writer.write(head(path_of(job, "sse")))
        assert b"200 OK" in await asyncio.wait_for(reader.readuntil(b"hello"), 5)
        writer.close()
    assert len(visits) == 1


@pytest.mark.parametrize("more", [(), ("X-Forwarded-For: 203.0.113.9",)], ids=["alone", "behind a proxy"])
async def test_the_log_has_the_same_line(real_redis, caplog, more):
    lines: dict[str, list[str]] = {}
    for wire in ("door", "fast"):
        async with live_hub(real_redis, wire=wire) as live:
            for name in ("uvicorn.access", "uvicorn.error"):
                logging.getLogger(name).setLevel(logging.INFO)
                logging.getLogger(name).propagate = True
                logging.getLogger(name).addHandler(caplog.handler)
            live.server.config.access_log = True
            logging.getLogger("uvicorn").propagate = True
            job = await producers.job(live)
            caplog.clear()
            await answer(live.port, head(path_of(job, "sse") + "?from=live", *more), quiet=0.3)
            await answer(live.port, head(path_of(job, "websocket"), *HANDSHAKE, *more), quiet=0.3)
            found = [record.getMessage() for record in caplog.records if job in record.getMessage()]
            lines[wire] = [re.sub(r":\d+ ", ":N ", text.replace(job, "JOB")) for text in found]
            for name in ("uvicorn.access", "uvicorn.error"):
                logging.getLogger(name).removeHandler(caplog.handler)
    assert lines["door"] == lines["fast"]
    assert len(lines["door"]) >= 2


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_a_fault_at_the_door_leaves_nobody_waiting(real_redis, monkeypatch, capsys, transport):
    async def fail(self) -> bool:
        raise ZeroDivisionError

    async with live_hub(real_redis) as live:
        job = await producers.job(live)
        monkeypatch.setattr(Visit, "ask", fail)
        reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
        writer.write(head(path_of(job, transport), *(HANDSHAKE if transport == "websocket" else ())))
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(100), 5) == b""
        writer.close()
    said = capsys.readouterr().err
    assert "A request at the door failed" in said
    assert "ZeroDivisionError" in said
