"""Workers repeat, race, send nonsense, end a job twice, or die: one order, one number each, one end."""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from hub import Publisher, SyncPublisher
from hub.broker.script import Publication
from hub.errors import EventTooLarge, InvalidEvent, JobEnded
from hub.job.event import EventId, JobId
from tests.faults.rig.judge import Published
from tests.faults.rig.process import Process, until
from tests.faults.rig.producer import Worker
from tests.faults.rig.proxy import Proxy
from tests.faults.rig.scale import number, seconds
from tests.faults.rig.scene import Place, Scene, connected, disconnected, together, watched
from tests.support import producers
from tests.support.keys import log_of, meta_of
from tests.support.viewer import Seen, strict_json, view

Emit = Callable[[str, int], Awaitable[EventId | None]]

LEASE = 1.0
"""Seconds: the shortest lease that is allowed."""


# --- numbered once


def _impatient(url: str) -> redis.asyncio.Redis:
    """A client that repeats a command that is not answered within half a second."""
    retry = AsyncRetry(ConstantBackoff(0.05), 20)
    return redis.asyncio.Redis.from_url(url, socket_timeout=0.5, socket_connect_timeout=0.5, retry=retry)


def _impatient_sync(url: str) -> redis.Redis:
    retry = Retry(ConstantBackoff(0.05), 20)
    return redis.Redis.from_url(url, socket_timeout=0.5, socket_connect_timeout=0.5, retry=retry)


@asynccontextmanager
async def _publishing(url: str, *, blocking: bool) -> AsyncIterator[Emit]:
    """`emit(job, n)` of a publisher on an impatient client."""
    if blocking:
        with _impatient_sync(url) as client:
            call = SyncPublisher(client, strict=True).emit
            yield lambda job, n: asyncio.to_thread(call, job, "step", {"n": n})
    else:
        async with _impatient(url) as client:
            publisher = Publisher(client, strict=True)
            yield lambda job, n: publisher.emit(job, "step", {"n": n})


async def _repeat(server, hub, *, blocking: bool) -> None:
    async with (
        Proxy("127.0.0.1", server.port) as proxy,
        watched(hub, server.url, prefix=f"blocking-{blocking}") as scene,
        _publishing(f"redis://127.0.0.1:{proxy.port}/0", blocking=blocking) as emit,
    ):
        job = scene.job
        bodies = [f'{{"type":"step","n":{n},"job_id":"{job.job}"}}' for n in range(3)]
        job.tried.update(bodies)
        ids = [await emit(job.job, 0)]
        connections = proxy.connections
        proxy.mute = True
        publishing = asyncio.ensure_future(emit(job.job, 1))
        await until(lambda: proxy.connections > connections, "it gives up, and tries again")
        assert _length(server, job) == 2, "only the answer was lost"
        proxy.mute = False
        ids.append(await publishing)
        server.freeze()
        publishing = asyncio.ensure_future(emit(job.job, 2))
        connections = proxy.connections
        await until(lambda: proxy.connections > connections, "it gives up, and tries again")
        server.thaw()  # it executes the waiting commands now
        ids.append(await publishing)
        job.acknowledged.update(zip(ids, bodies, strict=True))
        await scene.end()
        verdicts = await scene.crowd.finish(10)
        assert [verdict.deliveries for verdict in verdicts] == [4] * 2
        assert _length(server, job) == 4


async def test_an_event_whose_answer_was_lost_is_numbered_once(start_redis, start_hub):
    """The client library repeats the write: the publisher gets the first id, and viewers get one event."""
    server = start_redis()
    hub = start_hub(server.url)
    for blocking in (False, True):
        await _repeat(server, hub, blocking=blocking)


def _length(server, published: Published) -> int:
    return server.command_now("XLEN", log_of(published.job))


async def test_several_workers_publish_in_one_order_the_logs(start_redis, start_hub):
    """Eight publish at once: every viewer of two hubs sees the log's order, and each worker's order in it."""
    server = start_redis()
    hubs = [start_hub(server.url) for _ in range(2)]
    async with watched(hubs, server.url, each=4) as scene:
        await asyncio.gather(*(_work(server.url, scene.job, name) for name in range(8)))
        await scene.end()
        await scene.crowd.finish(10)
        rows = server.command_now("XRANGE", log_of(scene.job.job), "-", "+")
    assert [EventId.parse(row_id.decode()) for row_id, _ in rows] == sorted(scene.job.acknowledged)
    events = [json.loads(values[b"data"]) for _, values in rows[:-1]]
    for name in range(8):
        assert [event["n"] for event in events if event["worker"] == name] == list(range(50))


async def _work(url: str, published: Published, name: int) -> None:
    async with Worker(url) as worker:
        for n in range(50):
            await worker.emit(published, worker=name, n=n)


# --- nonsense

NASTY = "a\rb\nc\r\nd\0e\ufefff\u2028g\u2029h\x85i\x0bj\x1ck'\"\\/\U0001f600é: data: x\n\nevent: end\ndata: {}\n\n"

MESSAGES = {
    "not JSON": b"not JSON",
    "empty": b"",
    "a list": b'[{"status":"ready"}]',
    "a text": b'"ready"',
    "a number": b"42",
    "null": b"null",
    "not UTF-8": b'{"type":"step","text":"\xff\xfe\xc3"}',
    "NaN": b'{"type":"step","number":NaN}',
    "infinite": b'{"type":"step","number":-Infinity}',
    "deep": b'{"type":"step","deep":' + b"[" * 100_000 + b"]" * 100_000 + b"}",  # over 64 levels is text
    "line ends and more": NASTY.encode(),
    "line ends in JSON": b'{"type":"step",\r\n"text":\r"x"\n}',
    "a byte order mark": b'\xef\xbb\xbf{"type":"step"}',
    "an escaped lone surrogate": b'{"type":"step","text":"\\ud800"}',
    "a number as type and status": b'{"type":5,"status":7}',
    "names twice": b'{"type":"step","type":"other","status":"code","status":null}',
    "an id of its own": b'{"id":"mine","type":"step"}',
    "half an object": b'{"type":"step","text":"',
    "a control frame's name": b'{"type":"end","status":"code"}',
}


def _as_seen(message: bytes, transport: str) -> tuple[str, dict]:
    """Returns the name and fields that a viewer must see."""
    text = message.decode("utf-8", "replace").removeprefix("\ufeff")
    try:
        fields = None if message == MESSAGES["deep"] else strict_json(text)
    except ValueError:
        fields = None
    if isinstance(fields, dict):
        return str(fields.get("type", "")), fields
    return "raw", {"data": re.sub("\r\n|\r", "\n", text) if transport == "sse" else text}


async def _expect(viewer, transport: str, message: bytes) -> None:
    name, fields = _as_seen(message, transport)
    seen: Seen = await viewer.next()
    assert not seen.control or name == "end", seen
    if transport == "websocket" and "id" in fields:
        fields = {key: value for key, value in fields.items() if key != "id"}
    if not (transport == "websocket" and name == "end"):
        assert (seen.name, seen.fields) == (name, fields)


async def _talk_nonsense(hub, worker: Worker, transport: str, *, with_log: bool) -> None:
    name = f"{transport}-{with_log}"
    client = worker.client
    job = (await worker.job(name)).job if with_log else await producers.foreign_job(client)
    async with asyncio.timeout(30), view(Place(hub), transport, job) as viewer:
        for n, (what, message) in enumerate(MESSAGES.items()):
            await producers.shout(client, job, message, {"type": "step", "n": n})
            try:
                await _expect(viewer, transport, message)
            except AssertionError as error:
                raise AssertionError(f"{name}: {what}") from error
            good = await viewer.next()
            assert (good.name, good.fields["n"]) == ("step", n), what
        large = {"type": "step", "fill": "x" * 10_000_000}
        await producers.shout(client, job, large, {"type": "step", "n": -1})
        gap, state, good = await viewer.take(3)
        assert (gap.name, gap.fields["reason"], state.name) == ("gap", "oversize", "state")
        assert good.fields["n"] == -1
        await producers.shout(client, job, {"type": "build.stage.started", "status": "ready"})
        assert [one.name for one in await viewer.all()] == ["build.stage.started", "end"]


async def test_nonsense_is_passed_on_as_it_is_and_the_next_event_flows(start_redis, start_hub):
    """By a bare PUBLISH, into jobs with and without a log; what is too large becomes a gap."""
    server = start_redis()
    hub = start_hub(server.url)
    async with Worker(server.url) as worker:
        await together(
            *(
                _talk_nonsense(hub, worker, transport, with_log=with_log)
                for transport in ("sse", "websocket")
                for with_log in (False, True)
            )
        )
    assert hub.metric("gaps_total") == 4


def _cycle() -> dict:
    fields: dict = {}
    fields["itself"] = fields
    return fields


def _deep() -> dict:
    fields: dict = {}
    for _ in range(100_000):
        fields = {"deeper": fields}
    return fields


INVALID: dict[str, Callable[[], tuple[str, dict]]] = {
    "NaN": lambda: ("step", {"number": float("nan")}),
    "infinite": lambda: ("step", {"number": float("inf")}),
    "bytes": lambda: ("step", {"text": b"\xff"}),
    "a set": lambda: ("step", {"texts": {"x"}}),
    "a lone surrogate": lambda: ("step", {"text": "\ud800"}),
    "a cycle": lambda: ("step", _cycle()),
    "deep": lambda: ("step", _deep()),
    "an id": lambda: ("step", {"id": "1-1"}),
    "no type": lambda: ("", {}),
    "a stage without a name": lambda: ("build.stage.completed", {"duration": 1}),
    "an infinite duration": lambda: ("build.stage.completed", {"stage": "x", "duration": float("inf")}),
}


async def test_our_own_publisher_refuses_what_cannot_travel_and_the_next_event_flows(start_redis, start_hub):
    """The strict publisher raises InvalidEvent or EventTooLarge, and viewers get nothing."""
    server = start_redis()
    hub = start_hub(server.url)
    async with watched(hub, server.url) as scene:
        publisher = Publisher(scene.worker.client, strict=True)
        with redis.Redis(port=server.port) as client:
            blocking = SyncPublisher(client, strict=True)
            for n, (what, make) in enumerate(INVALID.items()):
                kind, fields = make()
                with pytest.raises(InvalidEvent):
                    await publisher.emit(scene.job.job, kind, fields)
                    pytest.fail(what)
                with pytest.raises(InvalidEvent):
                    blocking.emit(scene.job.job, kind, fields)
                    pytest.fail(what)
                await scene.publish(1, start=n)
        with pytest.raises(EventTooLarge):
            await publisher.emit(scene.job.job, "step", {"fill": "x" * (1 << 20)})
        with pytest.raises(InvalidEvent):
            await publisher.emit("job:*\n", "step", {})
        await scene.end()
        verdicts = await scene.crowd.finish(10)
    assert [verdict.deliveries for verdict in verdicts] == [len(INVALID) + 1] * 2
    assert publisher.failures == 0, "the caller's mistakes are no outage"


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_whatever_is_published_is_read_back_the_same(start_redis, start_hub, transport):
    """parse(emit(x)) == x with a strict parser: any character in names, values and types."""
    server = start_redis()
    hub = start_hub(server.url)
    chance = random.Random(13)
    alphabet = [
        *NASTY,
        "data:",
        "\n\n",
        "id: 1-1\n",
        "}",
        "{",
        "[",
        ",",
        "\ud7ff",
        "\ue000",
        "\uffff",
        "\U0010ffff",
    ]

    def text() -> str:
        return "".join(chance.choices(alphabet, k=chance.randint(1, 40)))

    async with Worker(server.url) as worker:
        job = (await worker.job("job")).job
        async with asyncio.timeout(seconds(30, 300)), view(Place(hub), transport, job) as viewer:
            for _ in range(number(300, 20_000)):
                kind = text()
                fields = {
                    text(): chance.choice(
                        [text(), chance.random(), None, [text()], {text(): True}, 2**53, 1e300]
                    )
                }
                fields = {key: value for key, value in fields.items() if value is not None and key != "id"}
                event_id = await worker.publisher.emit(job, kind, fields)
                seen = await viewer.next()
                assert (seen.id, seen.fields) == (str(event_id), {"type": kind, **fields, "job_id": job})


# --- one end


async def test_a_job_ends_once_however_many_end_it(start_redis, start_hub):
    """Of ten workers that send `ready` or `failed` at once one wins, and nothing follows its event."""
    server = start_redis()
    hubs = [start_hub(server.url) for _ in range(2)]
    async with watched(hubs, server.url, each=3) as scene:
        await scene.publish(5)
        job = scene.job
        ends = {status: _end(job.job, status) for status in ("ready", "failed")}
        job.tried.update(ends.values())
        async with Worker(server.url) as other:
            publishers = [scene.worker.publisher, other.publisher] * 5
            calls = [
                publisher.ready(job.job) if turn % 3 else publisher.failed(job.job)
                for turn, publisher in enumerate(publishers)
            ]
            answers = await asyncio.gather(*calls, return_exceptions=True)
        (job.terminal,) = [answer for answer in answers if isinstance(answer, EventId)]
        assert sum(isinstance(answer, JobEnded) for answer in answers) == 9
        status = (await scene.worker.client.hget(f"job:{job.job}", "status")).decode()
        job.acknowledged[job.terminal] = ends[status]
        with pytest.raises(JobEnded):
            await scene.worker.publisher.emit(job.job, "step", {"n": 99})
        late = json.loads(ends["ready"])
        await producers.shout(scene.worker.client, job.job, {"type": "step", "n": 99}, late, late)
        scene.crowd.add(lambda: hubs[0].url, job, each=1)
        verdicts = await scene.crowd.finish(10)
    assert [verdict.ended for verdict in verdicts] == [status] * 8
    assert [verdict.deliveries for verdict in verdicts] == [6] * 8


def _end(job: str, status: str) -> str:
    fields = {"type": "build.stage.started", "stage": status, "status": status, "job_id": job}
    return json.dumps(fields, separators=(",", ":"))


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_nothing_follows_the_terminal_of_a_producer_that_does_not_stop(
    start_redis, start_hub, transport
):
    """A job without a log gets a second terminal and more events in one go: viewers get only the first."""
    server = start_redis()
    hub = start_hub(server.url)
    end = {"type": "build.stage.started", "status": "failed"}
    async with redis.asyncio.Redis.from_url(server.url) as client:
        job = await producers.foreign_job(client)
        async with asyncio.timeout(10), view(Place(hub), transport, job) as viewer:
            step = {"type": "step", "n": 0}
            await producers.shout(client, job, step, end, step, end | {"status": "ready"}, step)
            seen = await viewer.all()
    assert [one.name for one in seen] == ["step", "build.stage.started", "end"]
    assert seen[-1].fields["status"] == "failed"


# --- the worker dies


def _lease(server, job: str) -> int:
    return int(server.command_now("HGET", meta_of(job), "lease") or 0)


async def _holder(processes: list[Process], server, job: str, ttl: float = LEASE) -> Process:
    """Starts a worker process that holds the job's lease."""
    module = "tests.faults.rig.leaseholder"
    holder = Process([sys.executable, "-m", module, server.url, job, str(ttl)])
    processes.append(holder)
    await until(lambda: _lease(server, job), "it has the lease")
    return holder


def _lost(published: Published) -> str:
    """The event that ends a lost worker's job. The judge is told to expect it."""
    _, args = Publication().prepare_lost(JobId(published.job))
    body = str(args[-2])
    published.tried.add(body)
    assert json.loads(body)["reason"] == "producer_lost"
    return body


async def _ended_by_the_hub(server, scene: Scene, expected: str) -> None:
    """Fails unless every viewer got the one event and the log ends with it."""
    verdicts = await scene.crowd.finish(15)
    rows = server.command_now("XRANGE", log_of(scene.job.job), "-", "+")
    bodies = [values[b"data"].decode() for _, values in rows]
    assert bodies.count(expected) == 1
    assert bodies[-1] == expected
    assert [verdict.ended for verdict in verdicts] == ["failed"] * len(verdicts)
    assert [verdict.deliveries for verdict in verdicts] == [len(bodies)] * len(verdicts)


@pytest.mark.alone
async def test_a_worker_that_dies_with_a_lease_ends_its_job_once(start_redis, start_hub, processes):
    """kill -9, watched through three hubs: all viewers get the same single `failed` with producer_lost."""
    server = start_redis()
    hubs = [start_hub(server.url, position_check=0.5) for _ in range(3)]
    async with watched(hubs, server.url, each=4) as scene:
        expected = _lost(scene.job)
        holder = await _holder(processes, server, scene.job.job)
        await scene.publish(5)
        holder.kill()
        await _ended_by_the_hub(server, scene, expected)
    assert sum(hub.metric("workers_lost_total") for hub in hubs) >= 1


@pytest.mark.alone
async def test_a_lease_that_lapses_while_the_hub_is_frozen_ends_the_job_afterwards(
    start_redis, start_hub, processes
):
    """The only hub is frozen while the lease lapses, and ends the job when it is thawed."""
    server = start_redis()
    hub = start_hub(server.url, position_check=0.5)
    async with watched(hub, server.url) as scene:
        expected = _lost(scene.job)
        holder = await _holder(processes, server, scene.job.job)
        hub.freeze()
        holder.kill()
        await until(lambda: _lease(server, scene.job.job) < time.time() * 1000 - 500, "it lapses")
        await scene.publish(2)
        hub.thaw()
        await _ended_by_the_hub(server, scene, expected)


@pytest.mark.alone
async def test_a_lease_that_is_renewed_holds_and_one_that_is_given_back_is_gone(
    start_redis, start_hub, processes
):
    """A worker outlives its lease's time, gives the lease back at its exit, and ends its job later."""
    server = start_redis()
    hub = start_hub(server.url, position_check=0.5)
    async with watched(hub, server.url) as scene:
        holder = await _holder(processes, server, scene.job.job)
        first = _lease(server, scene.job.job)
        await until(
            lambda: _lease(server, scene.job.job) > first + seconds(1500, 60_000), "renewed", timeout=90
        )
        holder.terminate()
        assert await holder.wait(5) == 0
        assert not _lease(server, scene.job.job)
        await asyncio.sleep(LEASE + 0.7)  # longer than a lapse and its detection take
        await scene.publish(5)
        await scene.end()
        verdicts = await scene.crowd.finish(10)
    assert [verdict.ended for verdict in verdicts] == ["ready"] * 2
    assert hub.metric("workers_lost_total") == 0


@pytest.mark.alone
async def test_a_blocking_worker_keeps_its_lease_while_it_computes_and_loses_it_by_an_exception(
    start_redis, start_hub, monkeypatch
):
    """A thread renews it; an exception lets it lapse."""
    monkeypatch.setattr("hub.produce.lease.SHORTEST_BLOCKING", 1)
    server = start_redis()
    hub = start_hub(server.url, position_check=0.5)

    def compute(job: str) -> None:
        with SyncPublisher.from_url(server.url, strict=True) as publisher, publisher.lease(job, ttl=LEASE):
            time.sleep(LEASE * 1.8)
            publisher.emit(job, "step", {"n": 0})
            raise ZeroDivisionError

    async with watched(hub, server.url) as scene:
        expected = _lost(scene.job)
        scene.job.tried.add(f'{{"type":"step","n":0,"job_id":"{scene.job.job}"}}')
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(compute, scene.job.job)
        await _ended_by_the_hub(server, scene, expected)


@pytest.mark.alone
async def test_an_outage_shorter_than_the_lease_does_not_end_a_living_workers_job(start_redis, start_hub):
    """Redis goes away after a renewal and is back before the lease ends; the worker retries meanwhile."""
    server = start_redis(durable=True)
    hub = start_hub(server.url, position_check=0.5)
    ttl = 4.5
    retry = AsyncRetry(ConstantBackoff(0.5), 4)  # a try takes 2 s
    async with (
        redis.asyncio.Redis.from_url(server.url, retry=retry) as client,
        watched(hub, server.url) as scene,
    ):
        expected = _lost(scene.job)
        async with Publisher(client, strict=True).lease(scene.job.job, ttl=ttl) as lease:
            first = _lease(server, scene.job.job)
            await until(lambda: _lease(server, scene.job.job) > first, "renewed")
            began = time.monotonic()
            server.kill()
            await disconnected(hub)
            await asyncio.sleep(began + ttl * 0.8 - time.monotonic())  # as long as the fault lasts
            await asyncio.to_thread(server.start)
            await connected(hub)
            await asyncio.sleep(began + ttl * 1.5 - time.monotonic())  # long enough to have lapsed
            assert expected not in str(server.command_now("XRANGE", log_of(scene.job.job), "-", "+"))
            assert not lease.lost
        await scene.end()
        verdicts = await scene.crowd.finish(10)
    assert [verdict.ended for verdict in verdicts] == ["ready"] * 2
