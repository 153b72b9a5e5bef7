"""A line when a stream begins and one when it ends, in words and in fields; none if the level leaves them out."""

from __future__ import annotations

import asyncio
import logging

import pytest

from hub.engine.caller import Caller
from hub.engine.journal import Note
from hub.fanout.wire import Reason
from hub.job.cursor import Wish
from tests.unit.engine.test_hub import Wire, running, take_seat
from tests.unit.engine.test_view import cursor, published
from tests.unit.scripted import JOB, USER, Recording

pytestmark = pytest.mark.looptime(start=1000)


class Kernel(Wire):
    """A connection that knows what its client has acknowledged."""

    acknowledged = 77


def lines(caplog) -> list[dict[str, object]]:
    return [record.viewer for record in caplog.records if record.name == "hub.viewers"]


@pytest.fixture
def viewers_log(caplog):
    with caplog.at_level(logging.INFO, "hub.viewers"):
        yield caplog


async def test_a_stream_is_a_line_at_its_beginning_and_one_at_its_end(viewers_log):
    broker = published(5)
    async with running(broker) as hub:
        (await hub.view(Caller(USER), JOB, Wish())).close()  # the window has all five
        with await hub.view(Caller(USER, request="r1"), JOB, Wish(from_=2)) as view:
            wire = Kernel()
            seat = view.seat(wire, Recording())
            seat.catch_up()
            broker.publish()
            broker.deliver()
            await asyncio.sleep(3.14)
            assert len(wire.frames) == 3
    who = {"request_id": "r1", "transport": "sse", "job": JOB, "user": USER}
    assert lines(viewers_log) == [
        {"event": "opened", **who, "position": cursor(broker, 2)},
        {"event": "closed", **who, "reason": "client left", "seconds": 3.1, "events": 3, "bytes": 77},
    ]
    assert viewers_log.messages == [
        f"viewer r1 opened: sse of job a, user ada, at {cursor(broker, 2)}",
        "viewer r1 closed: sse of job a, user ada: client left, after 3.1 s, 3 events and 77 bytes",
    ]


async def test_the_line_of_the_end_says_why_the_viewer_went(viewers_log):
    async with running() as hub:
        with await hub.view(Caller(USER), JOB, Wish()) as view:
            take_seat(view)
            view.why = Reason.AGED.words
    closed = lines(viewers_log)[-1]
    assert (closed["reason"], closed["events"], closed["bytes"]) == ("stream is old, resume", 0, None)


async def test_a_request_without_an_id_gets_one_that_both_lines_have(viewers_log):
    async with running() as hub:
        for _ in range(2):
            with await hub.view(Caller(USER), JOB, Wish()) as view:
                take_seat(view)
    first, again, other, _ = [line["request_id"] for line in lines(viewers_log)]
    assert first == again != other
    assert len(first) == 12


async def test_a_viewer_that_never_had_a_seat_is_no_line(viewers_log):
    async with running() as hub:
        (await hub.view(Caller(USER), JOB, Wish())).close()
    assert lines(viewers_log) == []


@pytest.mark.parametrize(("level", "is_noted"), [("INFO", True), ("WARNING", False)])
def test_nothing_is_remembered_for_lines_that_the_level_leaves_out(caplog, level, is_noted):
    with caplog.at_level(level, "hub.viewers"):
        assert (Note.of("r1") is not None) is is_noted


async def test_without_the_lines_a_stream_is_as_always(caplog):
    with caplog.at_level(logging.WARNING, "hub.viewers"):
        async with running(published(1)) as hub:
            with await hub.view(Caller(USER), JOB, Wish()) as view:
                wire, _ = take_seat(view)
                assert (view.note, len(wire.frames)) == (None, 1)
    assert lines(caplog) == []
