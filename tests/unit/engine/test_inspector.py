"""What an operator sees of one process: its jobs, their viewers, who has gone and why, its warnings."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from contextlib import ExitStack
from importlib.metadata import version

import pytest

from hub.engine import inspector as module
from hub.engine.caller import Caller
from hub.engine.hub import Hub
from hub.engine.inspector import GONE, REMEMBERED
from hub.fanout.wire import Reason
from hub.job.cursor import Wish
from hub.job.event import JobId, UserId
from hub.job.record import Job, Snapshot
from tests.unit.engine.test_hub import Wire, running, take_seat
from tests.unit.engine.test_view import cursor, published
from tests.unit.scripted import JOB, USER, Recording, ScriptedBroker

pytestmark = pytest.mark.looptime(start=1000)
OTHER = JobId("b")
LOOK = 1000
"""A limit that leaves nothing out."""


class Slow(Wire):
    """A connection that takes nothing."""

    paused = True
    unsent = 33


class TwoJobs(ScriptedBroker):
    """A second job beside the one, which has no events."""

    async def jobs(self, jobs):
        found = await super().jobs(jobs)
        return [Job(job, "new", USER) if job == OTHER else one for job, one in zip(jobs, found, strict=True)]

    async def latest(self, job, *, limit, size=1 << 20):
        if job == OTHER:
            return Snapshot(Job(job, "new", USER), [])
        return await super().latest(job, limit=limit, size=size)

    async def since(self, job, after, *, limit):
        if job == OTHER:
            return Snapshot(Job(job, "new", USER), [])
        return await super().since(job, after, limit=limit)


def of_all(hub: Hub, limit: int = LOOK):
    return hub.inspector.look(None, limit)


def of_one(hub: Hub, job: JobId = JOB, limit: int = LOOK):
    return hub.inspector.look(job, limit)


async def test_each_answer_says_which_process_it_is():
    async with running() as hub:
        for found in (of_all(hub), of_one(hub)):
            assert (found["host"], found["pid"]) == (socket.gethostname(), os.getpid())


async def test_a_look_at_all_has_the_numbers_of_the_process(monkeypatch):
    monkeypatch.setattr(module.time, "time", lambda: 123.0)
    async with running() as hub:
        with await hub.view(Caller(USER), JOB, Wish()) as view:
            take_seat(view)
            found = of_all(hub)
    assert (found["version"], found["since"]) == (version("push-hub"), 123.0)
    assert (found["totals"]["viewers"], found["totals"]["jobs"], found["totals"]["opened"]) == (1, 1, 1)
    assert sum(found["timings"]["join sse"]) == 1
    assert sum(found["timings"]["join poll"]) == 0
    assert {"delivery redis", "delivery queue", "delivery write", "fanout"} <= found["timings"].keys()


async def test_a_watched_job_is_described():
    broker = published(5, size=50)
    async with running(broker, window_events=2) as hub:
        with (
            await hub.view(Caller(USER), JOB, Wish(from_="live")) as one,
            await hub.view(Caller(USER), JOB, Wish(from_=2)) as slow,
        ):
            take_seat(one)
            slow.seat(Slow(), Recording())
            (row,) = of_all(hub)["watched"]
            assert row == {
                "job_id": JOB,
                "status": "code",
                "user": USER,
                "viewers": 2,
                "paused": 1,
                "behind": 2,
                "position": cursor(broker, 4),
                "events": one.log.end,
                "window_events": 2,
                "window_bytes": one.log.size,
                "closed": False,
            }
            assert of_one(hub)["watched"] == [row]
            broker.publish()
            broker.deliver()
            await asyncio.sleep(0.1)
            (row,) = of_all(hub)["watched"]
            assert (row["events"], row["window_events"], row["behind"]) == (one.log.end, 2, 3)


async def test_a_job_without_viewers_is_behind_by_nothing():
    async with running(published(5)) as hub:
        (await hub.view(Caller(USER), JOB, Wish())).close()
        (row,) = of_all(hub)["watched"]
        assert (row["viewers"], row["paused"], row["behind"]) == (0, 0, 0)


async def test_the_jobs_with_the_most_viewers_come_first_and_then_by_name():
    async with running(TwoJobs()) as hub:
        with ExitStack() as stack:
            for job, number in ((OTHER, 1), (JOB, 1)):
                for _ in range(number):
                    take_seat(stack.enter_context(await hub.view(Caller(USER), job, Wish())))
            assert [row["job_id"] for row in of_all(hub)["watched"]] == [JOB, OTHER]
            take_seat(stack.enter_context(await hub.view(Caller(USER), OTHER, Wish())))
            assert [row["job_id"] for row in of_all(hub)["watched"]] == [OTHER, JOB]
            assert [row["job_id"] for row in of_all(hub, 1)["watched"]] == [OTHER]


async def test_a_job_that_is_not_watched_here_has_nothing_to_show():
    async with running() as hub:
        found = of_one(hub, JobId("unknown"))
        assert (found["watched"], found["watching"], found["gone"]) == ([], [], [])


async def test_a_viewer_is_described():
    broker = published(5)
    async with running(broker, stream_age=10**6) as hub:
        caller = Caller(USER)
        with await hub.view(caller, JOB, Wish(from_=2, types=frozenset({"b", "a"}))) as view:
            view.seat(Slow(), Recording())
            view.renew(caller, 1100.0)
            await asyncio.sleep(40)
            assert of_one(hub)["watching"] == [
                {
                    "user": USER,
                    "transport": "sse",
                    "position": cursor(broker, 2),
                    "behind": 2,
                    "unsent": 33,
                    "paused": True,
                    "types": ["a", "b"],
                    "seconds": 40.0,
                    "ends_in": 60,
                }
            ]


async def test_a_viewer_that_has_everything_and_no_end_is_described():
    async with running(published(5)) as hub:
        with await hub.view(Caller(USER), JOB, Wish()) as view:
            view.share(Wire(), Recording(), at=view.log.end)
            (row,) = of_one(hub)["watching"]
            assert (row["behind"], row["unsent"], row["paused"]) == (0, 0, False)
            assert (row["types"], row["seconds"], row["ends_in"]) == ([], 0, None)


async def test_who_is_furthest_behind_comes_first():
    async with running(published(5)) as hub:
        with ExitStack() as stack:
            for number in (1, 3, 2):
                view = stack.enter_context(await hub.view(Caller(USER), JOB, Wish(from_=number)))
                view.seat(Slow(), Recording())
            assert [row["behind"] for row in of_one(hub)["watching"]] == [3, 2, 1]
            assert [row["behind"] for row in of_one(hub, limit=2)["watching"]] == [3, 2]


async def test_of_one_job_only_its_viewers_with_a_seat_are_shown():
    async with running(TwoJobs()) as hub:
        with (
            await hub.view(Caller(USER), JOB, Wish()) as one,
            await hub.view(Caller(USER), JOB, Wish()),
            await hub.view(Caller(USER), OTHER, Wish()) as other,
        ):
            take_seat(one)
            take_seat(other)
            assert len(of_one(hub)["watching"]) == 1
            assert len(of_one(hub, OTHER)["watching"]) == 1


async def test_who_has_gone_is_remembered_with_the_reason_the_last_one_first(monkeypatch):
    monkeypatch.setattr(module.time, "time", lambda: 123.0)
    async with running(TwoJobs()) as hub:
        for job, reason in ((JOB, Reason.AGED), (OTHER, Reason.TOO_SLOW), (JOB, None)):
            with await hub.view(Caller(USER), job, Wish()) as view:
                take_seat(view)
                view.why = reason.words if reason else ""
        (await hub.view(Caller(USER), JOB, Wish())).close()  # never had a seat
        gone = [
            {"at": 123.0, "job": JOB, "user": USER, "why": "client left"},
            {"at": 123.0, "job": OTHER, "user": USER, "why": "too slow, resume"},
            {"at": 123.0, "job": JOB, "user": USER, "why": "stream is old, resume"},
        ]
        assert of_all(hub)["gone"] == gone
        assert of_one(hub)["gone"] == [gone[0], gone[2]]


async def test_an_answer_has_the_last_who_have_gone_and_few_are_remembered():
    async with running() as hub:
        with await hub.view(Caller(USER), JOB, Wish()) as view:
            for number in range(REMEMBERED + 1):
                view.user = UserId(f"user {number}")
                hub.inspector.note(view)
            view.user = USER
            gone = [one["user"] for one in of_all(hub)["gone"]]
            assert gone == [f"user {number}" for number in range(REMEMBERED, REMEMBERED - GONE, -1)]
            assert len(hub.inspector._gone) == REMEMBERED


async def test_the_last_warnings_of_the_process_are_shown():
    async with running() as hub:
        for number in range(GONE + 1):
            logging.getLogger("hub.test").warning("%d", number)
        said = [one["said"] for one in of_all(hub)["incidents"]]
        assert said == [str(number) for number in range(GONE, 0, -1)]
