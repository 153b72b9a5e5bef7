"""The Pub/Sub connection: it confirms subscriptions, reconnects, notices a dead Redis, and closes."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from hub.broker import subscriber as subscriber_module
from hub.broker.keys import CONTROL_CHANNEL
from hub.broker.subscriber import Subscriber
from hub.demo.embedded import EmbeddedServer
from hub.errors import BrokerUnavailable
from tests.support.ear import Ear


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short delays before reconnects, so that the tests are fast."""
    monkeypatch.setattr(subscriber_module, "BACKOFF", (0.001, 0.01))


@pytest.fixture
async def subscriber(redis: Redis) -> AsyncIterator[Subscriber]:
    made = Subscriber(redis.connection_pool)
    yield made
    await made.aclose()
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


@pytest.fixture
async def real(real_redis: Redis) -> AsyncIterator[Subscriber]:
    made = Subscriber(real_redis.connection_pool)
    yield made
    await made.aclose()


async def numsub(redis: Redis, *channels: str) -> dict[str, int]:
    return {name.decode(): count for name, count in await redis.pubsub_numsub(*channels)}


async def unsubscribed(redis: Redis, subscriber: Subscriber, channel: str) -> None:
    """Return when the server has no subscriber of `channel`.

    Waits for the confirmation of a later command in the same queue.
    """
    fence = Ear()
    await subscriber.subscribe("fence", fence, deadline=5)
    subscriber.unsubscribe("fence", fence)
    assert await numsub(redis, channel) == {channel: 0}


async def test_subscribe_returns_when_redis_has_confirmed(subscriber, redis):
    """The server has the subscription before the call returns, and the next message arrives."""
    ear = Ear()
    await subscriber.subscribe("c", ear, deadline=5)
    assert await numsub(redis, "c") == {"c": 1}
    await redis.publish("c", b"\xff\0x")
    await ear.until(lambda e: e.got)
    assert ear.got == [b"\xff\0x"]
    assert ear.misses == 0


async def test_each_channel_has_its_own_sink_and_order(subscriber, redis):
    """No sink gets another channel's messages."""
    ears = {f"c{n}": Ear() for n in range(10)}
    await asyncio.gather(*(subscriber.subscribe(name, ear, deadline=5) for name, ear in ears.items()))
    for n in range(30):
        for name in ears:
            await redis.publish(name, f"{name} {n}")
    for name, ear in ears.items():
        await ear.until(lambda e: len(e.got) == 30)
        assert ear.got == [f"{name} {n}".encode() for n in range(30)]
    assert subscriber.statistics().channels == 10
    assert subscriber.statistics().messages == 300


async def test_an_unsubscribed_channel_is_silent(subscriber, redis):
    """The server has no subscription any more, and the sink gets no more messages."""
    ear = Ear()
    await subscriber.subscribe("c", ear, deadline=5)
    subscriber.unsubscribe("c", ear)
    await unsubscribed(redis, subscriber, "c")
    assert await redis.publish("c", "x") == 0
    assert ear.got == []


async def test_unsubscribing_what_is_unknown_is_nothing(subscriber):
    """Unsubscribing twice, or without a subscription, does nothing."""
    ear = Ear()
    subscriber.unsubscribe("c", ear)
    await subscriber.subscribe("c", ear, deadline=5)
    subscriber.unsubscribe("c", ear)
    subscriber.unsubscribe("c", ear)


async def test_a_sink_that_leaves_late_takes_nothing_from_its_successor(subscriber, redis):
    """If a job's feed ends while its next feed begins, the channel stays with the next one."""
    old, new = Ear(), Ear()
    await subscriber.subscribe("c", old, deadline=5)
    await subscriber.subscribe("c", new, deadline=5)
    subscriber.unsubscribe("c", old)
    await subscriber.subscribe("fence", Ear(), deadline=5)
    await redis.publish("c", "x")
    await new.until(lambda e: e.got)
    assert old.got == []


async def test_a_channel_can_be_taken_again_at_once(subscriber, redis):
    """After unsubscribing and subscribing without a wait, only the new sink gets messages."""
    old, new = Ear(), Ear()
    await subscriber.subscribe("c", old, deadline=5)
    taken = old
    for _ in range(20):
        subscriber.unsubscribe("c", taken)
        taken = new
        await subscriber.subscribe("c", taken, deadline=5)
    await redis.publish("c", "x")
    await new.until(lambda e: e.got)
    assert (old.got, new.got) == ([], [b"x"])


async def test_the_control_channel_is_always_subscribed(subscriber, redis):
    """The control channel keeps the connection in subscribed mode."""
    await subscriber.subscribe("c", Ear(), deadline=5)
    assert (await numsub(redis, CONTROL_CHANNEL))[CONTROL_CHANNEL] == 1
    assert subscriber.connected


async def test_a_cancelled_subscribe_leaves_nothing(subscriber, redis):
    """A cancelled `subscribe` leaves no subscription."""
    await subscriber.subscribe("first", Ear(), deadline=5)
    task = asyncio.create_task(subscriber.subscribe("c", Ear(), deadline=5))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await unsubscribed(redis, subscriber, "c")
    assert subscriber.statistics().channels == 1


async def test_without_a_server_subscribe_ends_at_its_deadline():
    """A subscription without a confirmation raises BrokerUnavailable and leaves no sink."""
    nobody = Redis(host="127.0.0.1", port=1)
    subscriber = Subscriber(nobody.connection_pool)
    with pytest.raises(BrokerUnavailable):
        await subscriber.subscribe("c", Ear(), deadline=0.05)
    assert subscriber.statistics().channels == 0
    assert not subscriber.connected
    await subscriber.aclose()


async def test_a_killed_connection_tells_each_channel_and_goes_on(real, real_redis):
    """Each kill calls `missed` once per channel, and messages arrive again afterwards."""
    ears = {f"c{n}": Ear() for n in range(5)}
    for name, ear in ears.items():
        await real.subscribe(name, ear, deadline=5)
    for kill in range(1, 4):
        await real_redis.client_kill_filter(_type="pubsub")
        for name, ear in ears.items():
            await ear.until(lambda e, kill=kill: e.misses >= kill)
            await real_redis.publish(name, f"{kill}")
            await ear.until(lambda e, kill=kill: e.got[-1:] == [f"{kill}".encode()])
    assert [ear.misses for ear in ears.values()] == [3] * 5
    assert real.statistics().reconnects == 3


async def test_a_killed_server_is_waited_for(monkeypatch):
    """After a restart on the same port without data, `missed` is called and messages arrive again."""
    with EmbeddedServer() as server:
        async with Redis.from_url(server.url) as client:
            subscriber = Subscriber(client.connection_pool)
            ear = Ear()
            await subscriber.subscribe("c", ear, deadline=5)
            server.kill()
            server.start()
            await ear.until(lambda e: e.misses == 1)
            await client.publish("c", "x")
            await ear.until(lambda e: e.got)
            await subscriber.aclose()


async def test_a_frozen_server_is_noticed(monkeypatch):
    """A server stopped by SIGSTOP sends nothing and closes nothing: the PING finds it out."""
    monkeypatch.setattr(subscriber_module, "PING_INTERVAL", 0.05)
    monkeypatch.setattr(subscriber_module, "SILENCE", 0.3)
    with EmbeddedServer() as server:
        async with Redis.from_url(server.url) as client:
            subscriber = Subscriber(client.connection_pool)
            ear = Ear()
            await subscriber.subscribe("c", ear, deadline=5)
            server.process.send_signal(signal.SIGSTOP)
            try:
                async with asyncio.timeout(10):
                    while subscriber.connected:
                        await asyncio.sleep(0.01)
            finally:
                server.process.send_signal(signal.SIGCONT)
            await ear.until(lambda e: e.misses)
            await client.publish("c", "x")
            await ear.until(lambda e: e.got)
            assert subscriber.statistics().reconnects >= 1
            await subscriber.aclose()


async def test_a_silent_channel_is_no_dead_connection(real, monkeypatch):
    """Without messages the answers to PING keep the connection, so `missed` is never called."""
    monkeypatch.setattr(subscriber_module, "PING_INTERVAL", 0.005)
    monkeypatch.setattr(subscriber_module, "SILENCE", 2.0)
    pings = 0
    sent = real._send

    async def counting(connection, *commands):
        nonlocal pings
        pings += commands == (("PING",),)
        await sent(connection, *commands)

    monkeypatch.setattr(real, "_send", counting)
    ear = Ear()
    await real.subscribe("c", ear, deadline=5)
    async with asyncio.timeout(10):
        while pings < 20:
            await asyncio.sleep(0.005)
    assert (ear.misses, real.statistics().reconnects) == (0, 0)


async def test_hundreds_of_subscriptions_survive_kills(real, real_redis):
    """20 tasks subscribe and unsubscribe 200 times under connection kills: no call fails, no sink is left."""
    rng = random.Random(3)
    done = asyncio.Event()

    async def killer():
        while not done.is_set():
            await real_redis.client_kill_filter(_type="pubsub")
            for _ in range(rng.randrange(40)):
                await asyncio.sleep(0)
            await real_redis.ping()

    async def worker(number):
        for n in range(10):
            channel, ear = f"w{number}.{n}", Ear()
            await real.subscribe(channel, ear, deadline=20)
            if n % 3 == 0:
                await real_redis.publish(channel, "x")
                await ear.until(lambda e: e.got or e.misses)
            real.unsubscribe(channel, ear)

    killing = asyncio.create_task(killer())
    results = await asyncio.gather(*(worker(n) for n in range(20)), return_exceptions=True)
    done.set()
    await killing
    assert [one for one in results if one is not None] == []
    await unsubscribed(real_redis, real, "w0.0")
    left = [name for name in await real_redis.pubsub_channels() if name != CONTROL_CHANNEL.encode()]
    await real.subscribe("last", Ear(), deadline=5)
    assert [name for name in left if name.startswith(b"w")] == []


async def test_closing_leaves_no_connection_and_no_task(real_redis):
    """After `aclose` the server has no Pub/Sub connection, and no task is left."""
    before = asyncio.all_tasks()
    subscriber = Subscriber(real_redis.connection_pool)
    await subscriber.subscribe("c", Ear(), deadline=5)
    assert len(await real_redis.client_list(_type="pubsub")) == 1
    await subscriber.aclose()
    await subscriber.aclose()
    assert asyncio.all_tasks() == before
    async with asyncio.timeout(10):
        while await real_redis.client_list(_type="pubsub"):
            await asyncio.sleep(0)
    assert not subscriber.connected


# --- a fake connection, for orders of events that a real connection shows too rarely


class SlowConnection:
    """A connection whose sends wait for the test, as they would on a full socket buffer."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, ...]] = []
        self.sending = asyncio.Event()
        self.gate = asyncio.Event()
        self.replies: asyncio.Queue[list[bytes]] = asyncio.Queue()

    async def connect(self):
        return

    async def disconnect(self, *, nowait=False):
        return

    def pack_commands(self, commands):
        return commands

    async def send_packed_command(self, commands, *, check_health=True):
        self.sending.set()
        await self.gate.wait()
        for command in commands:
            self.sent.append(command)
            if command[0] in ("SUBSCRIBE", "UNSUBSCRIBE"):
                for channel in command[1:]:
                    await self.replies.put([command[0].lower().encode(), channel.encode(), b"1"])

    async def read_response(self, *, disconnect_on_error=True):
        return await self.replies.get()


@pytest.fixture
async def slow(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Subscriber, SlowConnection]]:
    connection = SlowConnection()
    subscriber = Subscriber(Redis().connection_pool)
    monkeypatch.setattr(subscriber_module, "dedicated", lambda *_: connection)
    yield subscriber, connection
    await subscriber.aclose()


async def test_a_sink_that_subscribes_while_a_new_connection_subscribes_is_not_forgotten(slow):
    """A subscription made while the SUBSCRIBE of a reconnect is blocked is sent after it."""
    subscriber, connection = slow
    subscriber.start()
    await connection.sending.wait()
    waiting = asyncio.create_task(subscriber.subscribe("late", Ear(), deadline=0.5))
    await asyncio.sleep(0)
    connection.gate.set()
    await asyncio.wait([waiting])
    assert waiting.exception() is None
    assert any("late" in command for command in connection.sent)


async def test_a_sink_that_leaves_while_a_new_connection_subscribes_is_unsubscribed(slow):
    """Without that command the server would stay subscribed to the channel."""
    subscriber, connection = slow
    subscriber.start()
    ear = Ear()
    waiting = asyncio.create_task(subscriber.subscribe("c", ear, deadline=5))
    await connection.sending.wait()
    subscriber.unsubscribe("c", ear)
    waiting.cancel()
    connection.gate.set()
    await asyncio.wait([waiting])
    await subscriber.subscribe("fence", Ear(), deadline=5)
    wanted = set()
    for verb, *channels in connection.sent:
        (wanted.update if verb == "SUBSCRIBE" else wanted.difference_update)(channels)
    assert wanted == {CONTROL_CHANNEL, "fence"}


async def test_a_late_confirmation_of_an_earlier_subscription_is_told(slow):
    """Two SUBSCRIBEs before the first confirmation is read: `missed` tells of a possible hole."""
    subscriber, connection = slow
    connection.gate.set()
    await subscriber.subscribe("first", Ear(), deadline=5)
    connection.gate.clear()  # no command reaches Redis from here on
    first = asyncio.create_task(subscriber.subscribe("c", Ear(), deadline=5))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    ear = Ear()
    second = asyncio.create_task(subscriber.subscribe("c", ear, deadline=5))
    await asyncio.sleep(0)
    connection.gate.set()
    await second
    await subscriber.subscribe("fence", Ear(), deadline=5)
    assert [verb for verb, *channels in connection.sent if channels == ["c"]] == [
        "SUBSCRIBE",
        "UNSUBSCRIBE",
        "SUBSCRIBE",
    ]
    assert ear.misses == 1


async def test_an_unexpected_error_does_not_end_the_supervisor(slow, monkeypatch):
    """A sink that raises costs one connection at most; the next connection works."""
    subscriber, connection = slow
    connection.gate.set()

    class Broken(Ear):
        def receive(self, data):
            raise ZeroDivisionError

    await subscriber.subscribe("c", Broken(), deadline=5)
    await connection.replies.put([b"message", b"c", b"x"])
    await connection.replies.put([b"message", b"c", b"x"])
    for _ in range(20):
        await asyncio.sleep(0)
    await subscriber.subscribe("after", Ear(), deadline=0.5)
