"""Feed, intake, view and hub against a scripted Redis: seeded interleavings of everything that can go wrong."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random

import pytest

from hub.engine.caller import Caller
from hub.engine.hub import Hub
from hub.fanout.wire import Reason
from hub.feed import feed as feed_module
from hub.feed import retained as retained_module
from hub.feed import window as window_module
from hub.feed.inbox import Inbox
from hub.feed.intake import Intake
from hub.feed.retained import Retained
from hub.job.cursor import Wish
from hub.settings import Settings
from tests.unit.scripted import JOB, TERMINAL, USER, Client, ScriptedBroker, Violation, check, law

KINDS = ("numbered", "foreign", "mixed", "rollback", "epochs")
SEEDS = 650


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here waits for a clock: retries are at once, and local epochs are never given twice."""
    numbers = itertools.count(10**12, 1000)
    monkeypatch.setattr(retained_module, "RETRY", 0)
    monkeypatch.setattr(retained_module, "SETTLE", 0)
    monkeypatch.setattr(window_module, "_now_ms", lambda: next(numbers))


class Schedule:
    """A job, some clients, a hub, and dice."""

    def __init__(self, seed: int, broker: type[ScriptedBroker] = ScriptedBroker) -> None:
        self.rng = rng = random.Random(seed)
        self.kind = KINDS[seed % len(KINDS)]
        self.calm = (
            self.kind == "rollback"
        )  # a client that is away would come back with a cursor that was given twice
        self.broker = broker()
        self.broker.rng = rng
        self.broker.failing = 0 if self.calm else rng.choice([0, 0, 0.1])
        if rng.random() < 0.5 and self.kind != "foreign":
            self.broker.epoch = 1000  # as create_job leaves it
        self.hub = Hub(
            self.broker,
            Settings(
                window_events=1000 if self.calm else rng.choice([4, 12, 1000]),
                max_event_bytes=300,
                linger=10**6 if self.calm else rng.choice([0, 10**6]),
                position_check=10**6,
            ),
        )
        self.clients: list[Client] = []
        self.errors: list[str] = []

    async def settle(self, turns: int = 6) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)

    # --- what may happen

    def publish(self) -> None:
        for _ in range(self.rng.choice([1, 1, 2, 6])):
            foreign = self.kind == "foreign" or (self.kind == "mixed" and self.rng.random() < 0.4)
            size = 400 if self.rng.random() < 0.04 else 0
            self.broker.publish(size=size, foreign=foreign)

    def lose(self) -> None:
        flight = self.broker.flight
        if flight and self.kind in (
            "numbered",
            "epochs",
            "rollback",
        ):  # numbers heal; a foreign message has none
            del flight[self.rng.randrange(len(flight))]

    def repeat(self) -> None:
        flight = self.broker.flight
        numbered = [data for data in flight if data.startswith(b'{"id"')]
        if numbered and self.kind in ("numbered", "mixed"):  # elsewhere a late copy is as good as a new event
            flight.insert(self.rng.randrange(len(flight) + 1), self.rng.choice(numbered))

    def connection(self) -> None:
        (self.broker.reconnect if self.broker.down else self.broker.disconnect)()

    def position_check(self) -> None:
        for feed in self.hub.feeds.watched.values():
            if feed.ready:
                feed.compare(self.broker.job())

    async def damage(self) -> None:
        broker = self.broker
        over = (
            broker.fields["status"] in TERMINAL
        )  # an end that is rolled back ends nothing, and no law is about that
        if self.kind == "rollback" and len(broker.log) > 3 and not over:
            broker.disconnect()
            broker.roll_back(self.rng.randrange(1, 3))
            await self.quiet()  # before the next event: see test_a_rollback_that_is_overtaken_is_noticed
        elif self.kind == "epochs":
            await self.quiet()  # see test_a_late_message_of_a_lost_log_is_not_delivered
            self.rng.choice([broker.delete_log, broker.lose_numbers])()
        elif self.kind in ("numbered", "mixed") and broker.log:
            broker.trim(self.rng.choice([1, 3, 8]))

    def drain_flight(self) -> None:
        while self.broker.flight:
            self.broker.deliver()

    def join(self) -> None:
        if len(self.clients) < 6:
            origin = self.rng.choice(["start", "start", "live", 2])
            often = 0.0 if self.calm else self.rng.choice([0.0, 0.3, 0.9])
            client = Client(self.hub, Wish(from_=origin), often, self.rng, joined=len(self.broker.truth))
            self.clients.append(client)
            client.connect()

    async def visitor(self) -> None:
        client = self.rng.choice(self.clients)
        if client.task is None:
            client.connect()
        elif self.rng.random() < 0.6:
            client.resume()
        elif not self.calm:
            await client.leave()

    async def step(self) -> None:
        dice = self.rng.random()
        if not self.clients or dice < 0.06:
            self.join()
        elif dice < 0.26:
            self.publish()
        elif dice < 0.46:
            for _ in range(self.rng.choice([1, 3, 20])):
                self.broker.deliver()
        elif dice < 0.70:
            self.broker.release(self.rng.randrange(9))
        elif dice < 0.73:
            self.lose()
        elif dice < 0.76:
            self.repeat()
        elif dice < 0.80:
            self.connection()
        elif dice < 0.83:
            self.position_check()
        elif dice < 0.86:
            await self.damage()
        elif dice < 0.87:
            self.broker.open = not self.broker.open
        else:
            await self.visitor()
        await self.settle(self.rng.randrange(5))

    async def quiet(self) -> None:
        """Faults are over: everything gets through, and two position checks look at what is left."""
        broker = self.broker
        broker.failing = 0
        was_open, broker.open = broker.open, True
        for _ in range(4):
            if broker.down:
                broker.reconnect()
            while broker.parked:
                broker.release(0)
                await self.settle()
            self.drain_flight()
            for client in self.clients:
                client.often = 0.0
                client.connect()
            await self.settle(60)
            for client in self.clients:
                client.resume()
            self.drain_flight()
            await self.settle(30)
            self.position_check()
            await self.settle(60)
        broker.open = was_open

    async def play(self) -> None:
        self.broker.open = self.rng.random() < 0.2
        loud, feed_module.logger.exception = (
            feed_module.logger.exception,
            lambda *args: self.errors.append(repr(args)),
        )
        try:
            for _ in range(self.rng.randrange(20, 110)):
                await self.step()
            ended = self.rng.random() < 0.6
            self.calm = False
            if ended:
                self.rng.choice([self.publish, self.position_check])()
                status = self.rng.choice(["ready", "failed"])
                how = self.rng.random()
                if how < 0.2:
                    self.broker.fields["status"] = status  # an application that only writes the hash
                else:
                    if self.kind == "rollback":
                        await self.quiet()
                    self.broker.publish(status=status, foreign=self.kind == "foreign", size=400 * (how > 0.9))
                    self.broker.fields["status"] = status
                if self.rng.random() < 0.3:
                    self.lose()
                for _ in range(self.rng.randrange(20)):
                    await self.step()
            await self.quiet()
            self.check(ended=ended)
        finally:
            feed_module.logger.exception = loud
            await self.end()

    def check(self, *, ended: bool) -> None:
        law(not self.errors, f"no feed fails: {self.errors}")
        for client in self.clients:
            try:
                check(client, self.broker, ended=ended, local=self.kind == "foreign")
            except Violation as error:
                story = "\n".join(map(str, client.items[-40:]))
                raise Violation(f"{self.kind}, {client.wish}: {error}\n{story}") from None

    async def end(self) -> None:
        self.broker.open = True
        for client in self.clients:
            await client.leave()
        await self.hub.aclose()
        await self.settle()
        statistics = self.hub.statistics()
        law(self.broker.sink is None, "no subscription is left")
        law(not statistics.jobs and not statistics.viewers, "no viewer and no feed is left")
        left = [task for task in asyncio.all_tasks() if task.get_name().startswith("hub-")]
        law(not left, f"no task is left: {left}")


@pytest.mark.parametrize("lot", range(SEEDS // 25))
async def test_every_viewer_gets_each_event_once_in_order_or_is_told(lot):
    """Over message loss, repeats, reconnects, trims, new epochs, rollbacks, foreign messages, failing reads, slow and
    leaving viewers, and every order of confirmation, read and terminal."""
    for seed in range(lot * 25, lot * 25 + 25):
        try:
            await Schedule(seed).play()
        except Violation as error:
            raise Violation(f"seed {seed}: {error}") from None


async def test_the_schedules_reach_what_they_are_for():
    """Heals, gaps, resyncs, slow viewers and several sessions all happen, or the test above proves little."""
    heals = gaps = resyncs = sessions = ended = slow = 0
    for seed in range(100):
        schedule = Schedule(seed)
        with contextlib.suppress(Violation):  # the test above is the one that fails then
            await schedule.play()
        totals = schedule.hub.statistics()
        heals, gaps, resyncs = heals + totals.heals, gaps + totals.gaps, resyncs + totals.resyncs
        for client in schedule.clients:
            sessions += sum(item.kind == "session" for item in client.items)
            ended += client.done
            slow += client.reason is Reason.TOO_SLOW
    assert min(heals, gaps, resyncs) > 10
    assert sessions > 500
    assert ended > 100


# --- the schedules fail when the engine is broken


class SubscribesAfterTheRead(ScriptedBroker):
    """A confirmation nobody waits for: messages between the read and the subscription are lost."""

    async def subscribe(self, job, sink):
        self.sink = sink
        self.confirmed = True

    async def latest(self, job, *, limit, size=1 << 20):
        snapshot = await super().latest(job, limit=limit, size=size)
        self.subscribed = self.sink is not None
        return snapshot

    def reconnect(self):
        self.down = False

    async def since(self, job, after, *, limit):
        await self._gate()
        return self._snapshot(job, [])


async def no_look(self, *args):
    return []


def deaf(self, *args):
    return


MUTANTS = {
    "no healing": (Retained, "look", no_look),
    "terminal not remembered": (Retained, "end_soon", deaf),
    "deaf to reconnects": (Inbox, "missed", deaf),
    "no position check": (Intake, "compare", deaf),
}


@pytest.mark.parametrize("name", MUTANTS)
async def test_a_broken_intake_fails_the_schedules(name, monkeypatch):
    """The checker sees each way of being wrong."""
    monkeypatch.setattr(*MUTANTS[name])
    failed = 0
    for seed in range(SEEDS):  # some need a rare schedule; the sound engine fails none of these
        try:
            await Schedule(seed).play()
        except Violation:
            failed += 1
        if failed > 2:
            return
    raise AssertionError(f"expected three seeds to fail, got {failed}")


async def end_between_read_and_answer(broker: ScriptedBroker) -> None:
    """A foreign terminal, which no log remembers, falls between the read and its answer."""
    story = Story(broker)
    broker.epoch, broker.open = None, False
    async with story.told() as client:
        while not broker.snapshots:
            broker.release(0)
            await story.settle()
        broker.publish(foreign=True, status="ready")
        broker.open = True
        while broker.parked:
            broker.release(0)
            await story.settle()
        await story.deliver()
        law(client.done, "nobody waits for ever")


async def test_an_end_between_the_read_and_its_answer_is_not_lost():
    """The subscription is confirmed before the read, so the message waits in the inbox."""
    await end_between_read_and_answer(ScriptedBroker())


async def test_a_subscription_after_the_read_is_found_out():
    """The attach order is what keeps viewers whole; a broker that breaks it fails the same check."""
    with pytest.raises(Violation):
        await end_between_read_and_answer(SubscribesAfterTheRead())


# --- laws that the schedules found broken, each alone


class Story:
    """A job and a client that is told everything, with the server's doors open."""

    def __init__(self, broker: ScriptedBroker | None = None, **settings) -> None:
        self.broker = broker or ScriptedBroker()
        self.broker.epoch = 1000
        values = {"linger": 0, "position_check": 10**6, "max_event_bytes": 300} | settings
        self.hub = Hub(self.broker, Settings(**values))

    async def client(self, **wish) -> Client:
        client = Client(self.hub, Wish(**wish), 0.0, random.Random(0))
        client.connect()
        await self.settle()
        return client

    async def settle(self) -> None:
        for _ in range(60):
            await asyncio.sleep(0)

    async def deliver(self) -> None:
        while self.broker.flight:
            self.broker.deliver()
        await self.settle()

    @contextlib.asynccontextmanager
    async def told(self, **wish):
        client = await self.client(**wish)
        try:
            yield client
        finally:
            await client.leave()
            await self.hub.aclose()


def numbers(client: Client) -> list:
    return [item.g if item.kind == "event" else item.kind for item in client.items if item.kind != "session"]


async def test_a_rollback_that_is_overtaken_is_noticed():
    """A failover lost the last write, and the next event took its number: it is not the one the viewers have."""
    story = Story()
    async with story.told() as client:
        for _ in range(3):
            story.broker.publish()
        await story.deliver()
        story.broker.disconnect()
        story.broker.roll_back(1)
        story.broker.publish()
        story.broker.reconnect()
        await story.settle()
        story.broker.publish()
        await story.deliver()
        assert numbers(client)[:3] == [0, 1, 2]
        assert 3 in numbers(client) or "resync" in numbers(client)


async def test_a_late_message_of_a_lost_log_is_not_delivered():
    """It waits in the inbox while the log is found to be another one; after the resync it is of the past."""
    story = Story()
    async with story.told() as client:
        story.broker.publish()
        await story.deliver()
        story.broker.publish()  # 1 and 2 are on their way when the log is deleted
        story.broker.publish()
        story.broker.flight.popleft()
        story.broker.delete_log()
        story.broker.publish()
        await story.deliver()
        seen = [item.g for item in client.items if item.kind == "event"]
        assert seen == sorted(set(seen)), f"once each and in order: {numbers(client)}"
        assert 3 in seen


async def test_a_gap_stands_where_the_messages_are_missing():
    """Foreign messages that waited when the connection was lost came before the hole, so they go out before it."""
    story = Story()
    story.broker.epoch = None
    async with story.told() as client:
        story.broker.publish(foreign=True)
        await story.deliver()
        story.broker.publish(foreign=True)
        story.broker.deliver()  # 1 is in the inbox, not yet taken
        story.broker.disconnect()
        story.broker.publish(foreign=True)  # 2 is lost
        story.broker.reconnect()
        story.broker.publish(foreign=True)
        story.broker.deliver()
        await story.settle()
        assert numbers(client) == [0, 1, "gap", "state", 3]


async def test_a_loss_is_told_though_the_job_got_a_log_in_the_meantime():
    """Foreign events were lost; the first numbered one does not cover that up."""
    story = Story()
    story.broker.epoch = None
    async with story.told() as client:
        story.broker.publish(foreign=True)
        await story.deliver()
        story.broker.disconnect()
        story.broker.publish(foreign=True)  # lost
        story.broker.publish()  # the first of the log
        story.broker.reconnect()
        await story.settle()
        assert "gap" in numbers(client)


async def test_a_gap_and_its_state_leave_the_window_together():
    """Who resumes from before the gap is told of it, also when the window begins between the two."""
    story = Story(window_events=4, linger=10**6)
    async with story.told() as client:
        story.broker.publish()
        story.broker.publish(size=400)  # over the limit: a gap and a state
        for _ in range(3):
            story.broker.publish()
        await story.deliver()
        late = await story.client(cursor="1000-0")
        assert numbers(late)[-3:] == [2, 3, 4]
        assert "gap" in numbers(late) or 1 in numbers(late)
        await late.leave()
        assert "gap" in numbers(client)


async def test_a_replay_never_runs_ahead_of_the_window():
    """The retained log is trimmed past a window that lags: the viewer gets the window, once and in order."""
    story = Story(window_events=3, linger=10**6)
    async with story.told() as client:
        for _ in range(6):
            story.broker.publish()
        await story.deliver()
        for _ in range(6):
            story.broker.publish()  # still in flight
        story.broker.trim(2)
        late = await story.client()
        await story.deliver()
        seen = [one for one in numbers(late) if isinstance(one, int)]
        assert seen == sorted(set(seen)), numbers(late)
        assert seen[-1] == 11
        await late.leave()
        await client.leave()


async def test_terminal_events_pass_a_filter_also_in_a_replay():
    """Read from the retained log because the window holds only the end."""
    story = Story(window_events=1)
    async with story.told() as client:
        story.broker.publish()
        story.broker.publish(status="ready")
        await story.deliver()
        assert client.done
        late = await story.client(types=frozenset({"nothing"}))
        view_frames = [item for item in late.items if item.terminal]
        assert view_frames
        await late.leave()


async def test_a_failed_read_that_nobody_waits_for_leaves_no_complaint():
    """The viewer left while its job was read, and Redis was away."""
    import gc

    complaints: list[dict] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    story = Story()
    story.broker.open = False
    story.broker.failing = 1
    client = await story.client()
    await client.leave()
    story.broker.open = True
    while story.broker.parked:
        story.broker.release(0)
        await story.settle()
    await story.hub.aclose()
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []


async def test_a_hub_that_closes_lets_nobody_in():
    """A viewer who waits for the feed to start is refused, not left on a feed that is gone."""
    story = Story()
    story.broker.open = False
    waiting = asyncio.create_task(story.hub.view(Caller(USER), JOB, Wish()))
    await story.settle()
    story.broker.release(0)
    await story.settle()
    story.broker.release(0)
    await story.settle()
    assert not waiting.done()
    story.broker.open = True
    closing = asyncio.create_task(story.hub.aclose())
    await story.settle()
    await asyncio.wait([closing])
    await asyncio.wait([waiting], timeout=1)
    assert waiting.done()
    assert waiting.exception() is not None
