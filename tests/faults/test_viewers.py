"""Viewers join at the worst moment, stop reading, lose their cable, join all at once, or are too many."""

from __future__ import annotations

import asyncio
import json
import random

import pytest

from tests.faults.rig import netns
from tests.faults.rig.impatient import IMPATIENT
from tests.faults.rig.process import until
from tests.faults.rig.producer import Worker
from tests.faults.rig.proxy import Proxy
from tests.faults.rig.rude import (
    DASHBOARD,
    TEXT,
    Rude,
    close_code,
    company,
    frame,
    held,
    path_of,
    request,
    status,
    texts,
    unsent,
)
from tests.faults.rig.scale import number, seconds
from tests.faults.rig.watcher import Crowd, Watcher
from tests.support.live import USER

WIRES = pytest.mark.parametrize("portable", [False, True], ids=["fast", "portable"])
TRANSPORTS = pytest.mark.parametrize("transport", ["sse", "websocket"])
FILL = 60_000
MIB = 1 << 20


@pytest.fixture(autouse=True)
def rude_company():
    """See `company`."""
    with company():
        yield


def calls(redis, command: str) -> int:
    """Returns how often Redis has executed a command."""
    found = redis.command_now("INFO", "commandstats").get(f"cmdstat_{command}", {})
    return found.get("calls", 0)


def everybody_has(crowd: Crowd, events: int):
    """Returns True if each viewer of the crowd got that many events."""
    return lambda: all(watcher.verdict.deliveries >= events for watcher in crowd.watchers)


# --- row 16


async def one_job(worker: Worker, where, name: str, rng: random.Random) -> None:
    """A job whose first event, terminal, joins and leaves come in an order of the seed's."""
    published = await worker.job(name)
    count = rng.randrange(1, 5)

    async def work() -> None:
        for n in range(count):
            await asyncio.sleep(rng.random() * 0.02)
            await worker.emit(published, n=n)
        await asyncio.sleep(rng.random() * 0.02)
        await worker.end(published)

    async def visit() -> None:
        await asyncio.sleep(rng.random() * 0.08)
        guest = Watcher(where, published, rng.choice(["sse", "websocket"])).start()
        await asyncio.sleep(rng.random() * 0.03)
        await guest.stop()
        assert not guest.verdict.problems, guest.verdict.problems

    async def stay() -> None:
        await asyncio.sleep(rng.random() * 0.08)
        watcher = Watcher(where, published, rng.choice(["sse", "websocket"])).start()
        verdict = await watcher.wait(30)
        verdict.finish()
        assert not verdict.problems, verdict.problems
        assert verdict.deliveries == count + 1, f"{verdict.name} saw {verdict.deliveries} of {count + 1}"

    await asyncio.gather(work(), visit(), visit(), stay(), stay())


@WIRES
async def test_joins_race_the_first_event_the_terminal_and_the_last_leave(start_redis, start_hub, portable):
    """Seeded interleavings without linger, so each last leave ends the subscription: the invariant holds."""
    redis = start_redis()
    hub = start_hub(redis.url, portable=portable, linger=0, log_level="warning")
    async with Worker(redis.url) as worker:
        for first in range(0, number(100, 5_000), 25):
            seeds = range(first, first + 25)
            rounds = [one_job(worker, lambda: hub.url, f"job-{seed}", random.Random(seed)) for seed in seeds]
            await asyncio.gather(*rounds)
    await until(lambda: hub.metric("viewers") == 0 and hub.metric("jobs") == 0, "nobody is left")
    assert redis.command_now("PUBSUB", "CHANNELS") == [b"push-hub:control"]


# --- row 17


async def stall(port: int, job: str, kind: str) -> Rude:
    """Opens a viewer with a small buffer that has joined and stops reading."""
    rude = await Rude(port, small=True).connect()
    if kind == "dashboard":
        subscribe = frame(TEXT, json.dumps({"op": "subscribe", "job": job}).encode())
        await rude.send(request(DASHBOARD))
        await rude.read_until(b"\r\n\r\n")
        await rude.send(subscribe)
        await rude.read_until(b'"subscribed"')
    else:
        await rude.send(request(path_of(job, kind)))
        await rude.read_until(b"\r\n\r\n")
    return rude


# Where the socket is not ours the kernel frees it, TCP_USER_TIMEOUT after its reader took the last byte.
PORTABLE = {"program": IMPATIENT, "impatient_tcp": 4000, "impatient_portable": 1}
UVICORNS = {"program": IMPATIENT, "impatient_tcp": 4000}


@pytest.mark.parametrize(
    ("kinds", "more"),
    [(("sse", "websocket"), {}), (("dashboard",), UVICORNS), (("sse", "websocket"), PORTABLE)],
    ids=["fast", "dashboard", "portable"],
)
async def test_who_stops_reading_is_cut_off_and_its_socket_is_freed(start_redis, start_hub, kinds, more):
    """After the send timeout it is aborted and counted once; the others get everything meanwhile."""
    redis = start_redis()
    hub = start_hub(redis.url, send_timeout=2, log_level="warning", **more)
    crowd, each = Crowd(), number(10, 250)
    async with Worker(redis.url) as worker:
        published = await worker.job("j")
        crowd.add(lambda: hub.url, published, each=2)
        await crowd.wait_connected()
        stalled = [await stall(hub.port, "j", kind) for kind in kinds for _ in range(each)]
        assert hub.metric("viewers") == 4 + len(stalled)
        await worker.stream(published, 20, rate=500, fill=FILL)
        await until(everybody_has(crowd, 20), "who reads has everything", timeout=10)
        await until(lambda: hub.metric("viewers") == 4, "the places are free", timeout=6)
        await until(lambda: held(hub.port) == 4, "the sockets are freed", timeout=8 if more else 2)
        await worker.end(published)
        await crowd.finish(10)
    assert hub.metric("blocked_total") == len(stalled)


@pytest.mark.alone  # a hub that has no time holds what waits, too
@WIRES
async def test_a_crowd_that_does_not_read_costs_two_buffers_each(start_redis, start_hub, portable):
    """The hub buffers 64 KiB and the kernel a few times that for each; the others get everything."""
    redis = start_redis()
    hub = start_hub(redis.url, portable=portable, send_timeout=300, log_level="warning")
    crowd, many = Crowd(), number(200, 1000)
    async with Worker(redis.url) as worker:
        published = await worker.job("j")
        crowd.add(lambda: hub.url, published, each=2)
        await crowd.wait_connected()
        await worker.stream(published, 20, rate=500, fill=FILL)  # a full window is in the base
        await until(everybody_has(crowd, 20), "who reads has everything")
        stalled = [await Rude(hub.port, small=True).connect() for _ in range(many)]
        for place, rude in enumerate(stalled):
            path = path_of("j", "websocket" if place % 2 else "sse")
            await rude.send(request(path + "?from=live"))
            await rude.read_until(b"\r\n\r\n")
        base = hub.memory
        await worker.stream(published, 600, rate=300, start=20, fill=10_000)
        await worker.end(published)
        await crowd.finish(30)
    assert hub.metric("viewers") == many, "nobody was cut off"
    grown, kernel = hub.memory - base, unsent(hub.port)
    write = 128 if portable else 64  # KiB: there a whole batch may follow a buffer that is nearly full
    assert grown < many * write * 1024 + 12 * MIB, f"{grown / MIB:.0f} MiB for {many} viewers"
    assert kernel < many * 512 * 1024, f"{kernel / MIB:.0f} MiB in the kernel for {many} viewers"
    for rude in stalled:
        rude.reset()
    await until(lambda: hub.metric("viewers") == 0 and held(hub.port) == 0, "all are gone")


@TRANSPORTS
async def test_who_reads_a_kilobyte_a_second_resumes_and_misses_nothing(start_redis, start_hub, transport):
    """It falls behind, is aborted, and resumes; when the line is fast again it gets everything."""
    redis = start_redis()
    hub = start_hub(redis.url, send_timeout=2)
    crowd = Crowd()
    async with Worker(redis.url) as worker, Proxy("127.0.0.1", hub.port) as line:
        published = await worker.job("j")
        crowd.add(lambda: hub.url, published, each=1)
        line.bandwidth = 1000
        slow = Watcher(lambda: f"http://127.0.0.1:{line.port}", published, transport).start()
        await crowd.wait_connected()
        await asyncio.wait_for(slow.connected.wait(), 20)
        # Between us stand the proxy's buffers and the kernel's (6 MB at most), so more than those hold. The
        # log keeps all of it.
        await worker.stream(published, 400, rate=500, fill=40_000)
        await until(everybody_has(crowd, 400), "who reads has everything")
        await until(lambda: hub.metric("blocked_total") >= 1, "the slow one is cut off", timeout=10)
        line.bandwidth = 0
        line.cut()
        await worker.end(published)
        crowd.watchers.append(slow)
        await crowd.finish(40)
    assert slow.verdict.deliveries == 401


# --- row 18


@pytest.fixture
def cable():
    """Two network namespaces: one for the hub, one for the viewers."""
    if not netns.available():
        pytest.skip("network namespaces need root and ip(8)")
    with netns.Cable() as made:
        yield made


@pytest.mark.parametrize(
    ("transport", "portable"),
    [("sse", False), ("sse", True), ("websocket", False), ("websocket", True), ("dashboard", False)],
)
async def test_who_lost_the_cable_is_gone(start_redis, processes, cable, tmp_path, transport, portable):
    """No FIN, no RST: TCP_USER_TIMEOUT ends an event stream, an unanswered Ping ends a WebSocket."""
    socket = tmp_path / "redis"
    redis = start_redis("--unixsocket", str(socket))
    timeout = seconds(3, 45)
    # The long set has the real constants. In the fast one a WebSocket must be done before TCP_USER_TIMEOUT
    # could be.
    short = {"impatient_tcp": 3000} if transport == "sse" else {}
    more = {} if timeout == 45 else {"program": IMPATIENT, "heartbeat": 1, **short}
    if portable:
        more |= {"program": IMPATIENT, "impatient_portable": 1}
    hub = netns.FarHub(cable.hub, f"unix://{socket}", log_level="warning", **more)
    processes.append(hub)
    async with Worker(redis.url) as worker:
        published = await worker.job("j")
        viewers = [Rude(hub.port, sock=cable.viewer_socket()) for _ in range(5)]
        for rude in viewers:
            rude.address = (cable.address, hub.port)
            await rude.connect()
            if transport == "dashboard":
                await rude.send(request(DASHBOARD))
                await rude.read_until(b"\r\n\r\n")
                await rude.send(frame(TEXT, b'{"op":"subscribe","job":"j"}'))
                await rude.read_until(b'"subscribed"')
            else:
                await rude.send(request(path_of("j", transport)))
                await rude.read_until(b"\r\n\r\n")
                await worker.emit(published, n=rude.sock.fileno())
                await rude.read_until(b'"step"')
        assert hub.metric("viewers") == 5
        cable.cut()
        await worker.emit(published, n=-1)
        promised = seconds(1.2 + 3, 45 if transport == "sse" else 40)
        await until(lambda: hub.metric("viewers") == 0, "they are gone", timeout=promised * 1.5)
        for rude in viewers:
            rude.close()


# --- row 19


@WIRES
async def test_a_storm_of_joins_costs_one_subscription_and_few_reads(start_redis, start_hub, portable):
    """A thousand join one job as fast as they can: all get in, Redis gets few commands, all see the end."""
    redis = start_redis()
    hub = start_hub(redis.url, portable=portable, log_level="warning", max_viewers=10_000)
    many = number(1000, 5000)

    async def join(place: int) -> Rude:
        rude = Rude(hub.port)
        await rude.connect()
        await rude.send(request(path_of("j", "websocket" if place % 2 else "sse")))
        await rude.read_until(b"\r\n\r\n", timeout=60)
        return rude

    async with Worker(redis.url) as worker:
        published = await worker.job("j")
        await worker.emit(published, n=0)
        commands = ("subscribe", "hmget", "xrange", "xrevrange")
        before = {command: calls(redis, command) for command in commands}
        viewers = await asyncio.gather(*map(join, range(many)))
        after = {command: calls(redis, command) - before[command] for command in commands}
        assert after["subscribe"] == 1
        assert sum(after.values()) < 30, after
        answers = [status(rude.got) for rude in viewers]
        assert answers == [101 if place % 2 else 200 for place in range(many)]
        await worker.end(published)
        told = await asyncio.gather(*(rude.read_until(b'"ready"}', timeout=60) for rude in viewers))
    for place, got in enumerate(told):
        assert got.count(b'"n":0') == 1, f"viewer {place}: {got[-300:]!r}"
    for rude in viewers:
        rude.close()
    await until(lambda: hub.metric("viewers") == 0, "all are gone", timeout=30)


async def test_all_are_back_after_a_hub_was_killed(start_redis, start_hub):
    """kill -9 under load, then a new process: all reconnect at once with their cursors and miss nothing."""
    redis = start_redis()
    hub = start_hub(redis.url, log_level="warning", max_viewers=20_000)
    crowd = Crowd()
    async with Worker(redis.url) as worker:
        jobs = [await worker.job(f"job-{n}") for n in range(5)]
        for published in jobs:
            crowd.add(lambda: hub.url, published, each=number(25, 500))
        await crowd.wait_connected(60)
        streams = [asyncio.create_task(worker.stream(published, 100, rate=40)) for published in jobs]
        await until(everybody_has(crowd, 20), "the load runs", timeout=60)
        hub.kill()
        await asyncio.to_thread(hub.start)
        await asyncio.gather(*streams)
        for published in jobs:
            await worker.end(published)
        verdicts = await crowd.finish(60)
    assert min(verdict.connections for verdict in verdicts) >= 2
    assert not [watcher.statuses for watcher in crowd.watchers if watcher.statuses]


async def refused(port: int, path: str) -> bytes:
    """Returns everything that a refused viewer receives."""
    rude = await Rude(port).connect()
    await rude.send(request(path))
    got = await rude.read_until(b"event: reconnect\n" if path.endswith("stream") else b"\x88")
    rude.close()
    return got


def assert_refused(transport: str, got: bytes) -> None:
    """Fails unless an EventSource and a WebSocket would retry after this refusal."""
    if transport == "sse":
        head, _, body = got.partition(b"\r\n\r\n")
        assert status(got) == 200, got
        assert b"text/event-stream" in head
        assert body.startswith(b"retry: "), body
    else:
        assert status(got) == 101, got
        assert close_code(got) == 4013, got


@WIRES
async def test_overload_is_said_politely_and_nobody_is_evicted(start_redis, start_hub, portable):
    """A full hub: SSE gets 200, `retry`, `reconnect`, end; WebSocket gets 4013; others see everything."""
    redis = start_redis()
    hub = start_hub(redis.url, portable=portable, max_viewers=20, log_level="warning")
    crowd = Crowd()
    async with Worker(redis.url) as worker:
        published = await worker.job("j")
        crowd.add(lambda: hub.url, published, each=10)
        await crowd.wait_connected()
        await worker.stream(published, 50, rate=2000)
        for transport, path in (
            ("sse", path_of("j", "sse")),
            ("websocket", path_of("j", "websocket")),
            ("dashboard", DASHBOARD),
        ):
            answers = await asyncio.gather(*(refused(hub.port, path) for _ in range(number(50, 500))))
            for got in answers:
                assert_refused(transport, got)
        assert hub.metric("viewers") == 20
        assert hub.metric("refused_total") == 3 * number(50, 500)
        # And those who are refused and gone before they are told: nothing is left of them.
        for place in range(number(100, 1000)):
            rude = await Rude(hub.port).connect()
            await rude.send(request((path_of("j", "sse"), path_of("j", "websocket"), DASHBOARD)[place % 3]))
            rude.reset()
        await worker.end(published)
        verdicts = await crowd.finish(20)
    assert all(verdict.connections == 1 for verdict in verdicts), "nobody was evicted"
    await until(lambda: hub.metric("viewers") == 0 and held(hub.port) == 0, "nobody is left")


# --- row 20


@pytest.mark.parametrize(
    ("caps", "may", "may_not"),
    [
        ({"max_viewers_per_user_and_job": 3}, [("ada", "b")], [("ada", "a")]),
        ({"max_viewers_per_user": 3}, [("bob", "c")], [("ada", "a"), ("ada", "b")]),
        ({"max_viewers_per_job": 3}, [("ada", "b")], [("ada", "a")]),
        ({"max_viewers": 3}, [], [("ada", "a"), ("ada", "b"), ("bob", "c")]),
    ],
    ids=lambda caps: next(iter(caps)) if isinstance(caps, dict) else "",
)
@TRANSPORTS
async def test_at_a_cap_the_new_one_is_refused_until_another_leaves(
    start_redis, start_hub, transport, caps, may, may_not
):
    """Per user and job, per user, per job, per process. A place that was given back is free at once."""
    redis = start_redis()
    hub = start_hub(redis.url, **caps)
    async with Worker(redis.url) as worker:
        await worker.job("a")
        await worker.job("b")
        redis.command_now("HSET", "job:c", "status", "queued", "user_id", "bob")

        async def ask(user: str, job: str) -> Rude:
            rude = await Rude(hub.port).connect()
            await rude.send(request(path_of(job, transport), user=user))
            await rude.read_until(b"\r\n\r\n")
            return rude

        def inside() -> float:
            return hub.metric("viewers")

        first = [await ask(USER, "a") for _ in range(3)]
        await until(lambda: inside() == 3, "three are in")
        for user, job in may_not:
            rude = await ask(user, job)
            await rude.read_until(b"event: reconnect" if transport == "sse" else b"\x88")
            assert_refused(transport, rude.got)
            rude.close()
        assert inside() == 3
        for user, job in may:
            await ask(user, job)
        assert inside() == 3 + len(may)
        first.pop().reset()
        await until(lambda: inside() == 2 + len(may), "its place is given back")
        again = await ask(USER, "a")
        await until(lambda: inside() == 3 + len(may), "it is taken again")
        assert close_code(again.got) is None


async def test_a_dashboard_takes_a_place_of_its_user(start_redis, start_hub):
    """A dashboard without jobs takes a place too, and each of its jobs takes another."""
    redis = start_redis()
    hub = start_hub(redis.url, max_viewers_per_user=3)
    async with Worker(redis.url) as worker:
        await worker.job("a")
        idle = await Rude(hub.port).connect()
        await idle.send(request(DASHBOARD))
        await idle.read_until(b"\r\n\r\n")
        busy = await stall(hub.port, "a", "dashboard")
        for path in (path_of("a", "sse"), path_of("a", "websocket"), DASHBOARD):
            assert_refused("sse" if path.endswith("stream") else "websocket", await refused(hub.port, path))
        await idle.send(frame(TEXT, b'{"op":"subscribe","job":"a"}'))
        await idle.read_until(b'"overloaded"')
        busy.reset()
        await until(lambda: hub.metric("viewers") == 0, "the dashboard and its job are gone")
        await idle.send(frame(TEXT, b'{"op":"subscribe","job":"a"}'))
        await idle.read_until(b'"subscribed"')
        assert texts(idle.got), "it was in all the time"


async def test_idle_connections_do_not_take_the_viewers_files(start_redis, start_hub):
    """With 256 files the cap is lowered and logged. Who is in gets everything, and others come in meanwhile."""
    redis = start_redis()
    hub = start_hub(redis.url, prefix=("prlimit", "--nofile=256:256"))
    assert "the limit of open files allows 92" in hub.said
    crowd = Crowd()
    async with Worker(redis.url) as worker:
        published = await worker.job("j")
        crowd.add(lambda: hub.url, published, each=10)
        await crowd.wait_connected()
        idle = [await Rude(hub.port).connect() for _ in range(600)]
        crowd.add(lambda: hub.url, published, each=10)
        await crowd.wait_connected(5)
        assert hub.files < 200
        await worker.stream(published, 50, rate=200)
        await until(everybody_has(crowd, 50), "everybody gets everything meanwhile")
        assert len(hub.said) < 20_000, f"a storm in the log: {hub.said[-500:]}"
        for rude in idle:
            rude.reset()
        await worker.end(published)
        await crowd.finish(20)
    await until(lambda: hub.metric("viewers") == 0 and hub.files < 100, "nothing is left")
