"""The hub's process gets SIGTERM, is killed or frozen, and its streams grow old (rows 30 to 32)."""

from __future__ import annotations

import asyncio
import errno
import http.client
import os
import random
import re
import signal
import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hub.job.event import EventId, dumps
from tests.faults.rig.dashboard import DashboardWatcher
from tests.faults.rig.process import until
from tests.faults.rig.producer import Worker
from tests.faults.rig.rude import Rude, close_code, path_of, request
from tests.faults.rig.scale import LONG, number, seconds
from tests.faults.rig.stalled import Stalled
from tests.faults.rig.traffic import saw_everything, traffic
from tests.faults.rig.turns import at_random, in_turn
from tests.faults.rig.watcher import Crowd, Told, Watcher
from tests.support.keys import log_of, meta_of

pytestmark = pytest.mark.alone
WIRES = pytest.mark.parametrize("portable", [False, True], ids=["fast", "portable"])

WIRES_IN_TIME = pytest.mark.parametrize("portable", [False, *[True] * LONG])
"""Where the wires differ little, the portable one is in the long set only."""

EXIT = 2.0
"""Seconds after the drain window within which the hub must have ended."""

SLACK = 1.0
"""Half of that: the machine is shared."""

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


def watch_in_turn(crowd: Crowd, jobs, *hubs, each: int) -> None:
    """`each` viewers per transport on each job, at the first hub until it drains them, then at the next."""
    for job in jobs:
        for transport in ("sse", "websocket"):
            for n in range(each):
                name = f"{transport} viewer {n} of {job.job}"
                crowd.watchers.append(Watcher(in_turn(*hubs), job, transport, name=name).start())


def spread(times: list[float], window: float) -> None:
    """They cover most of the window, and no tenth of it has a crowd."""
    first, last = min(times), max(times)
    assert last - first >= window / 2, f"all within {last - first:.2f} s of a window of {window} s"
    for tenth in range(10):
        begin = first + tenth * window / 10
        share = sum(begin <= at < begin + window / 10 for at in times) / len(times)
        assert share <= 0.3, f"{share:.0%} of all in tenth {tenth} of the window"


def moved(hub) -> list[int]:
    """Returns the numbers of drained viewers that the log gives at each end of a process."""
    return [int(count) for count in re.findall(r"(\d+) viewers moved away in", hub.said)]


def workers(hub) -> list[int]:
    """Returns the process ids of its workers."""
    return [int(pid) for pid in Path(f"/proc/{hub.pid}/task/{hub.pid}/children").read_text().split()]


# --- row 30: SIGTERM


@WIRES
async def test_a_drain_moves_everybody_over_its_window_and_loses_no_event(start_redis, start_hub, portable):
    """Not ready at once, no new viewers, one `reconnect` per viewer, a timely exit; no event is lost."""
    window, each = seconds(3, 20), number(50, 625)
    redis = start_redis()
    old, new = [start_hub(redis.url, drain=window, portable=portable) for _ in range(2)]
    kept = http.client.HTTPConnection("127.0.0.1", old.port, timeout=5)
    crowd = Crowd()
    async with Worker(redis.url) as worker:
        jobs = [await worker.job(f"job-{n}") for n in range(4)]
        watch_in_turn(crowd, jobs, old, new, each=each)
        await crowd.wait_connected(seconds(30, 120))
        await until(lambda: answer(kept) == 200, "it is ready")
        async with traffic(worker, jobs, rate=10):
            began = asyncio.get_running_loop().time()
            old.terminate()
            await until(lambda: old.get("/healthz")[0] == 0, "nobody new is let in", timeout=1 + SLACK)
            assert await asyncio.to_thread(answer, kept) == 503
            assert await old.wait(window + EXIT + SLACK) == 0
        saw_everything(await crowd.finish(30))
    told = [watcher.told for watcher in crowd.watchers]
    assert {len(one) for one in told} == {1}, "everybody is sent away once"
    assert_advice(crowd, [one[0] for one in told])
    spread([one[0].at - began for one in told], window)
    assert moved(old) == [len(crowd.watchers)]
    kept.close()


def answer(kept: http.client.HTTPConnection) -> int:
    """Of /readyz on a connection that is kept open."""
    kept.request("GET", "/readyz")
    response = kept.getresponse()
    response.read()
    return response.status


def assert_advice(crowd: Crowd, told: list[Told]) -> None:
    """Why, and when to come back: a different time for each, so that they do not come back together."""
    assert len({one.after_ms for one in told}) > len(told) / 4
    assert all(500 <= one.after_ms <= 3600 for one in told), "HUB_RETRY is 3 s"
    for watcher, one in zip(crowd.watchers, told, strict=True):
        if watcher.transport == "sse":
            assert one.reason == "server restarts, resume"
        else:
            assert watcher.closes[0] == 1012


@WIRES_IN_TIME
async def test_a_drain_moves_a_dashboard_as_a_whole(start_redis, start_hub, portable):
    """It gets one `reconnect` and one close 1012, and all its jobs resume at the next hub."""
    redis = start_redis()
    old, new = [start_hub(redis.url, drain=1, portable=portable) for _ in range(2)]
    async with Worker(redis.url) as worker:
        jobs = [await worker.job(f"job-{n}") for n in range(20)]
        dashboards = [DashboardWatcher(in_turn(old, new), jobs) for _ in range(number(10, 50))]
        for dashboard in dashboards:
            await asyncio.wait_for(dashboard.connected.wait(), 30)
        async with traffic(worker, jobs, rate=10):
            old.terminate()
            assert await old.wait(1 + EXIT + SLACK) == 0
        for dashboard in dashboards:
            await dashboard.finish(30)
            saw_everything(list(dashboard.verdicts.values()))
    assert {len(dashboard.told) for dashboard in dashboards} == {1}
    assert {dashboard.closes[0] for dashboard in dashboards} == {1012}


@WIRES
async def test_viewers_that_do_not_read_do_not_hold_up_the_exit(start_redis, start_hub, portable):
    """Blocked sockets of every kind are aborted at the end of the window, and no crash is logged."""
    redis = start_redis()
    hub = start_hub(redis.url, drain=1, portable=portable, send_timeout=60)
    crowd = Crowd()
    async with Worker(redis.url) as worker:
        job = await worker.job("job")
        stalled = [Stalled(hub, "job", kind) for kind in ("sse", "websocket", "dashboard") for _ in range(5)]
        crowd.add(lambda: hub.url, job, each=1)
        await crowd.wait_connected()
        await until(lambda: hub.metric("viewers") == 17, "all are in")
        await worker.stream(job, 150, rate=1000, fill=60_000)  # more than all the buffers on the way
        await until(lambda: crowd.deliveries == 300, "who reads has everything")
        hub.terminate()
        code = await hub.wait(1 + EXIT + SLACK)
        await crowd.stop()
    for client in stalled:
        client.close()
    assert code == 0


@pytest.mark.parametrize("workers", [1, 3])
async def test_an_idle_hub_ends_within_a_second(start_redis, start_hub, workers):
    """There is nobody to drain, so no window; an idle kept-alive connection does not count."""
    redis = start_redis()
    hub = start_hub(redis.url, drain=30, workers=workers)
    kept = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=5)
    await until(lambda: answer(kept) == 200, "it is ready")
    hub.terminate()
    assert await hub.wait(1 + SLACK) == 0
    kept.close()


@WIRES
async def test_a_second_signal_ends_it_at_once(start_redis, start_hub, portable):
    """Viewers that are not drained yet lose their connection, and resume."""
    redis = start_redis()
    old, new = start_hub(redis.url, drain=120, portable=portable), start_hub(redis.url)
    crowd = Crowd()
    async with Worker(redis.url) as worker:
        jobs = [await worker.job("job")]
        watch_in_turn(crowd, jobs, old, new, each=200)
        await crowd.wait_connected()
        async with traffic(worker, jobs, rate=20):
            old.terminate()
            await until(lambda: any(watcher.told for watcher in crowd.watchers), "the drain has begun")
            old.terminate()
            assert await old.wait(1 + SLACK) == 0
        saw_everything(await crowd.finish(30))


@WIRES_IN_TIME
async def test_a_job_that_ends_during_the_drain_ends_for_its_viewers(start_redis, start_hub, portable):
    """Viewers that are still there get the end here; those already drained get it from the next hub."""
    redis = start_redis()
    old, new = [start_hub(redis.url, drain=3, portable=portable) for _ in range(2)]
    crowd = Crowd()
    async with Worker(redis.url) as worker:
        job = await worker.job("job")
        await worker.stream(job, 20, rate=1000)
        watch_in_turn(crowd, [job], old, new, each=50)
        await crowd.wait_connected()
        old.terminate()
        await until(lambda: sum(len(watcher.told) for watcher in crowd.watchers) > 5, "some are moved")
        await worker.end(job)
        saw_everything(await crowd.finish(10))
        assert await old.wait(3 + EXIT + SLACK) == 0
    assert max(watcher.verdict.connections for watcher in crowd.watchers) == 2
    stayed = [watcher for watcher in crowd.watchers if not watcher.told]
    assert stayed, "the window is longer than that"
    assert {watcher.verdict.connections for watcher in stayed} == {1}
    assert moved(old) == [len(crowd.watchers) - len(stayed)]


async def test_a_drain_with_several_workers_lets_nobody_wait_at_the_door(start_redis, start_hub):
    """No worker accepts any more, so the kernel must refuse new connections, and clients go elsewhere."""
    redis = start_redis()
    old, new = start_hub(redis.url, drain=1.5, workers=3), start_hub(redis.url)
    crowd = Crowd()
    async with Worker(redis.url) as worker:
        jobs = [await worker.job("job")]
        watch_in_turn(crowd, jobs, old, new, each=60)
        await crowd.wait_connected()
        async with traffic(worker, jobs, rate=10):
            old.terminate()
            await until(lambda: refuses(old), "who comes is refused, and does not wait", timeout=1 + SLACK)
            assert await old.wait(1.5 + EXIT + SLACK) == 0
        saw_everything(await crowd.finish(30))
    assert sum(moved(old)) == len(crowd.watchers)


def refuses(hub) -> bool:
    """A new connection is refused at once; one that waits for an answer is not."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", hub.port)) == errno.ECONNREFUSED


# --- row 31: deploys and deaths


async def test_a_rolling_deploy_of_three_hubs_is_not_seen_by_viewers(start_redis, start_hub):
    """Each hub restarts in turn under load: viewers get everything in order and once, and no notice."""
    rng = random.Random(31)
    redis = start_redis()
    hubs = [start_hub(redis.url, drain=seconds(1, 10), portable=n == 2) for n in range(3)]
    crowd = Crowd()
    async with Worker(redis.url) as worker:
        jobs = [await worker.job(f"job-{n}") for n in range(5)]
        for job in jobs:
            crowd.add(at_random(hubs, rng), job, each=number(8, 40))
        dashboard = DashboardWatcher(at_random(hubs, rng), jobs)
        await crowd.wait_connected()
        async with traffic(worker, jobs, rate=30):
            for hub in hubs:
                hub.terminate()
                assert await hub.wait(seconds(1, 10) + EXIT + SLACK) == 0
                await asyncio.to_thread(hub.start)
        saw_everything(await crowd.finish(30))
        await dashboard.finish(30)
    assert all(set(watcher.statuses) <= {204} for watcher in crowd.watchers), "an EventSource would give up"
    assert sum(count for hub in hubs for count in moved(hub)) > 0


@WIRES_IN_TIME
async def test_viewers_survive_the_death_of_their_hub(start_redis, start_hub, portable):
    """After kill -9 there is no goodbye; every viewer resumes at the other hub."""
    redis = start_redis()
    old, new = [start_hub(redis.url, portable=portable) for _ in range(2)]
    crowd = Crowd()
    async with Worker(redis.url) as worker:
        jobs = [await worker.job(f"job-{n}") for n in range(4)]
        watch_in_turn(crowd, jobs, old, new, each=10)
        dashboard = DashboardWatcher(in_turn(old, new), jobs)
        await crowd.wait_connected()
        async with traffic(worker, jobs, rate=50):
            await until(lambda: crowd.deliveries > 500, "everybody is served")
            old.kill()
            await until(
                lambda: new.metric("viewers") == len(crowd.watchers) + len(jobs), "all are at the next"
            )
        saw_everything(await crowd.finish(30))
        await dashboard.finish(30)


async def test_a_worker_that_is_killed_is_replaced_and_its_viewers_resume(start_redis, start_hub):
    """kill -9 of one of three: its viewers reconnect to the same port, the others' notice nothing."""
    redis = start_redis()
    hub = start_hub(redis.url, workers=3)
    crowd = Crowd()
    async with Worker(redis.url) as worker:
        jobs = [await worker.job(f"job-{n}") for n in range(4)]
        for job in jobs:
            crowd.add(lambda: hub.url, job, each=10)
        await crowd.wait_connected()
        async with traffic(worker, jobs, rate=50):
            await until(lambda: crowd.deliveries > 500, "everybody is served")
            await until(lambda: len(workers(hub)) == 3, "all are there")
            killed = random.Random(31).choice(workers(hub))
            signal_to(killed, signal.SIGKILL)
            await until(lambda: len(set(workers(hub)) - {killed}) == 3, "it is replaced", timeout=10)
            resumed = [watcher for watcher in crowd.watchers if watcher.verdict.connections > 1]
            await until(
                lambda: hub.metric("viewers") == len(crowd.watchers), "all are back, and nobody counts twice"
            )
        saw_everything(await crowd.finish(30))
    assert f"(process {killed}) ended with -9, replacing it" in hub.said
    assert len(resumed) < len(crowd.watchers), "the other two workers' viewers stay"


def signal_to(pid: int, number: int) -> None:
    """To a child of one of our own processes."""
    os.kill(pid, number)


# --- row 32: time


@WIRES_IN_TIME
async def test_a_frozen_hub_goes_on_where_it_stood(start_redis, start_hub, portable):
    """Events published meanwhile arrive, heartbeats continue, and the stall is logged and counted."""
    redis = start_redis()
    hub = start_hub(redis.url, heartbeat=1, portable=portable)
    crowd = Crowd()
    async with Worker(redis.url) as worker:
        jobs = [await worker.job(f"job-{n}") for n in range(2)]
        for job in jobs:
            crowd.add(lambda: hub.url, job, each=10)
        dashboard = DashboardWatcher(lambda: hub.url, jobs)
        await crowd.wait_connected()
        async with traffic(worker, jobs, rate=50):
            await until(lambda: crowd.deliveries > 500, "everybody is served")
            hub.freeze()
            await asyncio.sleep(seconds(2, 30))
            hub.thaw()
            await until(lambda: hub.metric("stalls_total") >= 1, "the stall is counted")
            before = crowd.deliveries
            await until(lambda: crowd.deliveries > before + 500, "it goes on")
        saw_everything(await crowd.finish(30))
        await dashboard.finish(30)
    assert re.search(r"the event loop stood still for \d+\.\d s", hub.said)
    if not portable:
        assert {watcher.verdict.connections for watcher in crowd.watchers} == {1}, "nobody was cut off"


@pytest.mark.parametrize("clock", ["python", *["faketime"] * LONG])
async def test_a_wall_clock_that_jumps_moves_no_timer(start_redis, start_hub, tmp_path, monkeypatch, clock):
    """An hour forward, two back: timers keep their pace, no viewer is moved, no worker is declared lost."""
    if clock == "faketime" and not FAKETIME.exists():
        pytest.skip("libfaketime is not installed; the other case turns Python's own clock")
    offset = tmp_path / "offset"
    offset.write_text("+0")
    redis = start_redis()
    with monkeypatch.context() as patch:
        patch.setenv("FAKETIME_TIMESTAMP_FILE", str(offset))
        if clock == "faketime":
            patch.setenv("LD_PRELOAD", str(FAKETIME))
            patch.setenv("FAKETIME_NO_CACHE", "1")
            patch.setenv("DONT_FAKE_MONOTONIC", "1")
        program = "tests.faults.rig.clock" if clock == "python" else ""
        hub = start_hub(redis.url, program=program, heartbeat=0.5, position_check=0.5, stream_age=600)
    crowd = Crowd()
    async with Worker(redis.url) as worker:
        job, leased = await worker.job("job"), await worker.job("leased")
        crowd.add(lambda: hub.url, job, each=3)
        crowd.add(lambda: hub.url, leased, each=3)
        await crowd.wait_connected()
        async with worker.publisher.lease("leased", ttl=60):
            for n, hours in enumerate((1, -1), 1):
                offset.write_text(f"{hours * 3600:+d}")
                assert abs(logged_clock(hub) - hours * 3600) < 60, "the hub's clock has jumped"
                await wait_for_heartbeats(crowd, 3, timeout=3 * 0.6 * 1.5 + SLACK)
                publish_silently(redis, job, {"type": "step", "hours": hours})
                await until(
                    lambda due=6 * n: crowd.deliveries == due, "the position check finds it", timeout=3
                )
        for name in ("stalls_total", "aged_total", "moved_total", "workers_lost_total"):
            assert hub.metric(name) == 0, name
        await worker.end(job)
        await worker.end(leased)
        saw_everything(await crowd.finish(10))
    assert {watcher.verdict.connections for watcher in crowd.watchers} == {1}


def logged_clock(hub) -> float:
    """Returns by how many seconds the clock of the hub's log is ahead of ours."""
    hub.get("/healthz")
    stamp = re.findall(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),", hub.said, re.MULTILINE)[-1]
    return (datetime.fromisoformat(stamp).astimezone() - datetime.now(UTC)).total_seconds()


async def wait_for_heartbeats(crowd: Crowd, more: int, *, timeout: float) -> None:
    """So many more for each viewer."""
    had = [watcher.verdict.heartbeats for watcher in crowd.watchers]

    def enough() -> bool:
        now = [watcher.verdict.heartbeats for watcher in crowd.watchers]
        return all(beats >= before + more for beats, before in zip(now, had, strict=True))

    await until(enough, "heartbeats keep their pace", timeout=timeout)


def publish_silently(redis, job, fields: dict) -> None:
    """An event that is in the log, and that no message brings."""
    body = dumps({**fields, "job_id": job.job})
    last = max(job.acknowledged, default=None)
    epoch = last.epoch if last else int(redis.command_now("HGET", meta_of(job.job), "epoch"))
    event_id = last.next if last else EventId(epoch, 0)
    job.acknowledged[event_id] = body
    redis.command_now("XADD", log_of(job.job), str(event_id), "data", body)
    redis.command_now("HSET", meta_of(job.job), "position", str(event_id))
    redis.command_now("HDEL", meta_of(job.job), "digest")


# --- streams grow old


@WIRES
async def test_streams_end_by_age_and_resume(start_redis, start_hub, portable):
    """Each at its own time, at 80 to 100 % of the age, with that reason; counted, and no event is lost."""
    age = seconds(1, 4)
    redis = start_redis()
    hub = start_hub(redis.url, stream_age=age, heartbeat=1, portable=portable)
    crowd = Crowd()
    async with Worker(redis.url) as worker:
        jobs = [await worker.job(f"job-{n}") for n in range(3)]
        for job in jobs:
            crowd.add(lambda: hub.url, job, each=number(10, 100))
        dashboard = DashboardWatcher(lambda: hub.url, jobs)
        mute = Stalled(hub, jobs[0].job, "websocket")  # never answers the Close, so it is there for a while
        await crowd.wait_connected()
        async with traffic(worker, jobs, rate=30):
            await until(
                lambda: all(len(watcher.told) >= 2 for watcher in [*crowd.watchers, dashboard]),
                "each has grown old twice",
                timeout=2 * age * 1.5 + SLACK,
            )
        saw_everything(await crowd.finish(10))
        await dashboard.finish(10)
    lives = [
        one.at - began
        for watcher in crowd.watchers
        for began, one in zip(watcher.begins, watcher.told, strict=False)
    ]
    assert min(lives) > 0.8 * age - 0.3, "a client's clock starts a little later than the hub's"
    assert max(lives) < age + SLACK
    assert max(lives) - min(lives) > 0.1 * age, "each at its own time"
    sse = [one for watcher in crowd.watchers for one in watcher.told if watcher.transport == "sse"]
    assert {one.reason for one in sse} == {"stream is old, resume"}
    assert {code for watcher in crowd.watchers for code in watcher.closes} <= {1012, 1000}
    assert set(dashboard.closes) <= {1012}
    told = sum(len(watcher.told) for watcher in [*crowd.watchers, dashboard])
    mute.close()
    assert hub.metric("aged_total") == told + 1, "each once"


@pytest.mark.parametrize("portable", [False, True], ids=["fast", "portable"])
async def test_who_waits_for_redis_while_the_hub_ends_is_sent_on(start_redis, start_hub, portable):
    """Viewers that wait for a frozen Redis get a `reconnect`; a 500 would stop an EventSource."""
    redis = start_redis()
    hub = start_hub(redis.url, drain=5, portable=portable)
    async with Worker(redis.url) as worker:
        for n in range(5):
            await worker.job(f"j{n}")
    redis.freeze()
    waiting = []
    for n in range(5):
        for transport in ("sse", "websocket"):
            rude = await Rude(hub.port).connect()
            await rude.send(request(path_of(f"j{n}", transport)))
            waiting.append(rude)
    await asyncio.sleep(0.3)
    hub.terminate()
    answers = [await rude.read_to_end() for rude in waiting]
    assert await hub.wait(8) == 0
    redis.thaw()
    assert all(b"event: reconnect" in answer for answer in answers[::2]), answers[::2]
    assert {close_code(answer) for answer in answers[1::2]} == {4013}
