"""What waits for a feed: its bound, its marks, and the numbers in it."""

from __future__ import annotations

import asyncio
import random

import pytest

from hub.feed import inbox as module
from hub.feed.inbox import Inbox, Mark
from hub.job.event import EventId
from hub.totals import Totals

FOREIGN = b'{"type":"x"}'
LAST = EventId(5, 6)


def message(seq: int, epoch: int = 5) -> bytes:
    return b'{"id":"%d-%d","type":"x"}' % (epoch, seq)


def holding(*what: bytes | Mark) -> Inbox:
    inbox = Inbox(Totals(), longest=10**9)
    for one in what:
        {
            Mark.LOOK: inbox.doubt,
            Mark.LOST: inbox.missed,
            Mark.OVER: inbox.end,
        }[one]() if isinstance(one, Mark) else inbox.receive(one)
    return inbox


def content(inbox: Inbox) -> list[bytes | Mark]:
    return [inbox.pop() for _ in range(len(inbox))]


def test_a_message_beyond_the_bound_drops_all_and_leaves_a_mark(monkeypatch):
    """The bound itself fits. Nothing is lost without a mark, which stands where the messages stood."""
    monkeypatch.setattr(module, "LIMIT", 3)
    inbox = holding(message(0), message(1), message(2))
    assert (len(inbox), inbox.received, inbox.popped) == (3, 3, 0)
    inbox.receive(message(3))
    assert (inbox.received, inbox.popped) == (4, 3)
    assert content(inbox) == [Mark.LOST, message(3)]


def test_a_mark_stands_once_where_it_stands():
    """The same again at the same place says nothing more; behind a message, or behind another mark, it does."""
    inbox = holding(Mark.LOOK, Mark.LOOK, Mark.LOST, Mark.LOOK, FOREIGN, Mark.LOOK, Mark.OVER, Mark.OVER)
    assert content(inbox) == [Mark.LOOK, Mark.LOST, Mark.LOOK, FOREIGN, Mark.LOOK, Mark.OVER]


def test_messages_are_counted_and_marks_are_not():
    """One that was put back is not taken."""
    inbox = holding(FOREIGN, Mark.LOOK, FOREIGN)
    assert inbox.first == inbox.pop() == FOREIGN
    mark = inbox.pop()
    assert (inbox.received, inbox.popped) == (2, 1)
    inbox.put_back(mark)
    inbox.put_back(FOREIGN)
    assert (inbox.popped, len(inbox)) == (0, 3)
    assert content(inbox) == [FOREIGN, Mark.LOOK, FOREIGN]


@pytest.mark.parametrize("what", [FOREIGN, Mark.LOOK, Mark.LOST, Mark.OVER], ids=str)
async def test_whatever_comes_wakes_who_waits(what):
    """Whatever is in it ends a wait; an empty one makes it wait for what comes next."""
    inbox = holding(what)
    await asyncio.wait_for(inbox.wait(), 1)
    inbox.pop()
    waiting = asyncio.create_task(inbox.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    inbox.receive(FOREIGN)
    await asyncio.wait_for(waiting, 1)


@pytest.mark.parametrize(
    ("waiting", "found"),
    [
        ([], None),
        ([FOREIGN, Mark.LOOK], None),
        ([message(6), message(3)], None),
        ([message(9, epoch=4), message(9, epoch=6)], None),
        ([message(7)], EventId(5, 7)),
        ([FOREIGN, message(2), Mark.LOST, message(9), message(8)], EventId(5, 9)),
    ],
)
def test_the_first_number_that_follows_is_found(waiting, found):
    """The first in the inbox's order, of the same numbering, and after the last one."""
    assert holding(*waiting).first_after(LAST) == found


def test_messages_of_a_numbering_that_is_over_are_dropped():
    """They count as taken; what has no number, and the marks, stay in their order."""
    inbox = holding(message(1), FOREIGN, Mark.LOOK, message(2), message(3))
    inbox.drop_numbered()
    assert (inbox.received, inbox.popped) == (4, 3)
    assert content(inbox) == [FOREIGN, Mark.LOOK]


@pytest.mark.parametrize("seed", range(20))
def test_what_waits_is_counted_whatever_happens_to_it(seed):
    """Messages and bytes, in the totals that all inboxes share, and those that came before."""
    dice, totals = random.Random(seed), Totals()
    one, other = Inbox(totals, longest=50), Inbox(totals, longest=50)
    other.receive(b"o" * 7)
    for _ in range(60):
        match dice.choice(["receive"] * 4 + ["pop"] * 3 + ["put_back", "drop_numbered", "doubt", "clear"]):
            case "receive":
                numbered = b'{"id":"5-1",' if dice.random() < 0.5 else b"{"
                one.receive(numbered + b"x" * dice.randrange(60))
            case "pop" if one:
                one.pop()
            case "put_back" if one:
                one.put_back(one.pop())
            case "drop_numbered":
                one.drop_numbered()
            case "doubt":
                one.doubt()
            case "clear":
                one.clear()
        waiting = [item for item in one._items if not isinstance(item, Mark)]
        assert totals.inbox == len(waiting) + 1
        assert totals.inbox_bytes == sum(map(len, waiting)) + 7
        assert one.popped == one.received - len(waiting)
    one.close()
    assert (totals.inbox, totals.inbox_bytes) == (1, 7)


async def test_news_are_announced_once_until_they_are_taken_up():
    told = []
    one = Inbox(Totals(), longest=50, on_news=lambda: told.append(1))
    one.receive(b"a")
    assert told == [], "nobody waits"
    one.pop()
    waiting = asyncio.create_task(one.wait())
    await asyncio.sleep(0)
    one.receive(b"b")
    one.receive(b"c")
    assert told == [1]
    assert one.is_taken_up()
    one.receive(b"d")
    assert told == [1, 1]
    one.wake()
    await waiting
    assert not one.is_taken_up()
