"""Redis dies, freezes, loses data, is full, slow or closed to us: viewers get all, or hear of a loss."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
import redis.asyncio

from hub.errors import BrokerUnavailable
from hub.job.event import EventId, dumps
from tests.faults.rig.process import Process, free_port, until
from tests.faults.rig.producer import Worker
from tests.faults.rig.proxy import Proxy
from tests.faults.rig.scale import LONG, number, seconds
from tests.faults.rig.scene import (
    Scene,
    at_most_one_a_second,
    connected,
    disconnected,
    last,
    sent_away,
    together,
    watched,
)
from tests.faults.rig.tls import certificates
from tests.faults.rig.watcher import Watcher
from tests.support import producers
from tests.support.keys import log_of, meta_of
from tests.support.live import USER

REPAIR = 10
"""Seconds within which a gap is filled after the hub has reconnected. One is promised, on a machine that has time;
without the reconnect it would be found by the position check, after up to 25."""


# --- it goes away


async def test_a_redis_that_returns_with_its_data_is_healed(start_redis, start_hub):
    """It is killed during publishing and restarted: everything arrives, and no viewer gets a notice."""
    server = start_redis(durable=True)
    hub = start_hub(server.url)
    async with watched(hub, server.url, jobs=2, each=2) as scene:
        for n in range(number(2, 20)):
            await scene.publish(20, start=100 * n)
            server.kill()
            await disconnected(hub)
            publishing = asyncio.create_task(scene.publish(20, start=100 * n + 50))
            await asyncio.to_thread(server.start)
            returned = await connected(hub)
            await publishing
            print(
                f"connected {returned:.2f} s after the return, healed in {await scene.caught_up(REPAIR):.2f} s"
            )
        await scene.end()
        await scene.crowd.finish(10)


async def test_a_frozen_redis_is_noticed_and_healed(start_redis, start_hub):
    """Within 8 s; streams and heartbeats go on, new viewers are told to retry, no event is lost."""
    server = start_redis()
    hub = start_hub(server.url, heartbeat=0.5)
    async with watched(hub, server.url, each=2) as scene:
        await scene.publish(10)
        other = await scene.worker.job("nobody-watches")
        await scene.caught_up()
        server.freeze()
        publishing = asyncio.create_task(scene.publish(20, start=10))
        coming = asyncio.create_task(sent_away(hub, other.job))
        print(f"noticed in {await disconnected(hub):.1f} s")
        assert not hub.ready
        await coming
        beats = [watcher.verdict.heartbeats for watcher in scene.watchers]
        await asyncio.sleep(seconds(1, 22))  # the fault's length
        assert all(now.verdict.heartbeats > then for now, then in zip(scene.watchers, beats, strict=True))
        server.thaw()
        await connected(hub)
        await publishing
        await scene.caught_up(REPAIR)
        await scene.end()
        verdicts = await scene.crowd.finish(10)
    assert [verdict.deliveries for verdict in verdicts] == [31] * 4, "a write that was repeated is there once"
    assert [verdict.connections for verdict in verdicts] == [1] * 4
    at_most_one_a_second(hub.said, seconds(10, 32))


async def test_subscriptions_that_are_killed_again_and_again_lose_nothing(start_redis, start_hub):
    """CLIENT KILL every 200 ms during publishing: no gap, no resync, each event once."""
    server = start_redis()
    hub = start_hub(server.url)
    length = seconds(3, 60)

    async def kill() -> None:
        for _ in range(int(length / 0.2)):
            server.command_now("CLIENT", "KILL", "TYPE", "pubsub")
            await asyncio.sleep(0.2)

    async with watched(hub, server.url, jobs=2, each=2) as scene:
        await together(kill(), *(scene.worker.stream(job, int(100 * length), rate=100) for job in scene.jobs))
        await connected(hub)
        await scene.caught_up(REPAIR)
        await scene.end()
        await scene.crowd.finish(10)
    assert hub.metric("redis_reconnects_total") > length, "the fault was there"
    assert hub.metric("gaps_total") == hub.metric("resyncs_total") == 0


class Timed(Watcher):
    """A viewer that notes when its last event came."""

    arrived = 0.0

    def _take_event(self, event_id: EventId | None, body: str) -> None:
        super()._take_event(event_id, body)
        self.arrived = time.monotonic()


@pytest.mark.alone
async def test_a_thousand_watched_jobs_are_repaired_within_a_second(start_redis, start_hub):
    """Each of them has missed an event while the subscription was down."""
    server = start_redis()
    hub = start_hub(server.url, max_viewers_per_user=2000)
    async with Worker(server.url) as worker:
        jobs = [await worker.job(f"job-{number}") for number in range(1000)]
        watchers = [
            Timed(lambda: hub.url, job, "websocket" if number % 10 == 0 else "sse").start()
            for number, job in enumerate(jobs)
        ]
        try:
            async with asyncio.timeout(60):
                for watcher in watchers:
                    await watcher.connected.wait()
            hub.freeze()  # so that all thousand are published while the hub does not read
            server.command_now("CLIENT", "KILL", "TYPE", "pubsub")
            for job in jobs:
                await worker.emit(job, n=0)
            hub.thaw()
            await until(lambda: _listens(server), "the hub listens again")
            began = time.monotonic()
            await until(lambda: all(watcher.arrived for watcher in watchers), "all are repaired")
        finally:
            for watcher in watchers:
                await watcher.stop()
    took = sorted(watcher.arrived - began for watcher in watchers)
    print(f"repaired: median {took[500]:.2f} s, p99 {took[989]:.2f} s, last {took[-1]:.2f} s")
    assert took[989] < REPAIR
    assert not [problem for watcher in watchers for problem in watcher.verdict.problems]
    assert hub.metric("gaps_total") == 0


def _listens(server) -> bool:
    return server.command_now("PUBSUB", "NUMSUB", "push-hub:control")[1] == 1


async def test_a_subscriber_that_is_cut_for_being_slow_is_repaired_from_the_log(start_redis, start_hub):
    """Redis drops a subscriber that does not read, without an error: the hub heals the hole and counts it."""
    server = start_redis("--client-output-buffer-limit", "pubsub 1mb 1mb 1")
    hub = start_hub(server.url)
    async with watched(hub, server.url, each=2) as scene:
        await scene.publish(5)
        hub.freeze()
        for n in range(300):
            await scene.worker.emit(scene.job, n=100 + n, fill="x" * 50_000)
        await until(lambda: not _listens(server), "Redis cuts the hub")
        hub.thaw()
        await until(lambda: hub.metric("redis_reconnects_total") == 1, "the hub knows")
        await scene.publish(5, start=1000)
        await scene.end()
        await scene.crowd.finish(30)
    assert hub.metric("redis_reconnects_total") == 1
    assert hub.metric("gaps_total") == hub.metric("resyncs_total") == 0


# --- it forgets


def _restart_empty(server, job) -> None:
    server.kill()
    server.start()


def _flush(server, job) -> None:
    server.command_now("FLUSHALL")


def _delete_log(server, job) -> None:
    server.command_now("DEL", log_of(job))


@pytest.mark.parametrize("forget", [_restart_empty, _flush, _delete_log], ids=["restart", "flushall", "del"])
async def test_a_log_that_is_lost_is_answered_by_a_resync_and_what_follows_arrives(
    start_redis, start_hub, forget
):
    """Within a position check, or with the next event if nothing else shows the loss; no viewer hangs."""
    server = start_redis()
    hub = start_hub(server.url, position_check=1)
    async with watched(hub, server.url, each=2) as scene:
        await scene.publish(5)
        await scene.caught_up()
        await asyncio.to_thread(forget, server, scene.job.job)
        if forget is not _delete_log:
            await scene.noticed("resync lost", timeout=3)
            await scene.worker.client.hset(
                f"job:{scene.job.job}", mapping={"status": "code", "user_id": USER}
            )
        await scene.publish(5, start=5)
        if forget is _delete_log:
            await scene.noticed("resync restarted", timeout=3)
        await scene.end()
        verdicts = await scene.crowd.finish(10, pardoned=True)
    assert [verdict.deliveries for verdict in verdicts] == [11] * 4
    assert all(verdict.notices[0].startswith("resync") for verdict in verdicts)


async def test_a_redis_that_returns_without_its_last_writes_is_answered_by_a_resync(start_redis, start_hub):
    """Restarted from an older snapshot, as after a failover to a lagging replica: same ids, other events."""
    server = start_redis()
    hub = start_hub(server.url, position_check=1)
    async with watched(hub, server.url, each=2) as scene:
        await scene.publish(5)
        server.command_now("SAVE")
        await scene.publish(3, start=5)
        await scene.caught_up()
        await asyncio.to_thread(_restart_empty, server, scene.job)
        await scene.noticed("resync rolled back", timeout=5)
        for event_id in sorted(scene.job.acknowledged)[-3:]:
            del scene.job.acknowledged[event_id]  # these ids are given to other events later
        await scene.publish(5, start=20)
        await scene.end()
        verdicts = await scene.crowd.finish(10, pardoned=True)
    assert [verdict.deliveries for verdict in verdicts] == [14] * 4


async def test_what_was_trimmed_past_a_viewer_is_announced(start_redis, start_hub):
    """Trimmed while the hub was frozen, or before a viewer came: gap or resync, state, then events."""
    server = start_redis()
    hub = start_hub(server.url)
    async with watched(hub, server.url) as scene:
        await scene.publish(5)
        await scene.caught_up()
        early = str(next(iter(scene.job.acknowledged)))
        hub.freeze()
        server.command_now("CLIENT", "KILL", "TYPE", "pubsub")
        await scene.publish(10, start=5)
        server.command_now("XTRIM", log_of(scene.job.job), "MAXLEN", 3)
        hub.thaw()
        await scene.noticed("gap trimmed")
        await scene.caught_up()
        other = start_hub(server.url)
        scene.crowd.add(lambda: other.url, scene.job, each=1)
        for transport in ("sse", "websocket"):
            scene.watchers.append(Watcher(lambda: other.url, scene.job, transport, after=early).start())
        await scene.crowd.wait_connected()
        await scene.publish(5, start=20)
        await scene.end()
        verdicts = await scene.crowd.finish(10, pardoned=True)
    assert [verdict.notices for verdict in verdicts] == [["gap trimmed"]] * 4 + [["resync trimmed"]] * 2
    assert [verdict.deliveries for verdict in verdicts] == [5 + 3 + 6] * 2 + [3 + 6] * 2 + [6] * 2


# --- it refuses


async def _refused(scene: Scene, client) -> None:
    """Fails unless publishing fails and no viewer sees a part of it."""
    seen = scene.crowd.deliveries
    worker = Worker("")
    worker.publisher = type(scene.worker.publisher)(client, strict=True)
    with pytest.raises(BrokerUnavailable):
        await worker.publisher.emit(scene.job.job, "step", {"n": -1})
    with pytest.raises(BrokerUnavailable):
        await worker.publisher.ready(scene.job.job)
    assert (await client.xlen(log_of(scene.job.job))) == len(scene.job.acknowledged)
    assert scene.crowd.deliveries == seen


def _fill_memory(server) -> None:
    server.command_now("CONFIG", "SET", "maxmemory", 1)


def _empty_memory(server) -> None:
    server.command_now("CONFIG", "SET", "maxmemory", 0)


def _break_disk(server) -> None:
    """A directory in place of the snapshot makes saving fail, and Redis then takes no writes."""
    Path(server.directory.name, "dump.rdb").mkdir()
    server.command_now("CONFIG", "SET", "save", "3600 1")
    server.command_now("BGSAVE")
    until_failed = time.monotonic() + 10
    while server.command_now("INFO", "persistence")["rdb_last_bgsave_status"] == "ok":
        assert time.monotonic() < until_failed, "expected a snapshot that fails"
        time.sleep(0.02)


def _mend_disk(server) -> None:
    Path(server.directory.name, "dump.rdb").rmdir()
    server.command_now("CONFIG", "SET", "save", "")


@pytest.mark.parametrize(
    ("fault", "mend"), [(_fill_memory, _empty_memory), (_break_disk, _mend_disk)], ids=["memory", "disk"]
)
async def test_a_redis_that_takes_no_writes_shows_nothing_half(start_redis, start_hub, fault, mend):
    """The publisher gets the error and viewers see nothing; joins work; afterwards everything works."""
    server = start_redis()
    hub = start_hub(server.url)
    async with watched(hub, server.url) as scene:
        await scene.publish(5)
        await scene.caught_up()
        await asyncio.to_thread(fault, server)
        await _refused(scene, scene.worker.client)
        scene.crowd.add(lambda: hub.url, scene.job, each=1)
        await scene.crowd.wait_connected()
        await asyncio.to_thread(mend, server)
        await scene.publish(5, start=5)
        await scene.end()
        verdicts = await scene.crowd.finish(10)
    assert [verdict.deliveries for verdict in verdicts] == [11] * 4


async def test_a_hub_on_a_replica_serves_and_a_publisher_on_it_fails(start_redis, start_hub):
    """A replica accepts PUBLISH, not XADD, so one script does both; the primary's events still come."""
    primary = start_redis("--repl-diskless-sync-delay", "0")
    replica = start_redis("--replicaof", f"127.0.0.1 {primary.port}")
    await until(
        lambda: replica.command_now("INFO", "replication")["master_link_status"] == "up", "it replicates"
    )
    hub = start_hub(replica.url)
    async with watched(hub, primary.url) as scene, redis.asyncio.Redis.from_url(replica.url) as client:
        await scene.publish(5)
        await scene.caught_up()
        await _refused(scene, client)
        await scene.publish(5, start=5)
        await scene.end()
        verdicts = await scene.crowd.finish(10)
    assert [verdict.deliveries for verdict in verdicts] == [11] * 2


# --- it is slow, flaps, or is not there yet


@pytest.mark.alone
async def test_a_slow_redis_slows_nothing_down_but_itself(start_redis, start_hub):
    """200 ms per command: joins take a bounded time, everything arrives, nothing counts as lost."""
    server = start_redis()
    async with Proxy("127.0.0.1", server.port) as proxy:
        proxy.latency = 0.1
        hub = start_hub(f"redis://127.0.0.1:{proxy.port}/0")
        await connected(hub, timeout=10)
        began = time.monotonic()
        async with watched(hub, server.url, jobs=5, each=2) as scene:
            joined = time.monotonic() - began
            print(f"joined in {joined:.1f} s")
            assert joined < 10
            await scene.publish(20)
            await scene.end()
            await scene.crowd.finish(20)
        assert hub.metric("redis_reconnects_total") == 0


async def test_a_flapping_redis_costs_neither_events_nor_a_full_log(start_redis, start_hub):
    """A second up, a second down: the invariant holds, no spinning, and one log line a second per cause."""
    server = start_redis()
    length = number(2, 10)
    async with Proxy("127.0.0.1", server.port) as proxy:
        hub = start_hub(f"redis://127.0.0.1:{proxy.port}/0", position_check=2)
        await connected(hub)
        began = time.monotonic()

        async def flap() -> None:
            for _ in range(length):
                proxy.refuse = True
                proxy.cut()
                await asyncio.sleep(1)
                proxy.refuse = False
                await asyncio.sleep(1)

        async with watched(hub, server.url, jobs=3, each=1) as scene:
            tried = proxy.connections
            await together(flap(), *(scene.worker.stream(job, 50 * length, rate=25) for job in scene.jobs))
            print(f"{proxy.connections - tried} connections in {2 * length} s")
            assert proxy.connections - tried < 40 * length, "a spin"
            await connected(hub)
            await scene.end()
            await scene.crowd.finish(10)
        at_most_one_a_second(hub.said, time.monotonic() - began)


async def test_a_hub_starts_without_redis_and_is_ready_when_it_comes(start_redis, start_hub):
    """Until then it logs the reason, does not spin, and is alive but not ready."""
    port = free_port()
    began = time.monotonic()
    hub = start_hub(f"redis://127.0.0.1:{port}/0")
    assert hub.get("/readyz")[0] == 503
    await sent_away(hub, "some-job")
    await until(lambda: hub.metric("redis_reconnects_total") >= 4, "it tries again")
    server = start_redis(port=port)
    await until(lambda: hub.ready, "the hub is ready", timeout=3)
    at_most_one_a_second(hub.said, time.monotonic() - began)
    assert "no subscription connection to Redis" in hub.said
    async with watched(hub, server.url) as scene:
        await scene.publish(5)
        await scene.end()
        await scene.crowd.finish(10)


# --- it does not let us in


@pytest.mark.parametrize("revoke", ["off", "-@all", "resetchannels", "resetpass"] if LONG else ["off"])
async def test_rights_that_are_revoked_close_nobody_and_let_nobody_in(start_redis, start_hub, revoke):
    """Streams stay, new viewers are told to retry (never 404), the log says why; later the gap is filled."""
    server = start_redis()
    rights = ("on", ">secret-of-the-hub", "~job:*", "~push-hub:*", "&job:*", "&push-hub:control", "+@all")
    server.command_now("ACL", "SETUSER", "hub", *rights)
    hub = start_hub(f"redis://hub:secret-of-the-hub@127.0.0.1:{server.port}/0", heartbeat=0.5)
    await connected(hub)
    began = time.monotonic()
    async with watched(hub, server.url) as scene:
        await scene.publish(5)
        other = await scene.worker.job("nobody-watches")
        await scene.caught_up()
        server.command_now("ACL", "SETUSER", "hub", revoke)
        server.command_now("CLIENT", "KILL", "USER", "hub")
        await disconnected(hub)
        await scene.publish(5, start=5)
        await sent_away(hub, other.job)
        assert not hub.ready
        server.command_now("ACL", "SETUSER", "hub", *rights)
        await connected(hub)
        await scene.caught_up(REPAIR)
        await scene.end()
        verdicts = await scene.crowd.finish(10)
    assert [verdict.connections for verdict in verdicts] == [1] * 2
    assert "no subscription connection to Redis" in hub.said
    assert "secret-of-the-hub" not in hub.said
    at_most_one_a_second(hub.said, time.monotonic() - began)


async def test_a_redis_that_is_loading_its_data_is_no_redis_without_jobs(start_redis, start_hub):
    """Redis answers every command with LOADING: no viewer gets 404, and streams stay open."""
    server = start_redis("--loading-process-events-interval-bytes", "1024")
    hub = start_hub(server.url)
    async with watched(hub, server.url) as scene:
        await scene.publish(5)
        other = await scene.worker.job("nobody-watches")
        await scene.worker.client.mset({f"ballast-{n}": "x" * 1500 for n in range(200)})
        server.command_now("CONFIG", "SET", "rdbcompression", "no")
        server.command_now("SAVE")
        server.kill()
        await disconnected(hub)
        server.command += ["--key-load-delay", "10000"]
        Process.start(server)  # not its own `start`, which waits until it answers
        await connected(hub)  # a loading Redis accepts SUBSCRIBE
        assert not hub.ready
        await sent_away(hub, other.job)
        assert not hub.ready, "it is loading still"
        await until(lambda: hub.ready, "it is loaded")
        await scene.publish(5, start=5)
        await scene.end()
        verdicts = await scene.crowd.finish(10)
    assert [verdict.deliveries for verdict in verdicts] == [11] * 2


def _start_with_tls(start_redis, made):
    port = free_port()
    options = ["--tls-port", str(port), "--tls-auth-clients", "no", "--tls-ca-cert-file", str(made.authority)]
    server = start_redis(*options, "--tls-cert-file", str(made.certificate), "--tls-key-file", str(made.key))
    return server, f"rediss://127.0.0.1:{port}/0"


async def test_tls_works_with_the_right_authority(start_redis, start_hub, tmp_path):
    """rediss:// with the authority's certificate in the URL, for hub and worker."""
    made = certificates(tmp_path)
    _, url = _start_with_tls(start_redis, made)
    url += f"?ssl_cert_reqs=required&ssl_ca_certs={made.authority}"
    hub = start_hub(url)
    await connected(hub)
    async with watched(hub, url) as scene:
        await scene.publish(5)
        await scene.end()
        await scene.crowd.finish(10)


async def test_broken_tls_fails_closed(start_redis, start_hub, tmp_path):
    """A certificate of an unknown authority: not ready, no viewer gets in, one clear line, no traceback."""
    made, wrong = certificates(tmp_path / "right"), certificates(tmp_path / "wrong")
    server, url = _start_with_tls(start_redis, made)
    began = time.monotonic()
    hub = start_hub(f"{url}?ssl_ca_certs={wrong.authority}")
    async with Worker(server.url) as worker:
        job = await worker.job("job")
    await until(lambda: hub.metric("redis_reconnects_total") >= 3, "it tries again")
    assert not hub.ready
    await sent_away(hub, job.job)
    assert "certificate verify failed" in hub.said
    at_most_one_a_second(hub.said, time.monotonic() - began)


# --- Pub/Sub and the log disagree


async def _whisper(scene: Scene, fields: dict) -> EventId:
    """An event in the log and the hash that no message brings."""
    event_id = EventId.parse(await producers.whisper(scene.worker.client, scene.job.job, fields))
    assert event_id is not None
    scene.job.acknowledged[event_id] = json.dumps(fields)
    return event_id


async def test_an_event_that_no_message_brought_is_found_the_terminal_too(start_redis, start_hub):
    """A position check finds it, in the promised time."""
    server = start_redis()
    hub = start_hub(server.url, position_check=1)
    async with watched(hub, server.url, each=2) as scene:
        await scene.publish(3)
        await scene.caught_up()
        await _whisper(scene, {"type": "step", "n": 3})
        print(f"found in {await scene.caught_up(3):.1f} s")
        await scene.publish(3, start=4)
        scene.job.terminal = await _whisper(scene, {"type": "build.stage.started", "status": "failed"})
        verdicts = await scene.crowd.finish(5)
    assert [verdict.ended for verdict in verdicts] == ["failed"] * 4
    assert [verdict.deliveries for verdict in verdicts] == [8] * 4


async def test_a_status_that_only_the_hash_has_ends_the_stream(start_redis, start_hub):
    """An application writes the last status to the hash and publishes no event."""
    server = start_redis()
    hub = start_hub(server.url, position_check=1)
    async with watched(hub, server.url) as scene:
        await scene.publish(3)
        await scene.caught_up()
        scene.job.acknowledged[EventId(0, 0)] = json.dumps(
            {"type": "build.stage.started", "status": "failed", "job_id": scene.job.job}
        )
        await scene.worker.client.hset(f"job:{scene.job.job}", "status", "failed")
        await until(
            lambda: all(watcher.verdict.ended for watcher in scene.watchers), "all are ended", timeout=3
        )


async def test_a_message_that_is_not_in_the_log_is_announced_and_what_follows_arrives(start_redis, start_hub):
    """Its id is ahead of the log: a gap before it, and a resync when the log continues without it."""
    server = start_redis()
    hub = start_hub(server.url, position_check=1)
    async with watched(hub, server.url, each=2) as scene:
        await scene.publish(3)
        await scene.caught_up()
        newest = last(scene.job)
        body = dumps({"type": "step", "n": "forged", "job_id": scene.job.job})
        scene.job.tried.add(body)
        forged = f'{{"id":"{newest.epoch}-{newest.seq + 50}",{body[1:]}'
        await producers.shout(scene.worker.client, scene.job.job, forged)
        await scene.noticed("gap trimmed", timeout=3)
        await scene.publish(3, start=3)
        await scene.noticed("resync rolled back", timeout=3)
        await scene.publish(3, start=6)
        await scene.end()
        verdicts = await scene.crowd.finish(10, pardoned=True)
    for verdict in verdicts:
        assert verdict.notices == ["gap trimmed", "resync rolled back"]
        assert verdict.cursor == scene.job.terminal


# --- one job's trouble is not another's


async def test_a_lease_that_the_hub_may_not_end_does_not_stop_the_position_check(start_redis, start_hub):
    """A hub with read rights cannot declare a worker lost, and still finds what other jobs have missed."""
    server = start_redis()
    rights = "on >x ~job:* ~push-hub:* &job:* &push-hub:control -@all +hmget +hgetall +zrange +xrange +xrevrange +multi +exec +subscribe +unsubscribe +ping +time"
    server.command_now("ACL", "SETUSER", "hub", *rights.split())
    hub = start_hub(f"redis://hub:x@127.0.0.1:{server.port}/0", position_check=1)
    async with watched(hub, server.url, jobs=3) as scene:
        await scene.publish(3)
        await scene.caught_up()
        server.command_now("HSET", meta_of("job-0"), "lease", "1000")  # lapsed in 1970
        await until(lambda: "no permissions to run the 'evalsha'" in hub.said, "the hub tries, and may not")
        for job in scene.jobs[1:]:
            await _whisper(Scene(scene.worker, [job], scene.crowd), {"type": "step", "n": 3})
        await scene.caught_up(4)
