"""The broker's contract (hub/broker/seam.py): one suite for `RedisBroker` and `ScriptedBroker`.

Each law is about what a hub can see: the answers to its calls, and what a sink is given. A `Place` is the
other side: the worker, the application and what may happen to a server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Protocol

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from hub import Publisher
from hub.broker import redis as redis_module
from hub.broker import subscriber as subscriber_module
from hub.broker.redis import RedisBroker
from hub.broker.script import Publication
from hub.broker.seam import Broker
from hub.demo.embedded import EmbeddedServer
from hub.errors import BrokerUnavailable, JobEnded
from hub.job.event import Event, EventId, JobId, UserId
from hub.job.record import Entry
from tests.support.keys import log_of, meta_of
from tests.unit.scripted import JOB, USER, ScriptedBroker

OTHER = JobId("other")
FIRST = EventId(0, 0)
EPOCH = 1000
"""Of a job that was made long ago: whatever begins a new epoch begins a later one."""


class Ear:
    """A sink that remembers, and rings for whoever waits."""

    def __init__(self) -> None:
        self.heard: list[Event | None] = []  # None: told that something was missed
        self._rung = asyncio.Event()

    def receive(self, data: bytes) -> None:
        self.heard.append(Event.from_message(data))
        self._rung.set()

    def missed(self) -> None:
        self.heard.append(None)
        self._rung.set()

    @property
    def ids(self) -> list[EventId | None]:
        """The ids heard, in order."""
        return [one.id for one in self.heard if one is not None]

    async def until(self, condition: Callable[[Ear], bool]) -> None:
        """Return when `condition(self)`; looks again at each thing heard."""
        async with asyncio.timeout(10):
            while not condition(self):
                self._rung.clear()
                await self._rung.wait()


class Place(Protocol):
    """The other side of a broker. `JOB` is owned by `USER`, in status `code` and epoch `EPOCH`, no event."""

    broker: Broker

    async def publish(self, status: str = "") -> EventId | None:
        """By the script; None after a terminal."""

    async def shout(self, status: str = "") -> None:
        """By a bare PUBLISH."""

    async def write(self, **fields: str) -> None:
        """The application writes its hash."""

    async def trim(self, keep: int) -> None: ...

    async def delete_log(self) -> None: ...

    async def delete_job(self) -> None:
        """The hash; the log stays."""

    async def lose_numbers(self) -> None:
        """The log, and the two fields of the hash that tell about it."""

    @asynccontextmanager
    async def rolled_back(self) -> AsyncIterator[None]:
        """What is published inside is gone afterwards, as after a failover; at least one event."""
        yield

    async def hold_lease(self) -> None:
        """The worker promises to be heard of."""

    async def lapse(self) -> None:
        """The time of that promise is over."""

    async def settle(self) -> None:
        """Return when whatever was published before has reached its sink."""

    async def cut(self) -> None:
        """Lose the Pub/Sub connection with all that is on it, and publish before there is a new one."""

    async def take_away(self) -> None:
        """The server answers nobody any more."""


class ScriptedPlace:
    """The scripted broker, with every gate open."""

    def __init__(self) -> None:
        self.broker = ScriptedBroker()
        self.broker.epoch = EPOCH
        self.now = 0.0
        self.broker.time = lambda: self.now

    async def publish(self, status: str = "") -> EventId | None:
        one = self.broker.publish(status=status)
        return None if one is None else one.id

    async def shout(self, status: str = "") -> None:
        self.broker.publish(status=status, foreign=True)

    async def write(self, **fields: str) -> None:
        self.broker.fields |= fields

    async def trim(self, keep: int) -> None:
        self.broker.trim(keep)

    async def delete_log(self) -> None:
        self.broker.delete_log()

    async def delete_job(self) -> None:
        self.broker.delete_job()

    async def lose_numbers(self) -> None:
        self.broker.lose_numbers()

    @asynccontextmanager
    async def rolled_back(self) -> AsyncIterator[None]:
        before = len(self.broker.log)
        yield
        self.broker.roll_back(len(self.broker.log) - before)

    async def hold_lease(self) -> None:
        self.broker.renew()

    async def lapse(self) -> None:
        self.now += 1000

    async def settle(self) -> None:
        while self.broker.flight:
            self.broker.deliver()

    async def cut(self) -> None:
        self.broker.disconnect()
        self.broker.publish()
        self.broker.reconnect()

    async def take_away(self) -> None:
        self.broker.disconnect()
        self.broker.failing = 1.0


class RedisPlace:
    """A real server of this test's own, since it may be taken away."""

    def __init__(self, server: EmbeddedServer, client: Redis) -> None:
        # No second try: what is not there now will not be there in a moment.
        hub = Redis.from_url(server.url, retry=Retry(NoBackoff(), 0))
        self.broker = RedisBroker(hub, Publication(), deadline=0.5)
        self._server = server
        self._client = client
        self._publisher = Publisher(client, strict=True)
        self._key, self._log, self._channel = f"job:{JOB}", log_of(JOB), f"job:{JOB}:events"
        self._meta = meta_of(JOB)
        self._count = 0

    async def start(self) -> None:
        await self.write(user_id=USER, status="code")
        await self._client.hset(self._meta, "epoch", str(EPOCH))

    async def publish(self, status: str = "") -> EventId | None:
        try:
            return await self._publisher.emit(JOB, "t", {"g": self._next(), "status": status or None})
        except JobEnded:
            return None

    async def shout(self, status: str = "") -> None:
        words = f',"status":"{status}"' if status else ""
        await self._client.publish(self._channel, f'{{"type":"t","g":{self._next()}{words}}}')

    async def write(self, **fields: str) -> None:
        await self._client.hset(self._key, mapping=fields)

    async def trim(self, keep: int) -> None:
        await self._client.xtrim(self._log, maxlen=keep, approximate=False)

    async def delete_log(self) -> None:
        await self._client.delete(self._log)

    async def delete_job(self) -> None:
        await self._client.delete(self._key)

    async def lose_numbers(self) -> None:
        await self._client.delete(self._log)
        await self._client.hdel(self._meta, "epoch", "position")

    @asynccontextmanager
    async def rolled_back(self) -> AsyncIterator[None]:
        kept = {key: await self._client.dump(key) for key in (self._key, self._meta, self._log)}
        yield
        for key, value in kept.items():
            await self._client.delete(key)
            if value is not None:
                await self._client.restore(key, 0, value)

    async def hold_lease(self) -> None:
        seconds, _ = await self._client.time()
        await self._client.hset(self._meta, "lease", str((seconds + 30) * 1000))

    async def lapse(self) -> None:
        await self._client.hset(self._meta, "lease", "1")

    async def settle(self) -> None:
        # The connection keeps the order, over all channels.
        fence = Ear()
        await self.broker.subscriber.subscribe("fence", fence, deadline=5)
        await self._client.publish("fence", "{}")
        await fence.until(lambda ear: ear.heard != [])
        self.broker.subscriber.unsubscribe("fence", fence)

    async def cut(self) -> None:
        # In one transaction, so that no new connection comes in between.
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.client_kill_filter(_type="pubsub")
            pipe.publish(self._channel, '{"type":"t"}')
            await pipe.execute()

    async def take_away(self) -> None:
        self._server.kill()

    async def aclose(self) -> None:
        await self.broker.aclose()
        await self.broker.nodes.aclose()

    def _next(self) -> int:
        self._count += 1
        return self._count - 1


@pytest.fixture(params=["scripted", "redis"])
async def place(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ScriptedPlace | RedisPlace]:
    """Both, one after the other: a fake is only as good as the suite it shares with the real thing."""
    if request.param == "scripted":
        yield ScriptedPlace()
        return
    monkeypatch.setattr(subscriber_module, "BACKOFF", (0.001, 0.01))
    monkeypatch.setattr(redis_module, "GRACE", 0.0)
    with EmbeddedServer() as server:
        async with Redis.from_url(server.url) as client:
            made = RedisPlace(server, client)
            await made.start()
            yield made
            await made.aclose()


async def listening(place: Place) -> Ear:
    """A sink that is subscribed."""
    ear = Ear()
    await place.broker.subscribe(JOB, ear)
    return ear


async def published(place: Place, number: int) -> list[EventId]:
    """So many events."""
    return [await place.publish() for _ in range(number)]


async def log(place: Place) -> list[EventId]:
    """The ids of all that is retained."""
    return [entry.id for entry in (await place.broker.latest(JOB, limit=1000)).entries]


async def job_of(place: Place):
    """The job's hash as it is now."""
    (job,) = await place.broker.jobs([JOB])
    return job


# --- jobs


async def test_a_job_is_its_hash_without_what_is_ours(place):
    """The application's fields as they are; epoch, position and lease beside them."""
    await place.write(title="T", message="")
    job = await job_of(place)
    assert (job.id, job.user_id, job.status) == (JOB, UserId("ada"), "code")
    assert (job.epoch, job.position, job.lease) == (EPOCH, None, None)
    assert job.fields == {"user_id": "ada", "status": "code", "title": "T", "message": ""}


async def test_jobs_are_answered_in_the_order_asked_and_none_is_unknown(place):
    """One answer per question, also where a job is asked twice; nothing asked, nothing answered."""
    found = await place.broker.jobs([OTHER, JOB, OTHER, JOB])
    assert [one and one.id for one in found] == [None, JOB, None, JOB]
    assert await place.broker.jobs([]) == []


async def test_a_job_that_was_deleted_is_none(place):
    """Its log is no job."""
    await published(place, 2)
    await place.delete_job()
    found = await job_of(place)
    assert found is None or not found.exists


async def test_what_was_read_does_not_change(place):
    """A job and a snapshot are of the moment they were read."""
    await place.publish()
    job, snapshot = await job_of(place), await place.broker.latest(JOB, limit=10)
    await place.publish("deps")
    assert (job.status, job.fields["status"], len(snapshot.entries)) == ("code", "code", 1)
    assert snapshot.job.position == EventId(EPOCH, 0)


# --- numbers


async def test_events_are_numbered_without_holes_in_the_epoch_of_the_hash(place):
    """0, 1, 2; the hash knows the last, and the status that the last event with one set."""
    ids = [await place.publish(), await place.publish("deps"), await place.publish()]
    assert ids == [EventId(EPOCH, seq) for seq in range(3)]
    job = await job_of(place)
    assert (job.epoch, job.position, job.status) == (EPOCH, ids[-1], "deps")


@pytest.mark.parametrize("status", ["ready", "failed"])
async def test_nothing_is_published_after_a_terminal(place, status):
    """Nothing numbered, nothing retained, nothing heard; the hash stays."""
    ear = await listening(place)
    last = await place.publish(status)
    assert [await place.publish(), await place.publish("code"), await place.publish("ready")] == [None] * 3
    await place.settle()
    job = await job_of(place)
    assert (job.status, job.position, await log(place), ear.ids) == (status, last, [last], [last])


async def test_a_status_that_the_application_wrote_guards_as_well(place):
    """It is the hash that says a job is over, and the hash that says it runs again."""
    await place.write(status="ready")
    assert await place.publish() is None
    await place.write(status="code")
    assert await place.publish() == EventId(EPOCH, 0)


async def test_a_deleted_log_ends_its_epoch(place):
    """No id is given twice: the next is the first of a later epoch, and the hash has that."""
    ids = await published(place, 3)
    await place.delete_log()
    assert await log(place) == []
    assert (await job_of(place)).position == ids[-1]
    again = await published(place, 2)
    assert again[0].epoch > EPOCH
    assert [one.seq for one in again] == [0, 1]
    assert again[0].epoch == again[1].epoch
    job = await job_of(place)
    assert (job.epoch, job.position, await log(place)) == (again[0].epoch, again[1], again)


async def test_lost_numbers_begin_a_later_epoch(place):
    """The hash forgot the log and its numbers, as after an eviction."""
    await published(place, 2)
    await place.lose_numbers()
    job = await job_of(place)
    assert (job.epoch, job.position) == (None, None)
    event_id = await place.publish()
    assert event_id.epoch > EPOCH
    assert event_id.seq == 0


@pytest.mark.parametrize("keep", [0, 1, 3])
async def test_trimming_takes_the_oldest_and_no_number(place, keep):
    """What is left is the end of the log, and the next event continues it, also when nothing is left."""
    ids = await published(place, 5)
    await place.trim(keep)
    assert await log(place) == ids[5 - keep :]
    assert await place.publish() == EventId(EPOCH, 5)


async def test_trimming_to_more_than_there_is_changes_nothing(place):
    """The bound of the log is no minimum."""
    ids = await published(place, 2)
    await place.trim(5)
    assert await log(place) == ids


async def test_a_rolled_back_log_gives_its_numbers_again(place):
    """As after a failover: hash and log are as they were, and the same id is another event's."""
    ids = await published(place, 2)
    async with place.rolled_back():
        await place.publish("deps")
        await place.publish()
    job = await job_of(place)
    assert (job.position, job.status, await log(place)) == (ids[-1], "code", ids)
    assert await place.publish() == EventId(EPOCH, 2)


async def test_an_end_that_was_rolled_back_ends_nothing(place):
    """The job runs again."""
    await place.publish()
    async with place.rolled_back():
        await place.publish("ready")
    assert (await job_of(place)).status == "code"
    assert await place.publish() == EventId(EPOCH, 1)


async def test_a_hash_that_is_made_again_shows_nothing_of_the_earlier_job(place):
    """The old log is another owner's: it is not read, and the first event ends it."""
    await published(place, 3)
    await place.delete_job()
    await place.write(user_id="bob", status="queued")
    snapshot = await place.broker.latest(JOB, limit=10)
    assert (snapshot.job.user_id, snapshot.job.epoch, snapshot.job.position) == ("bob", None, None)
    assert snapshot.entries == (await place.broker.since(JOB, FIRST, limit=10)).entries == []
    event_id = await place.publish()
    assert event_id.epoch > EPOCH
    assert event_id.seq == 0
    assert await log(place) == [event_id]


async def test_publishing_without_a_hash_makes_one_that_nobody_owns(place):
    """The script asks for no owner."""
    await place.delete_job()
    event_id = await place.publish("code")
    job = await job_of(place)
    assert (job.user_id, job.status, job.position) == ("", "code", event_id)


# --- latest and since


@pytest.mark.parametrize("limit", [1, 2, 5, 6, 100])
async def test_latest_is_the_end_of_the_log_oldest_first(place, limit):
    """At most so many, with the bodies as they were published, and the job of the same moment."""
    ids = await published(place, 5)
    snapshot = await place.broker.latest(JOB, limit=limit)
    assert [entry.id for entry in snapshot.entries] == ids[-limit:]
    assert [Event.from_body(None, entry.body).fields["g"] for entry in snapshot.entries] == [*range(5)][
        -limit:
    ]
    assert (snapshot.job.position, snapshot.job.lease) == (ids[-1], None)


@pytest.mark.parametrize("limit", [1, 2, 100])
@pytest.mark.parametrize("after", [0, 2, 3, 4])
async def test_since_is_what_follows_from_the_front(place, after, limit):
    """At most so many; nothing after the last."""
    ids = await published(place, 5)
    snapshot = await place.broker.since(JOB, ids[after], limit=limit)
    assert [entry.id for entry in snapshot.entries] == ids[after + 1 :][:limit]
    assert snapshot.job.position == ids[-1]


@pytest.mark.parametrize(
    ("after", "first"),
    [
        (FIRST, 0),
        (EventId(EPOCH - 1, 99), 0),
        (EventId(EPOCH, 0).previous, 0),
        (EventId(EPOCH, 3), 3),
        (EventId(EPOCH + 1, 0), 3),
        (EventId((1 << 64) - 1, (1 << 64) - 2), 3),
    ],
)
async def test_since_takes_a_cursor_that_is_no_events_id(place, after, first):
    """It is a place in the order of ids."""
    ids = await published(place, 3)
    assert [entry.id for entry in (await place.broker.since(JOB, after, limit=10)).entries] == ids[first:]


async def test_since_of_what_was_trimmed_begins_with_what_is_left(place):
    """The reader sees the hole by arithmetic."""
    ids = await published(place, 5)
    await place.trim(2)
    assert [entry.id for entry in (await place.broker.since(JOB, ids[0], limit=10)).entries] == ids[3:]


async def test_an_unknown_job_has_an_empty_snapshot(place):
    """No job, no entries; no error."""
    await place.publish()
    for snapshot in (
        await place.broker.latest(OTHER, limit=10),
        await place.broker.since(OTHER, FIRST, limit=10),
    ):
        assert (snapshot.job, snapshot.entries) == (None, [])


async def test_the_log_of_a_deleted_job_is_not_shown(place):
    """Without a hash nobody knows whose it is."""
    await published(place, 2)
    await place.delete_job()
    assert (await place.broker.latest(JOB, limit=10)).entries == []


async def test_a_bare_message_is_retained_nowhere(place):
    """Nothing in the log, nothing in the hash."""
    before = await job_of(place)
    await place.shout("ready")
    assert (await job_of(place), await log(place)) == (before, [])


# --- subscribe


async def test_subscribe_returns_once_messages_flow(place):
    """Later events are heard in order: ours with the log's id and body, bare messages without an id."""
    await place.publish()
    ear = await listening(place)
    ids = [await place.publish("deps"), await place.publish()]
    await place.shout()
    await place.settle()
    assert ear.ids == [*ids, None]
    entries = (await place.broker.latest(JOB, limit=2)).entries
    assert [Entry(one.id, one.body.encode()) for one in ear.heard[:2]] == entries
    assert [one.fields["g"] for one in ear.heard] == [1, 2, 3]


async def test_a_job_that_does_not_exist_can_be_subscribed(place):
    """A channel asks for no hash: whoever comes before the job hears its first event."""
    await place.delete_job()
    ear = await listening(place)
    event_id = await place.publish()
    await place.settle()
    assert ear.ids == [event_id]


async def test_an_unsubscribed_sink_is_silent(place):
    """Of what is under way and of what comes, also of a lost connection."""
    ear = await listening(place)
    await place.publish()
    await place.settle()
    place.broker.unsubscribe(JOB, ear)
    await place.publish()
    await place.cut()
    await place.settle()
    assert len(ear.heard) == 1


async def test_unsubscribing_what_is_not_subscribed_is_nothing(place):
    """Never subscribed, or twice."""
    place.broker.unsubscribe(JOB, Ear())
    ear = await listening(place)
    place.broker.unsubscribe(JOB, Ear())
    await place.publish()
    await place.settle()
    place.broker.unsubscribe(JOB, ear)
    place.broker.unsubscribe(JOB, ear)
    assert len(ear.heard) == 1


async def test_a_second_sink_takes_the_place_of_the_first(place):
    """A feed ends while the next feed of its job begins: the first leaves late and takes nothing along."""
    old, new = await listening(place), await listening(place)
    place.broker.unsubscribe(JOB, old)
    event_id = await place.publish()
    await place.settle()
    assert (old.ids, new.ids) == ([], [event_id])


async def test_a_sink_may_come_back(place):
    """Off and on: what passed in between is lost without a word, since nobody was to hear it."""
    ear = await listening(place)
    place.broker.unsubscribe(JOB, ear)
    await place.publish()
    await place.settle()
    await place.broker.subscribe(JOB, ear)
    event_id = await place.publish()
    await place.settle()
    assert ear.heard == [ear.heard[-1]]
    assert ear.ids == [event_id]


async def test_a_cancelled_subscription_is_none(place):
    """Nothing is subscribed after an exception of any kind."""
    ear = Ear()
    subscribing = asyncio.create_task(place.broker.subscribe(JOB, ear))
    await asyncio.sleep(0)
    subscribing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await subscribing
    await place.publish()
    await place.settle()
    assert ear.heard == []
    assert place.broker.statistics().channels == 0


async def test_a_lost_connection_is_told_and_mended(place):
    """What passed in between is gone; the sink is told once, before what comes afterwards."""
    ear = await listening(place)
    first = await place.publish()
    await place.settle()
    await place.cut()
    await ear.until(lambda ear: None in ear.heard)
    last = await place.publish()
    await place.settle()
    assert [one and one.id for one in ear.heard] == [first, None, last]


async def test_channels_are_counted(place):
    """From the moment that they are wanted."""
    assert place.broker.statistics().channels == 0
    ear = await listening(place)
    assert (place.broker.statistics().channels, place.broker.statistics().connected) == (1, True)
    place.broker.unsubscribe(JOB, ear)
    assert place.broker.statistics().channels == 0


# --- declare_lost


async def test_a_job_without_a_lease_is_not_lost(place):
    """Nobody promised to be heard of. The job that does not exist is not lost either."""
    await place.publish()
    assert not await place.broker.declare_lost(JOB)
    assert not await place.broker.declare_lost(OTHER)
    assert (await job_of(place)).status == "code"


async def test_a_lease_that_holds_is_positive_and_declares_nothing(place):
    """Seconds from the read; only `jobs` tells them."""
    await place.hold_lease()
    assert 0 < (await job_of(place)).lease <= 31
    assert (await place.broker.latest(JOB, limit=1)).job.lease is None
    assert not await place.broker.declare_lost(JOB)


async def test_a_job_whose_lease_lapsed_fails_once(place):
    """One hub publishes the end, the others get False; the end is a normal event and removes the lease."""
    ear = await listening(place)
    await place.publish()
    await place.hold_lease()
    await place.lapse()
    assert (await job_of(place)).lease < 0
    assert [await place.broker.declare_lost(JOB) for _ in range(3)] == [True, False, False]
    await place.settle()
    job = await job_of(place)
    assert (job.status, job.position, job.lease) == ("failed", EventId(EPOCH, 1), None)
    assert (ear.ids, ear.heard[-1].status) == (await log(place), "failed")


async def test_a_job_that_ended_is_not_lost(place):
    """Its end took the lease along."""
    await place.hold_lease()
    await place.publish("ready")
    assert (await job_of(place)).lease is None
    assert not await place.broker.declare_lost(JOB)
    assert (await job_of(place)).status == "ready"


# --- a server that does not answer


@pytest.mark.parametrize(
    "ask",
    [
        lambda broker: broker.jobs([JOB]),
        lambda broker: broker.latest(JOB, limit=1),
        lambda broker: broker.since(JOB, FIRST, limit=1),
        lambda broker: broker.subscribe(JOB, Ear()),
    ],
    ids=["jobs", "latest", "since", "subscribe"],  # declare_lost: see below
)
async def test_every_call_is_unavailable_in_one_way(place, ask):
    """BrokerUnavailable, and no error of a client library; a subscription that failed is none."""
    await place.publish()
    await place.take_away()
    with pytest.raises(BrokerUnavailable):
        await ask(place.broker)
    assert place.broker.statistics().channels == 0


async def test_a_lease_is_not_declared_lost_without_an_answer(place):
    """BrokerUnavailable, or False where the broker knows that it was away: never True."""
    await place.hold_lease()
    await place.lapse()
    await place.take_away()
    with suppress(BrokerUnavailable):
        assert not await place.broker.declare_lost(JOB)
