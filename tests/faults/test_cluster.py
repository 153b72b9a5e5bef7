"""Primaries of a cluster die, freeze, move and split: viewers lose nothing, and no publish fails.

Each fault happens under load, to jobs on all shards. Both publishers, a lease and a bare producer go on; SSE,
WebSocket and dashboard viewers are judged.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest
import redis
import redis.asyncio
from redis.crc import key_slot
from websockets.asyncio.client import connect

from hub import JobStateMachine, Publisher, SyncPublisher
from tests.faults.rig.cluster import ClusterProcesses, Node, Way, valkey
from tests.faults.rig.judge import Published
from tests.faults.rig.process import Hub, Process, until
from tests.faults.rig.scale import seconds
from tests.faults.rig.scene import Place, Scene, connected, sent_away, together, watched
from tests.faults.rig.tls import certificates
from tests.live.test_acl import OPERATIONS, rights
from tests.support.live import ADMIN, USER, token
from tests.support.viewer import view

ALL = ("sse", "websocket", "dashboard")

JOBS = 6
"""Jobs of each publisher: enough for all three shards."""

RATE = 20
"""Events a second of each job, before, during and after the fault."""

LEASE = 8.0
"""Seconds of the lease that a worker holds throughout."""

Fault = Callable[[ClusterProcesses], Awaitable[None]]


async def _through(cluster: ClusterProcesses, hub: Hub, fault: Fault, *, lossy: bool = False) -> None:
    """Judge everybody through `fault`. `lossy`: Redis may have lost what it acknowledged, which is announced."""
    name = fault.__name__.strip("_")
    await connected(hub, timeout=5)
    async with (
        watched(hub, cluster.url, jobs=JOBS, transports=ALL) as scene,
        watched(hub, cluster.url, jobs=JOBS, transports=ALL, prefix="sync", blocking=True) as sync,
        _bare(cluster, hub, f"bare-{name}", strict=fault not in (_frozen, _in_a_minority)),
        scene.worker.publisher.lease(scene.jobs[0].job, ttl=LEASE) as lease,
    ):
        owners = {cluster.owner(f"job:{job.job}").port for job in scene.jobs}
        assert len(owners) == 3, "jobs on all shards"
        over = asyncio.Event()
        publishing = [
            asyncio.create_task(_publish_until(over, one, job)) for one in (scene, sync) for job in one.jobs
        ]
        await asyncio.sleep(0.5)
        await fault(cluster)
        await asyncio.to_thread(cluster.wait_well)
        await asyncio.sleep(1)
        over.set()
        await asyncio.gather(*publishing)
        assert not lease.lost
        await together(scene.end(), sync.end())
        for one in (scene, sync):
            for verdict in await one.crowd.finish(15, pardoned=lossy):
                assert lossy or verdict.notices == []
                assert set(verdict.notices) <= {"resync rolled back"}, verdict.notices
                assert verdict.deliveries == len(verdict.published.acknowledged) or lossy
                assert verdict.connections == 1, f"{verdict.name} connected {verdict.connections} times"
            assert one.worker.refused == 0, "no publish failed"
    print(f"{name}: {scene.crowd.deliveries + sync.crowd.deliveries} deliveries")


async def _publish_until(over: asyncio.Event, scene: Scene, job: Published) -> None:
    n = 0
    while not over.is_set():
        await scene.worker.stream(job, 1, rate=RATE, start=n)
        n += 1


@asynccontextmanager
async def _bare(cluster: ClusterProcesses, hub: Hub, job: str, *, strict: bool) -> AsyncIterator[None]:
    """A producer that PUBLISHes through a node that stays, and its viewers. `strict`: each hole is announced
    before what comes after it. The hub learns only later that a node which it listened at was frozen, or parted from
    the others.
    """
    owner = cluster.owner(f"job:{job}")
    node = cluster.other(_victim(cluster))
    owner.command_now("HSET", f"job:{job}", "status", "code", "user_id", USER)
    over = asyncio.Event()

    async def shout() -> None:
        n = 0
        while not over.is_set():
            with contextlib.suppress(redis.RedisError):
                text = f'{{"type":"step","n":{n}}}'
                await asyncio.to_thread(node.command_now, "PUBLISH", f"job:{job}:events", text)
                n += 1
            await asyncio.sleep(0.1)
        text = '{"type":"build.stage.started","stage":"ready","status":"ready"}'
        await asyncio.to_thread(node.command_now, "PUBLISH", f"job:{job}:events", text)
        # The bus may lose it. The hash says the same, as with any application that writes it.
        await asyncio.to_thread(
            cluster.owner(f"job:{job}").command_now, "HSET", f"job:{job}", "status", "ready"
        )

    async def watch(transport: str) -> None:
        async with view(Place(hub), transport, job, query="?from=live") as viewer:
            frames = await viewer.all()
        assert viewer.closed == "ended"
        last, announced = -1, True  # it came when it came
        for frame in frames:
            if frame.name == "gap":
                announced = True
            elif frame.name == "step":
                n = frame.fields["n"]
                hole = announced or not strict
                assert n == last + 1 or (hole and n > last), f"{transport}: {n} after {last}"
                last, announced = n, False
        assert last > 0

    watching = [asyncio.create_task(watch(transport)) for transport in ("sse", "websocket")]
    shouting = asyncio.create_task(shout())
    try:
        yield
    finally:
        over.set()
    await shouting
    await asyncio.gather(*watching)


async def _run(
    processes: list[Process], start_hub, *faults: Fault, binary: str | None = None, lossy=()
) -> None:
    """Each fault on a cluster and a hub of its own, all at once: they wait for most of their time."""

    async def one(fault: Fault) -> None:
        cluster = await asyncio.to_thread(ClusterProcesses, processes, binary=binary)
        hub = await asyncio.to_thread(start_hub, cluster.url, position_check=2)
        await _through(cluster, hub, fault, lossy=fault in lossy)

    await together(*map(one, faults))


# --- failover


def _victim(cluster: ClusterProcesses) -> Node:
    return cluster.owner("job:job-0")


async def _planned(cluster: ClusterProcesses) -> None:
    victim = _victim(cluster)
    await asyncio.to_thread(cluster.fail_over, victim)


async def _killed(cluster: ClusterProcesses) -> None:
    victim = _victim(cluster)
    replica = cluster.replica_of(victim)
    victim.kill()
    await until(lambda: replica.is_primary, "the replica is promoted", timeout=20)
    await asyncio.to_thread(victim.start)


async def _frozen(cluster: ClusterProcesses) -> None:
    victim = _victim(cluster)
    replica = cluster.replica_of(victim)
    victim.freeze()
    await until(lambda: replica.is_primary, "the replica is promoted", timeout=20)
    await asyncio.sleep(1)
    victim.thaw()


async def test_a_failover_costs_viewers_nothing(processes, start_hub):
    """Planned, killed or frozen. A killed primary may take with it what it had not replicated."""
    await _run(processes, start_hub, _planned, _killed, _frozen, lossy=(_killed, _frozen))


async def _in_a_minority(cluster: ClusterProcesses) -> None:
    """A primary that no other node reaches is replaced, does not know it, and still takes subscriptions."""
    victim = _victim(cluster)
    replica = cluster.replica_of(victim)
    cluster.split(victim)
    await until(lambda: replica.is_primary, "the replica is promoted", timeout=20)
    assert victim.is_primary, "it does not know"
    with redis.Redis(port=victim.port) as client, client.pubsub() as alone:
        alone.ssubscribe("push-hub:{job:job-0}:events")
        assert alone.get_sharded_message(timeout=5)["type"] == "ssubscribe"
    await asyncio.sleep(2)
    assert victim.is_primary
    cluster.split()


async def test_a_primary_in_a_minority_costs_viewers_nothing(processes, start_hub):
    """Its replica follows it until the promotion, and it takes no write any more by then: nothing is lost."""
    async with contextlib.AsyncExitStack() as stack:
        ways = [await stack.enter_async_context(Way(f"127.0.3.{number}")) for number in range(1, 7)]
        cluster = await asyncio.to_thread(ClusterProcesses, processes, ways=ways)
        hub = await asyncio.to_thread(start_hub, cluster.url, position_check=2)
        await _through(cluster, hub, _in_a_minority)


# --- slots move


async def _moved_slot(cluster: ClusterProcesses) -> None:
    """The script gets TRYAGAIN until all 20,000 keys of the slot have moved."""
    key = "job:job-0"
    source = _victim(cluster)
    await asyncio.to_thread(cluster.fill, key, 20_000)
    await asyncio.to_thread(cluster.move_slot, key_slot(key.encode()), source, cluster.other(source))


async def _resharded(cluster: ClusterProcesses) -> None:
    """A thousand slots, by the command that operators use."""
    source = _victim(cluster)
    ids = ["--cluster-from", source.id, "--cluster-to", cluster.other(source).id]
    address = f"127.0.0.1:{source.port}"
    command = ["redis-cli", "--cluster", "reshard", address, *ids, "--cluster-slots", "1000", "--cluster-yes"]
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    assert await child.wait() == 0


async def _atomically_moved(cluster: ClusterProcesses) -> None:
    """Valkey 9 moves a slot in one step."""
    slot = key_slot(b"job:job-0")
    source = _victim(cluster)
    target = cluster.other(source)
    await asyncio.to_thread(cluster.fill, "job:job-0", 20_000)
    source.command_now("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target.id)
    await until(lambda: cluster.owner("job:job-0") is target, "the slot has moved", timeout=20)


async def test_a_slot_that_moves_costs_viewers_nothing(processes, start_hub):
    """Key by key with 20,000 keys in it, or a thousand at once by redis-cli."""
    if shutil.which("redis-cli") is None:
        pytest.skip("redis-cli is missing, which comes with redis-server")
    await _run(processes, start_hub, _moved_slot, _resharded)


async def test_a_valkey_cluster_costs_viewers_nothing(processes, start_hub):
    """Valkey kicks subscribers that Redis does not, and moves slots atomically."""
    faults = (_atomically_moved, _planned, _moved_slot, _killed)
    await _run(processes, start_hub, *faults, binary=valkey(), lossy=(_killed,))


# --- subscriptions and nodes go


async def _unsubscribed(cluster: ClusterProcesses) -> None:
    """Every subscription connection of every node is killed, several times."""
    for _ in range(5):
        for node in cluster.nodes:
            await asyncio.to_thread(node.command_now, "CLIENT", "KILL", "TYPE", "pubsub")
        await asyncio.sleep(0.3)


async def _joined(cluster: ClusterProcesses) -> None:
    """A new primary gets the slots of a job; later it gives them back, and is gone."""
    slot = key_slot(b"job:job-0")
    source = _victim(cluster)
    new = await asyncio.to_thread(cluster.add)
    await asyncio.to_thread(cluster.wait_well, nodes=7)
    await asyncio.to_thread(cluster.move_slot, slot, source, new)
    await asyncio.sleep(4)  # the hub has a line to it
    await asyncio.to_thread(cluster.move_slot, slot, new, source)
    await asyncio.to_thread(cluster.remove, new)


async def test_nodes_and_subscriptions_come_and_go(processes, start_hub):
    await _run(processes, start_hub, _unsubscribed, _joined)


async def test_one_shard_away_harms_its_own_jobs_only(processes, start_hub):
    """Its viewers keep their streams and heartbeats, new ones are told to come later; the hub stays ready."""
    cluster = await asyncio.to_thread(ClusterProcesses, processes)
    hub = await asyncio.to_thread(start_hub, cluster.url, position_check=2, heartbeat=1)
    await connected(hub, timeout=5)
    primary = _victim(cluster)
    shard = [primary, cluster.replica_of(primary)]
    async with watched(hub, cluster.url, jobs=JOBS, transports=ALL) as scene:
        theirs = [job for job in scene.jobs if cluster.owner(f"job:{job.job}") is primary]
        others = [job for job in scene.jobs if job not in theirs]
        assert theirs
        assert others
        await scene.publish(20)
        await scene.caught_up()
        for node in shard:
            node.freeze()
        await until(lambda: hub.metric("shards_connected") == 2, "the hub notices", timeout=12)
        assert hub.metric("shards") == 3
        beats = {watcher.verdict.name: watcher.verdict.heartbeats for watcher in scene.watchers}
        for job in others:
            await scene.worker.stream(job, 20, rate=50, start=100)
        assert hub.ready
        await sent_away(hub, theirs[0].job)
        await asyncio.sleep(seconds(2, 30))
        for watcher in scene.watchers:
            assert watcher.verdict.heartbeats > beats[watcher.verdict.name], "streams are alive"
        for node in shard:
            node.thaw()
        await asyncio.to_thread(cluster.wait_well)
        await until(lambda: hub.metric("shards_connected") == 3, "the hub is back", timeout=10)
        for job in theirs:
            await scene.worker.stream(job, 20, rate=50, start=100)
        await scene.end()
        for verdict in await scene.crowd.finish(15):
            assert verdict.connections == 1
            assert verdict.deliveries == len(verdict.published.acknowledged)
    assert scene.worker.refused == 0


# --- how nodes are called, and what they allow


async def _smoke(cluster: ClusterProcesses, hub: Hub, url: str, *, counted: bool = False) -> None:
    """Jobs on all shards, and a planned failover. `counted`: wait until each job's viewers are."""
    await connected(hub, timeout=5)
    async with watched(hub, url, jobs=JOBS, transports=ALL) as scene:
        await scene.publish(10)
        await scene.caught_up()
        for job in scene.jobs if counted else ():
            await until(lambda job=job: hub.viewers(job.job) == 3, "the viewers are counted", timeout=15)
        assert "hub.presence" not in hub.said
        await asyncio.to_thread(cluster.fail_over, _victim(cluster))
        await scene.publish(10, start=10)
        await scene.end()
        for verdict in await scene.crowd.finish(15):
            assert verdict.deliveries == 21
    # The line to the old primary is closed with the next look at the cluster.
    await until(lambda: hub.metric("shards_connected") == 3, "a line per primary", timeout=10)
    assert scene.worker.refused == 0


async def test_nodes_may_be_called_by_names_and_speak_tls(processes, start_hub, tmp_path):
    """As ElastiCache has it: the certificate is for the host names that CLUSTER SLOTS gives."""
    made = await asyncio.to_thread(certificates, tmp_path)
    names = ("--cluster-announce-hostname", "localhost", "--cluster-preferred-endpoint-type", "hostname")
    cluster = await asyncio.to_thread(ClusterProcesses, processes, *names, tls=made)
    port = cluster.nodes[0].tls_port
    url = f"rediss+cluster://localhost:{port}/?ssl_cert_reqs=required&ssl_ca_certs={made.authority}"
    await _smoke(cluster, await asyncio.to_thread(start_hub, url), url)


async def test_nodes_may_have_ipv6_addresses(processes, start_hub):
    here = ("--bind", "127.0.0.1", "::1", "--cluster-announce-ip", "::1")
    cluster = await asyncio.to_thread(ClusterProcesses, processes, *here)
    url = f"redis+cluster://[::1]:{cluster.nodes[0].port}"
    await _smoke(cluster, await asyncio.to_thread(start_hub, url), url)


async def test_nodes_may_keep_their_addresses_to_themselves(processes, start_hub):
    """Then a node is where the one that was asked is: behind one load balancer with a port for each."""
    unknown = ("--cluster-preferred-endpoint-type", "unknown-endpoint")
    cluster = await asyncio.to_thread(ClusterProcesses, processes, *unknown)
    await _smoke(cluster, await asyncio.to_thread(start_hub, cluster.url), cluster.url)


async def test_the_documented_rights_are_enough_on_a_cluster(processes, start_hub):
    """For the hub, and for workers that publish, lease, and make jobs."""
    cluster = await asyncio.to_thread(ClusterProcesses, processes)
    bullet = re.search(r"On a cluster add `([^`]+)`, and `([^`]+)`[^`]*`([^`]+)`", OPERATIONS.read_text())
    assert bullet is not None
    channels, for_hub, for_workers = (found.split() for found in bullet.groups())
    cluster.everywhere("ACL", "SETUSER", "hub", *rights("hub"), *channels, *for_hub)
    cluster.everywhere(
        "ACL", "SETUSER", "worker", *rights("worker"), *channels, *for_workers, "+hgetall", "+hexists"
    )
    hub = await asyncio.to_thread(start_hub, cluster.url.replace("//", "//hub:PASSWORD@"))
    await _smoke(cluster, hub, cluster.url.replace("//", "//worker:PASSWORD@"), counted=True)


async def test_a_single_redis_is_not_a_cluster_and_a_node_is_not_a_single_redis(
    processes, start_redis, start_hub
):
    """Either way round the hub is not ready, and one line says what to change."""
    cluster = await asyncio.to_thread(ClusterProcesses, processes)
    node = await asyncio.to_thread(start_hub, cluster.nodes[0].url)
    await until(lambda: "use redis+cluster:// in the URL" in node.said, "the hub says it")
    assert not node.ready
    single = await asyncio.to_thread(start_redis)
    hub = await asyncio.to_thread(start_hub, single.url.replace("redis://", "redis+cluster://"))
    await until(lambda: "no node of the Redis cluster was believed" in hub.said, "the hub says it")
    assert not hub.ready


async def test_commands_and_the_list_of_jobs_on_a_cluster(processes, start_hub):
    """The job's keys, the user's, and the control channel are on different nodes."""
    cluster = await asyncio.to_thread(ClusterProcesses, processes)
    hub = await asyncio.to_thread(start_hub, cluster.url, commands="cancel,approve")
    made = [f"job-{n}" for n in range(6)]
    slots = {key_slot(f"job:{job}".encode()) * 3 // 16384 for job in made}
    assert len(slots) > 1, "jobs of more than one primary"
    signed = {"Authorization": f"Bearer {token()}"}
    async with (
        JobStateMachine.from_url(cluster.url) as jobs,
        Publisher.from_url(cluster.url, strict=True) as publisher,
        httpx.AsyncClient(base_url=hub.url, headers=signed) as client,
        connect(f"ws://127.0.0.1:{hub.port}/api/events/ws", additional_headers=signed) as board,
    ):
        await board.send('{"op":"subscribe","mine":true}')
        for job in made:
            await jobs.create_job(job, user_id=USER)
        seen: set[str] = set()
        async with asyncio.timeout(10):
            while seen != set(made):
                frame = json.loads(await board.recv())
                seen |= {frame["job_id"]} if frame["type"] == "subscribed" and "job_id" in frame else set()
        listed = (await client.get("/api/jobs")).json()["jobs"]
        assert [one["job_id"] for one in listed] == made[::-1]
        for job in made:
            async with publisher.lease(job) as lease:
                assert not lease.cancelled.is_set()
                got = await client.post(f"/api/jobs/{job}/commands", json={"name": "cancel"})
                assert got.status_code == 202, got.text
                async with asyncio.timeout(10):
                    await lease.cancelled.wait()
            heard = asyncio.create_task(asyncio.to_thread(_hear, cluster.url, job))
            while (
                await client.post(f"/api/jobs/{job}/commands", json={"name": "approve"})
            ).status_code == 409:
                await asyncio.sleep(0.05)
            assert await heard == "approve"


async def test_every_process_is_asked_once_on_a_cluster(processes, start_hub):
    """A message on the control channel comes once per primary, and counts once."""
    cluster = await asyncio.to_thread(ClusterProcesses, processes)
    hubs = [await asyncio.to_thread(start_hub, cluster.url) for _ in range(2)]
    signed, operators = {"Authorization": f"Bearer {token()}"}, {"Authorization": f"Bearer {ADMIN}"}
    async with JobStateMachine.from_url(cluster.url) as jobs, httpx.AsyncClient() as client:
        await jobs.create_job("seen", user_id=USER)
        async with AsyncExitStack() as stack:
            viewers = [
                await stack.enter_async_context(
                    connect(f"ws://127.0.0.1:{hub.port}/api/jobs/seen/events/ws", additional_headers=signed)
                )
                for hub in hubs
            ]
            for viewer in viewers:
                await viewer.recv()
            found = (await client.get(f"{hubs[0].url}/admin/api/overview", headers=operators)).json()
            assert (found["asked"], len(found["processes"])) == (2, 2)
            (row,) = found["jobs"]
            assert (row["job_id"], row["viewers"], row["processes"]) == ("seen", 2, 2)
            body = {"job": "seen"}
            got = await client.post(f"{hubs[0].url}/admin/api/away", headers=operators, json=body)
            assert got.status_code == 204
            for viewer in viewers:
                async with asyncio.timeout(10):
                    await viewer.wait_closed()
                assert viewer.close_code == 1012


def _hear(url: str, job: str) -> str | None:
    with SyncPublisher.from_url(url) as publisher:
        command = publisher.next_command(job, timeout=10)
        return command and command.name
