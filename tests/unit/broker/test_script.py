"""The publish script and both publishers, on the fake and on the real Redis."""

from __future__ import annotations

import asyncio
import json

import fakeredis
import pytest
from redis import Redis as PlainRedis
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from hub.broker.keys import Keys
from hub.broker.script import Publication, Retention, interpret
from hub.errors import BrokerUnavailable, EventTooLarge, InvalidEvent, InvalidSettings, JobEnded
from hub.job.catalogue import encode
from hub.job.event import EventId, JobId
from hub.produce.blocking import SyncPublisher
from hub.produce.publisher import Publisher
from tests.support.keys import log_of, meta_of, once_of

JOB = "a"


@pytest.fixture
def publisher(redis: Redis) -> Publisher:
    return Publisher(redis, strict=True)


async def stream(redis: Redis, job: str = JOB) -> list[tuple[str, bytes]]:
    return [(row[0].decode(), row[1][b"data"]) for row in await redis.xrange(log_of(job))]


async def heard(redis: Redis, publish, job: str = JOB) -> list[bytes]:
    """The messages on the channel while `publish` runs."""
    pubsub = redis.pubsub()
    await pubsub.subscribe(f"job:{job}:events", "marker")
    for _ in range(2):
        assert (await pubsub.get_message(timeout=5))["type"] == "subscribe"
    await publish()
    await redis.publish("marker", "end")
    messages = []
    while True:
        message = await pubsub.get_message(timeout=5)
        if message is None:
            continue
        if message["channel"] == b"marker":
            await pubsub.aclose()
            return messages
        messages.append(message["data"])


async def test_numbers_are_0_1_2_of_one_epoch(publisher, redis):
    """Ids are contiguous, and the log has the events under the same ids."""
    ids = [await publisher.emit(JOB, "x", {"n": n}) for n in range(5)]
    assert [one.seq for one in ids] == [0, 1, 2, 3, 4]
    assert len({one.epoch for one in ids}) == 1
    assert [number for number, _ in await stream(redis)] == list(map(str, ids))
    hash_ = await redis.hgetall(meta_of(JOB))
    assert int(hash_[b"epoch"]) == ids[0].epoch
    assert hash_[b"position"].decode() == str(ids[-1])


async def test_the_epoch_of_the_hash_is_the_logs(publisher, redis):
    """So the cursor of a viewer that joined before the first event stays valid."""
    await redis.hset(meta_of(JOB), mapping={"epoch": "1700000000000"})
    assert await publisher.emit(JOB, "x") == EventId(1_700_000_000_000, 0)
    assert await publisher.emit(JOB, "x") == EventId(1_700_000_000_000, 1)


async def test_the_message_is_the_id_and_then_the_body(publisher, redis):
    """A message is the body in the log with `"id":"E-N"` as its first member."""
    messages = await heard(redis, lambda: publisher.stage_started(JOB, "code", "héllo\n\u2028"))
    ((number, body),) = await stream(redis)
    assert messages == [b'{"id":"' + number.encode() + b'",' + body[1:]]
    assert json.loads(body) == {
        "type": "build.stage.started",
        "stage": "code",
        "narration": "héllo\n\u2028",
        "status": "code",
        "job_id": JOB,
    }


@pytest.mark.parametrize("status", ["ready", "failed"])
async def test_nothing_follows_a_terminal(publisher, redis, status):
    """The refused event changes neither the log nor the hash and is not published."""
    await publisher.stage_started(JOB, "x", status=status)
    before = await stream(redis)

    async def more():
        for late in ("code", "ready", "failed"):
            with pytest.raises(JobEnded, match=status):
                await publisher.stage_started(JOB, "late", status=late)
        with pytest.raises(JobEnded):
            await publisher.emit(JOB, "x")

    assert await heard(redis, more) == []
    assert await stream(redis) == before
    assert await redis.hget(f"job:{JOB}", "status") == status.encode()


async def test_a_status_in_the_hash_ends_the_job_as_well(publisher, redis):
    """A terminal status that the application writes to the hash ends the job as well."""
    await redis.hset(f"job:{JOB}", "status", "failed")
    with pytest.raises(JobEnded):
        await publisher.emit(JOB, "x")


async def test_terminal_statuses_are_a_setting(redis):
    """If `ready` is not among the terminal statuses, it does not end the job."""
    publisher = Publisher(redis, strict=True, publication=Publication(terminal=frozenset({"done"})))
    await publisher.ready(JOB)
    await publisher.stage_started(JOB, "x", status="done")
    with pytest.raises(JobEnded):
        await publisher.emit(JOB, "x")


async def test_an_idempotency_key_is_numbered_once(publisher, redis):
    """The second call returns the first id and publishes nothing; keys of different jobs are independent."""
    first = await publisher.emit(JOB, "x", {"n": 1}, once="key")

    async def again():
        assert await publisher.emit(JOB, "x", {"n": 2}, once="key") == first

    assert await heard(redis, again) == []
    assert len(await stream(redis)) == 1
    assert (await publisher.emit("b", "x", once="key")).seq == 0


async def test_a_repeated_terminal_gives_its_id(publisher):
    """A retry after a lost answer returns the id, although the job has ended by then."""
    first = await publisher.emit(JOB, "x", {"status": "ready"}, once="end")
    assert await publisher.emit(JOB, "x", {"status": "ready"}, once="end") == first


async def test_a_retried_command_is_one_event(redis):
    """Running the same KEYS and ARGV twice, as redis-py does after a timeout, publishes once."""
    publisher = Publisher(redis)
    *_, keys, args = publisher._prepare(JOB, [("x", {})], None)
    one = await publisher._script.run(keys, args)
    two = await publisher._script.run(keys, args)
    assert interpret(JobId(JOB), one).last == interpret(JobId(JOB), two).last
    assert len(await stream(redis)) == 1


async def test_a_lost_log_begins_a_later_epoch(publisher, redis):
    """No id is given twice, even if the log is lost within a millisecond."""
    seen = []
    for _ in range(3):
        seen += [await publisher.emit(JOB, "x"), await publisher.emit(JOB, "x")]
        await redis.delete(log_of(JOB))
    assert seen == sorted(set(seen))
    assert [one.seq for one in seen] == [0, 1] * 3


async def test_an_epoch_of_the_future_is_passed(publisher, redis):
    """If the clock goes back, the next epoch is still later than the last."""
    await redis.hset(meta_of(JOB), mapping={"epoch": "9000000000000", "position": "9000000000000-5"})
    assert await publisher.emit(JOB, "x") == EventId(9_000_000_000_001, 0)


async def test_a_deleted_job_begins_anew(publisher, redis):
    """If hash and log are both gone, numbers begin at 0 in an epoch of the present time."""
    await publisher.ready(JOB)
    await redis.delete(f"job:{JOB}", log_of(JOB), meta_of(JOB))
    assert (await publisher.emit(JOB, "x")).seq == 0


async def test_keys_live_as_long_as_the_retention_says(redis):
    """The log lives a week, or a day after the end; a caller's key lives a day, a random one a minute."""
    kept = Retention(ended=100, idle=1000, once=50, retry=5)
    publisher = Publisher(redis, strict=True, publication=Publication(retention=kept))
    await publisher.emit(JOB, "x", once="mine")
    assert 990 <= await redis.ttl(log_of(JOB)) <= 1000
    assert 45 <= await redis.ttl(once_of(JOB, "mine")) <= 50
    await publisher.ready(JOB)
    assert 95 <= await redis.ttl(log_of(JOB)) <= 100
    made_up = [key async for key in redis.scan_iter(once_of(JOB, "*")) if not key.endswith(b":mine")]
    assert len(made_up) == 1
    assert 0 < await redis.ttl(made_up[0]) <= 5
    assert await redis.ttl(f"job:{JOB}") == -1  # the application's


async def test_the_log_is_bounded(redis):
    """About `events` are retained: `MAXLEN ~` trims whole nodes, so a few hundred more may stay."""
    publisher = Publisher(redis, strict=True, publication=Publication(retention=Retention(events=10)))
    for _ in range(350):
        last = await publisher.emit(JOB, "x")
    rows = await stream(redis)
    assert 10 <= len(rows) < 250
    assert rows[-1][0] == str(last)


async def test_a_status_is_in_the_hash_with_its_event(publisher, redis):
    """An event without a status does not change the job's status."""
    await publisher.stage_started(JOB, "code")
    await publisher.snapshot_updated(JOB, "/1.png")
    assert await redis.hget(f"job:{JOB}", "status") == b"code"


async def test_concurrent_publishers_give_one_order(redis):
    """Concurrent publishers get contiguous ids, and the channel has the order of the log."""
    publishers = [Publisher(redis, strict=True) for _ in range(4)]
    ids: list[EventId] = []

    async def work(publisher, name):
        ids.extend([await publisher.emit(JOB, "x", {"by": name, "n": n}) for n in range(10)])

    async def all_work():
        await asyncio.gather(*(work(one, name) for name, one in enumerate(publishers)))

    messages = await heard(redis, all_work)
    rows = await stream(redis)
    assert sorted(one.seq for one in ids) == list(range(40))
    assert [json.loads(data)["id"] for data in messages] == [number for number, _ in rows]
    for name in range(4):
        mine = [body["n"] for body in (json.loads(data) for _, data in rows) if body["by"] == name]
        assert mine == list(range(10))


async def test_a_key_of_another_type_is_an_outage_and_not_half_an_event(redis):
    """If the log's key holds a string, nothing is published and no idempotency key is stored."""
    await redis.set(log_of(JOB), "in the way")
    publisher = Publisher(redis)

    async def publish():
        assert await publisher.stage_started(JOB, "code") is None

    assert await heard(redis, publish) == []
    assert publisher.failures == 1
    assert await redis.hget(f"job:{JOB}", "status") is None


# --- both publishers


@pytest.fixture(params=["fake", "real"])
def plain(request) -> PlainRedis:
    """A blocking client of the same server."""
    if request.param == "fake":
        with fakeredis.FakeRedis(server=fakeredis.FakeServer()) as client:
            yield client
    else:
        with PlainRedis.from_url(request.getfixturevalue("redis_server").url) as client:
            client.flushall()
            yield client


def test_the_blocking_publisher_does_the_same(plain):
    """Each method gives the same bodies, ids, statuses and refusals as that of the async publisher."""
    calls = [
        ("stage_started", ("code", "words"), {"status": "c", "own": {"a": None}}),
        ("stage_started", ("deps",), {}),
        ("stage_completed", ("code", 1.5), {"extra": 1}),
        ("stage_completed", ("code",), {}),
        ("snapshot_updated", ("/1.png",), {}),
        ("documentation_updated", ("A", "é"), {}),
        ("emit", ("mine", {"a": [1]}), {"once": "k"}),
        ("emit", ("mine", {"a": [2]}), {"once": "k"}),
        ("emit", ("none",), {}),
        ("failed", ("why",), {"code": 3}),
        ("ready", (), {}),
    ]
    blocking = SyncPublisher(plain)
    one = [getattr(blocking, name)(JOB, *args, **more) for name, args, more in calls]

    async def other():
        async with fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer()) as client:
            publisher = Publisher(client)
            ids = [await getattr(publisher, name)(JOB, *args, **more) for name, args, more in calls]
            return (
                ids,
                await client.xrange(log_of(JOB)),
                await client.hgetall(meta_of(JOB)),
                publisher.failures,
            )

    ids, rows, hash_, failures = asyncio.run(other())
    assert [i and i.seq for i in one] == [i and i.seq for i in ids] == [0, 1, 2, 3, 4, 5, 6, 6, 7, 8, None]
    assert [row[1] for row in plain.xrange(log_of(JOB))] == [row[1] for row in rows]
    assert plain.hget(f"job:{JOB}", "status") == b"failed"
    assert blocking.failures == failures == 1


def down() -> fakeredis.FakeServer:
    server = fakeredis.FakeServer()
    server.connected = False
    return server


async def test_an_outage_never_breaks_the_worker():
    """A failed publish returns None, is counted and is logged."""
    publisher = Publisher(fakeredis.FakeAsyncRedis(server=down()))
    assert await publisher.ready(JOB) is None
    assert await publisher.emit(JOB, "x") is None
    assert publisher.failures == 2


def test_an_outage_never_breaks_a_blocking_worker():
    """The blocking publisher does the same."""
    publisher = SyncPublisher(fakeredis.FakeRedis(server=down()))
    assert publisher.ready(JOB) is None
    assert publisher.failures == 1


async def test_a_strict_publisher_raises_on_an_outage():
    """A strict publisher raises BrokerUnavailable with its cause."""
    publisher = Publisher(fakeredis.FakeAsyncRedis(server=down()), strict=True)
    with pytest.raises(BrokerUnavailable) as caught:
        await publisher.ready(JOB)
    assert isinstance(caught.value.__cause__, RedisConnectionError)
    with pytest.raises(BrokerUnavailable):
        SyncPublisher(fakeredis.FakeRedis(server=down()), strict=True).ready(JOB)


@pytest.mark.parametrize("strict", [True, False])
async def test_a_malformed_event_always_raises(redis, strict):
    """A malformed event is the programmer's error, raises, and is not counted as a failure."""
    publisher = Publisher(redis, strict=strict, publication=Publication(limit=200))
    with pytest.raises(InvalidEvent):
        await publisher.emit("no such/id", "x")
    with pytest.raises(InvalidEvent):
        await publisher.emit(JOB, "snapshot.updated", {})
    with pytest.raises(EventTooLarge):
        await publisher.emit(JOB, "x", {"fat": "x" * 200})
    assert publisher.failures == 0
    assert await redis.keys("*") == []


def test_the_template_names_every_key():
    """The template may have a hash tag for Redis Cluster."""
    keys = Keys("app:{{id}}:job")
    assert keys.job(JobId("a")) == "app:{a}:job"
    assert keys.events(JobId("a")) == "app:{a}:job:events"
    assert keys.log(JobId("a")) == "push-hub:app:{a}:job:log"
    assert keys.once(JobId("a"), "k") == "push-hub:app:{a}:job:once:k"


@pytest.mark.parametrize(
    "template", ["", "job", "job:{}", "job:{id}:{id}", "job:{ID}", "a}b:{id}", "{a:{id}", "{a}:{b}:{id}"]
)
def test_a_template_without_one_id_is_refused(template):
    """Without `{id}` two jobs would share a key."""
    with pytest.raises(InvalidSettings):
        Keys(template)


def test_the_made_up_key_differs_each_time():
    """Without a key of the caller, two equal events are both published."""
    publication = Publication()
    body = encode(JobId(JOB), "x", {})
    keys = {publication.prepare(JobId(JOB), [(body, "")], once=None)[0][4] for _ in range(50)}
    assert len(keys) == 50
