"""Sharded subscriptions follow their slots, whatever the nodes say and in whatever order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from hub.broker import cluster as cluster_module
from hub.broker import shards as shards_module
from hub.broker import subscriber as subscriber_module
from hub.broker.cluster import Cluster
from hub.broker.shards import ClusterSubscriber
from hub.broker.topology import slot_of
from hub.errors import BrokerUnavailable
from tests.support.ear import Ear
from tests.unit.broker.nodes import ScriptedNode, nodes, push

DEADLINE = 5.0


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short delays, so that the tests are fast."""
    monkeypatch.setattr(subscriber_module, "BACKOFF", (0.001, 0.01))
    monkeypatch.setattr(cluster_module, "PAUSE", 0.005)
    monkeypatch.setattr(shards_module, "PAUSE", 0.005)
    monkeypatch.setattr(shards_module, "LOOK", 0.05)


@pytest.fixture
async def two() -> AsyncIterator[list[ScriptedNode]]:
    async with nodes(2) as made:
        yield made


@pytest.fixture
async def subscriber(two: list[ScriptedNode]) -> AsyncIterator[ClusterSubscriber]:
    cluster = Cluster([("127.0.0.1", node.port) for node in two], {"socket_timeout": 2}, patience=2)
    made = ClusterSubscriber(cluster)
    yield made
    await made.aclose()
    await cluster.aclose()


def give(slot: int, source: ScriptedNode, target: ScriptedNode) -> None:
    """The slot is the other's now; nobody has been told."""
    source.owned.discard(slot)
    target.owned.add(slot)
    source.elsewhere = target.port


def redraw(every: list[ScriptedNode], slot: int, target: ScriptedNode, epoch: int) -> None:
    """All nodes know that `target` has the slot."""
    for node in every:
        first = every[0].port
        node.map = [(0, slot - 1, first), (slot, slot, target.port), (slot + 1, 16383, first)]
        node.epoch = epoch


async def test_a_channel_that_is_kicked_is_asked_for_again_where_it_was(two, subscriber):
    """The node still has the slot, so its answer confirms; what was missed is in the log."""
    ear = Ear()
    await subscriber.subscribe("{a}:events", ear, deadline=DEADLINE)
    two[0].say("sunsubscribe", "{a}:events")
    await ear.until(lambda one: one.doubts == 1)
    assert ear.misses == 0
    two[0].say("smessage", "{a}:events", b"1")
    await ear.until(lambda one: one.got == [b"1"])
    assert two[0].channels("SSUBSCRIBE") == ["{a}:events"] * 2


async def test_a_kicked_channel_follows_its_slot(two, subscriber):
    """No map says it yet; the node's MOVED does."""
    ear, other = Ear(), Ear()
    await subscriber.subscribe("{a}:events", ear, deadline=DEADLINE)
    await subscriber.subscribe("{b}:events", other, deadline=DEADLINE)
    give(slot_of("{a}"), *two)
    two[0].say("sunsubscribe", "{a}:events")
    await ear.until(lambda one: one.doubts == 1)
    two[1].say("smessage", "{a}:events", b"1")
    two[0].say("smessage", "{b}:events", b"2")
    await ear.until(lambda one: one.got == [b"1"])
    await other.until(lambda one: one.got == [b"2"])
    assert other.doubts == 0, "a channel whose slot did not move is left alone"


async def test_a_map_older_than_the_redirection_does_not_bring_a_channel_back(two, subscriber):
    """Nodes learn of a move one after the other; the channel does not go to and fro."""
    ear = Ear()
    await subscriber.subscribe("{a}:events", ear, deadline=DEADLINE)
    give(slot_of("{a}"), *two)
    two[0].say("sunsubscribe", "{a}:events")
    await ear.until(lambda one: one.doubts == 1)
    for node in two:
        seen = node.verbs["CLUSTER"]
        await node.until(lambda one, seen=seen: one.verbs["CLUSTER"] > seen + 6)
    assert two[1].channels("SSUBSCRIBE") == ["{a}:events"]
    assert ear.doubts == 1


async def test_a_map_of_a_lower_epoch_is_not_believed(two, subscriber):
    """A primary that is cut off from the others goes on saying what was."""
    ear = Ear()
    slot = slot_of("{a}")
    await subscriber.subscribe("{a}:events", ear, deadline=DEADLINE)
    give(slot, *two)
    redraw(two, slot, two[1], epoch=5)
    await ear.until(lambda one: one.doubts == 1)
    redraw(two[:1], slot, two[0], epoch=4)
    seen = two[0].verbs["CLUSTER"]
    await two[0].until(lambda one: one.verbs["CLUSTER"] > seen + 6)
    two[1].say("smessage", "{a}:events", b"1")
    await ear.until(lambda one: one.got == [b"1"])
    assert ear.doubts == 1


async def test_a_map_of_a_node_that_is_not_well_is_not_believed(two, subscriber):
    ear = Ear()
    await subscriber.subscribe("{a}:events", ear, deadline=DEADLINE)
    two[1].state = "fail"
    two[1].map, two[1].epoch = [(0, 16383, two[1].port)], 9
    seen = two[1].verbs["CLUSTER"]
    await two[1].until(lambda one: one.verbs["CLUSTER"] > seen + 6)
    assert two[1].channels("SSUBSCRIBE") == []


async def test_leaving_a_slot_that_has_moved_harms_nobody(two, subscriber):
    """SUNSUBSCRIBE is then answered by MOVED; the line lives on."""
    ear, other = Ear(), Ear()
    await subscriber.subscribe("{a}:events", ear, deadline=DEADLINE)
    await subscriber.subscribe("{b}:events", other, deadline=DEADLINE)
    give(slot_of("{a}"), *two)
    subscriber.unsubscribe("{a}:events", ear)
    await two[0].until(lambda one: one.channels("SUNSUBSCRIBE") == ["{a}:events"])
    two[0].say("smessage", "{b}:events", b"1")
    await other.until(lambda one: one.got == [b"1"])
    assert len(two[0].lines) == 1
    again = Ear()
    await subscriber.subscribe("{a}:events", again, deadline=DEADLINE)
    two[1].say("smessage", "{a}:events", b"2")
    await again.until(lambda one: one.got == [b"2"])
    assert ear.got == []


@pytest.mark.parametrize("verb", ["SUNSUBSCRIBE", "SSUBSCRIBE"])
async def test_a_kick_between_leaving_and_coming_back_loses_nobody(two, subscriber, verb):
    """It comes before either answer, and takes nothing from who comes."""
    first, second = Ear(), Ear()
    await subscriber.subscribe("{a}:events", first, deadline=DEADLINE)
    two[0].before_reply[verb] = push("sunsubscribe", "{a}:events")
    subscriber.unsubscribe("{a}:events", first)
    await subscriber.subscribe("{a}:events", second, deadline=DEADLINE)
    two[0].say("smessage", "{a}:events", b"1")
    await second.until(lambda one: one.got == [b"1"])
    assert first.got == []


async def test_a_slot_that_nobody_serves_is_asked_for_until_somebody_does(two, subscriber):
    """CLUSTERDOWN is about one slot; the line and its other channels stay."""
    ear, other = Ear(), Ear()
    await subscriber.subscribe("{b}:events", other, deadline=DEADLINE)
    two[0].down.add(slot_of("{a}"))
    joining = asyncio.create_task(subscriber.subscribe("{a}:events", ear, deadline=DEADLINE))
    await two[0].until(lambda one: one.channels("SSUBSCRIBE").count("{a}:events") > 2)
    assert not joining.done()
    two[0].down.clear()
    await joining
    assert len(two[0].lines) == 1
    assert other.doubts == 0


async def test_a_viewer_that_waits_is_confirmed_by_the_next_primary(two, subscriber):
    """The slot moves while its first viewer waits: one confirmation, no doubt."""
    ear, other = Ear(), Ear()
    slot = slot_of("{a}")
    await subscriber.subscribe("{b}:events", other, deadline=DEADLINE)
    two[0].down.add(slot)
    joining = asyncio.create_task(subscriber.subscribe("{a}:events", ear, deadline=DEADLINE))
    await two[0].until(lambda one: one.channels("SSUBSCRIBE").count("{a}:events") > 1)
    give(slot, *two)
    redraw(two, slot, two[1], epoch=2)
    await joining
    assert (ear.doubts, two[1].channels("SSUBSCRIBE")) == (0, ["{a}:events"])


async def test_who_is_not_confirmed_is_told_and_leaves_nothing(two, subscriber):
    two[0].down.add(slot_of("{a}"))
    with pytest.raises(BrokerUnavailable):
        await subscriber.subscribe("{a}:events", Ear(), deadline=0.1)
    assert subscriber.statistics().channels == 0


async def test_all_channels_of_a_lost_line_are_asked_for_in_one_command_per_slot(two, subscriber):
    """50,000 watched jobs are three commands for each slot that has any, not 50,000."""
    ears = {f"{{{n}}}:events": Ear() for n in range(5000)}
    joining = [subscriber.subscribe(channel, ear, deadline=30) for channel, ear in ears.items()]
    await asyncio.gather(*joining)
    node = two[0]
    node.got.clear()
    node.lines[-1].transport.abort()
    for ear in ears.values():
        await ear.until(lambda one: one.doubts == 1)
    assert sorted(node.channels("SSUBSCRIBE")) == sorted(ears)
    assert node.verbs["SSUBSCRIBE"] == len({slot_of(channel) for channel in ears})
