"""The dashboard socket: commands and answers, order within each job, and bad clients."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.support import producers
from tests.support.keys import meta_of
from tests.support.viewer import dashboard, view

pytestmark = pytest.mark.asyncio(loop_scope="module")


def of(job, frames) -> list:
    """The frames about one job, without answers."""
    return [one for one in frames if one.fields.get("job_id") == job and "ref" not in one.fields]


async def subscribe(board, job, **more):
    """Subscribe to a job and return the answer."""
    await board.say("subscribe", job=job, ref=job, **more)
    return await board.answer(job)


async def collect(board, enough) -> list:
    """Receive frames until `enough(frames)` is true."""
    frames = []
    while not enough(frames):
        frames.append(await board.next())
    return frames


async def test_three_jobs_one_ends_one_is_foreign_one_resumes(live, redis):
    """Each job has its own position, and the end of one job does not end the socket."""
    ends, resumes, theirs = (
        await producers.job(live),
        await producers.job(live, events=6),
        await producers.job(live, user="bob"),
    )
    epoch = (await redis.hget(meta_of(resumes), "epoch")).decode()
    async with dashboard(live) as board:
        assert (await subscribe(board, ends)).name == "subscribed"
        refused = await subscribe(board, theirs)
        assert (refused.name, refused.fields["code"]) == ("error", "not_found")
        assert (await subscribe(board, resumes, after=f"{epoch}-2")).name == "subscribed"
        for n in range(10):
            await producers.publish(live, ends, 1, start=n)
            await producers.publish(live, resumes, 1, start=6 + n)
            await producers.publish(live, theirs, 1, start=n)
        await live.publisher.ready(ends)
        await producers.publish(live, resumes, 1, start=16)
        frames = await collect(board, lambda seen: len(of(ends, seen)) == 12 and len(of(resumes, seen)) == 14)
        assert producers.numbers(of(ends, frames)) == list(range(10))
        assert [one.name for one in of(ends, frames)][-2:] == ["build.stage.started", "end"]
        assert producers.numbers(of(resumes, frames)) == list(range(3, 17))
        assert producers.contiguous(of(ends, frames))
        assert producers.contiguous(of(resumes, frames))
        assert of(theirs, frames) == []
        await board.say("ping", ref="still here")
        assert (await board.answer("still here")).name == "pong"


async def test_a_foreign_and_an_unknown_job_are_refused_in_the_same_words(live):
    """A stranger cannot tell whether a job exists; a malformed id gets the same answer."""
    theirs = await producers.job(live, user="bob")
    async with dashboard(live) as board:
        answers = []
        for job in (theirs, "nothing", "a b", "x" * 200):
            await board.say("subscribe", job=job, ref=1)
            error = await board.answer(1)
            answers.append((error.name, error.fields["code"], error.fields["message"]))
        for op in ("state", "unsubscribe"):
            await board.say(op, job=theirs, ref=2)
            foreign = await board.answer(2)
            await board.say(op, job="nothing", ref=2)
            unknown = await board.answer(2)
            assert (foreign.name, foreign.fields["code"]) == (unknown.name, unknown.fields["code"])
            assert foreign.name == "error"
    assert len(set(answers)) == 1


async def test_job_id_is_in_every_frame_about_a_job(live, redis):
    """The hub's `job_id` replaces what the producer wrote."""
    job = await producers.foreign_job(redis)
    async with dashboard(live) as board:
        await subscribe(board, job)
        await producers.shout(
            redis, job, {"type": "a"}, {"type": "b", "job_id": "other"}, b"junk", {"type": "c", "job_id": 5}
        )
        await producers.shout(redis, job, {"type": "z", "status": "ready"})
        frames = await collect(board, lambda seen: seen and seen[-1].name == "end")
    assert [one.fields["job_id"] for one in frames] == [job] * 6
    assert [one.name for one in frames] == ["a", "b", "raw", "c", "z", "end"]


async def test_commands_are_answered_with_their_ref(live, job):
    """A ref may be a number or a string; without one the answer has none."""
    await producers.publish(live, job, 1)
    async with dashboard(live) as board:
        assert (await subscribe(board, job, **{"from": "live"})).fields["position"].endswith("-0")
        await board.say("state", job=job, ref="s")
        state = await board.answer("s")
        assert (state.name, state.fields["job_id"]) == ("state", job)
        await board.say("unsubscribe", job=job, ref=0)
        assert (await board.answer(0)).name == "unsubscribed"
        await board.say("ping")
        pong = await board.next()
        assert (pong.name, "ref" in pong.fields) == ("pong", False)


async def test_nothing_comes_after_unsubscribed(live, job):
    """The job can be subscribed again later, with the last cursor."""
    async with dashboard(live) as board:
        await subscribe(board, job)
        await producers.publish(live, job, 1)
        cursor = (await board.next()).id
        await board.say("unsubscribe", job=job, ref=1)
        await board.answer(1)
        await producers.publish(live, job, 2, start=1)
        await board.say("ping", ref=2)
        assert (await board.next()).name == "pong"
        assert (await subscribe(board, job, after=cursor)).name == "subscribed"
        assert producers.numbers(await board.take(2)) == [1, 2]


async def test_a_filter_is_the_jobs_own(live):
    """Two jobs on one socket can have different filters."""
    one, two = await producers.job(live), await producers.job(live)
    async with dashboard(live) as board:
        await subscribe(board, one, types=["odd"])
        await subscribe(board, two)
        for job in (one, two):
            await live.publisher.emit(job, "even")
            await live.publisher.emit(job, "odd")
            await live.publisher.ready(job)
        frames = await collect(board, lambda seen: [f.name for f in seen].count("end") == 2)
    assert [f.name for f in of(one, frames)] == ["odd", "build.stage.started", "end"]
    assert [f.name for f in of(two, frames)] == ["even", "odd", "build.stage.started", "end"]


async def test_a_job_that_has_ended_says_so_on_the_dashboard(live, redis):
    """An ended job gives its final status and the end; with its last cursor, the end alone."""
    job = await producers.foreign_job(redis, status="failed")
    async with dashboard(live) as board:
        await subscribe(board, job)
        final, end = await board.take(2)
        assert (final.id, final.fields["status"], end.name) == ("0-0", "failed", "end")
        await subscribe(board, job, after="0-0")
        assert (await board.next()).name == "end"


async def test_a_bad_cursor_on_the_dashboard_is_answered_by_a_resync(live, job):
    """As on every stream, `resync` and `state` come first, then live events."""
    async with dashboard(live) as board:
        await subscribe(board, job, after="$")
        assert [one.name for one in await board.take(2)] == ["resync", "state"]
        await producers.publish(live, job, 1)
        assert producers.numbers(await board.take(1)) == [0]


MALFORMED = [
    "",
    "junk",
    "[]",
    "1",
    "null",
    '"ping"',
    "{}",
    '{"op":"dance"}',
    '{"op":null}',
    '{"op":["ping"]}',
    '{"op":"subscribe"}',
    '{"op":"subscribe","job":5}',
    '{"op":"subscribe","job":""}',
    '{"op":"subscribe","job":"a","after":5}',
    '{"op":"subscribe","job":"a","types":"x"}',
    '{"op":"subscribe","job":"a","types":[1]}',
    '{"op":"subscribe","job":"a","from":-20}',
    '{"op":"state"}',
    '{"op":"unsubscribe","job":"never"}',
    '{"op":"ping","ref":{"a":1}}',
    '{"op":"ping","ref":NaN}',
    '{"op":"ping","ref":1e999}',
    '{"op":"ping","ref":"' + "x" * 200 + '"}',
    '{"op":"' + "[" * 5000 + '"}',
    "[" * 30_000,
    '{"op":"ping","ref":' + "9" * 5000 + "}",
    b"\x00\xff",
    b"",
]
"""Texts that are not commands."""


async def test_a_malformed_command_costs_one_error_frame(live):
    """The error has a code and says what was expected; the socket stays open and answers later commands."""
    wrong = {}
    async with dashboard(live) as board:
        for message in MALFORMED:
            await board.raw(message)
            await board.say("ping", ref="after")
            try:
                error, pong = await board.take(2)
            except ValueError as problem:  # the text was not JSON
                wrong[message] = problem
                pong = await board.next()
            else:
                if error.name != "error" or not (error.fields["code"] and error.fields["message"]):
                    wrong[message] = error
            assert (pong.name, pong.fields.get("ref")) == ("pong", "after")
    assert wrong == {}


async def test_the_ref_of_an_unknown_command_comes_back(live):
    """With the ref, a client can tell which of its commands was refused."""
    async with dashboard(live) as board:
        await board.say("dance", ref=7)
        error = await board.next()
        assert (error.name, error.fields["ref"]) == ("error", 7)
        assert "expected" in error.fields["message"]
        assert "got" in error.fields["message"]


async def test_a_flood_of_commands_closes_the_socket(live):
    """A flood closes with 1008; a burst of a hundred subscribes is no flood."""
    async with dashboard(live) as board:
        for n in range(100):
            await board.say("ping", ref=n)
        for n in range(100):
            await board.answer(n)
        try:
            for n in range(2000):
                await board.say("ping", ref=n)
        except Exception as error:
            assert type(error).__name__.startswith("ConnectionClosed")
        await asyncio.wait_for(board.all(), 10)
    assert board.code == 1008


@pytest.mark.parametrize("kind", ["text", "bytes"])
async def test_a_frame_over_64_kib_closes_the_socket(live, kind):
    """A larger frame closes both kinds of socket with 1009; one of exactly 64 KiB is only malformed."""
    job = await producers.job(live)
    for opened in (dashboard(live), view(live, "websocket", job)):
        async with opened as board:
            fits, large = "x" * (64 << 10), "x" * ((64 << 10) + 1)
            await board.raw(fits if kind == "text" else fits.encode())
            assert (await board.next()).name == "error"
            await board.raw(large if kind == "text" else large.encode())
            await board.all()
            assert board.code == 1009


async def test_the_cap_on_jobs_of_a_socket(start_hub):
    """One job too many gets an error; an unsubscribe makes room; the other jobs stay watched."""
    async with start_hub(max_jobs_per_socket=2) as live:
        jobs = [await producers.job(live) for _ in range(3)]
        async with dashboard(live) as board:
            for job in jobs[:2]:
                assert (await subscribe(board, job)).name == "subscribed"
            refused = await subscribe(board, jobs[2])
            assert (refused.name, refused.fields["code"]) == ("error", "too_many_jobs")
            await producers.publish(live, jobs[0], 1)
            assert (await board.next()).fields["job_id"] == jobs[0]
            await board.say("unsubscribe", job=jobs[0], ref="u")
            await board.answer("u")
            assert (await subscribe(board, jobs[2])).name == "subscribed"
        await live.until(lambda: live.hub.statistics().viewers == 0)


async def test_an_ended_job_takes_no_place(start_hub):
    """The end of a job makes room for another one."""
    async with start_hub(max_jobs_per_socket=1) as live:
        one, two = await producers.job(live), await producers.job(live)
        async with dashboard(live) as board:
            await subscribe(board, one)
            await live.publisher.ready(one)
            await board.until("end")
            assert (await subscribe(board, two)).name == "subscribed"


async def test_a_job_cannot_be_subscribed_twice(live, job):
    """A second subscribe gets an error, and events still come once."""
    async with dashboard(live) as board:
        await subscribe(board, job)
        assert (await subscribe(board, job)).name == "error"
        await live.publisher.ready(job)
        assert [one.name for one in await board.take(2)] == ["build.stage.started", "end"]
        await board.say("ping", ref=1)
        assert (await board.next()).name == "pong"


async def test_a_full_job_is_refused_with_an_error(start_hub):
    """The cap per user and job applies to dashboards too, and the socket stays open."""
    async with start_hub(max_viewers_per_user_and_job=1) as live:
        job = await producers.job(live)
        async with view(live, "sse", job), dashboard(live) as board:
            refused = await subscribe(board, job)
            assert (refused.name, refused.fields["code"]) == ("error", "overloaded")


async def test_a_dashboard_replays_what_memory_does_not_hold(start_hub):
    """Two jobs with 300 retained events and a window of 100 are complete and in order, also live."""
    async with start_hub(window_events=100) as live:
        jobs = [await producers.job(live) for _ in range(2)]
        for job in jobs:
            await producers.retain(live.client, job, 300)
        async with dashboard(live) as board:
            for job in jobs:
                await board.say("subscribe", job=job)
            for job in jobs:
                await producers.publish(live, job, 5, start=300)
            frames = await collect(board, lambda seen: all(len(of(job, seen)) >= 306 for job in jobs))
        for job in jobs:
            assert producers.numbers(of(job, frames)) == list(range(305))


async def test_commands_are_json_in_any_spelling(live, job):
    """White space, the order of members and additional fields do not matter."""
    async with dashboard(live) as board:
        await board.raw(json.dumps({"ref": 1, "x": {"y": 1}, "job": job, "op": "subscribe"}, indent=2))
        assert (await board.answer(1)).name == "subscribed"


async def test_a_dashboard_that_leaves_leaves_every_job(live):
    """No audience has a seat of the dashboard afterwards."""
    jobs = [await producers.job(live) for _ in range(5)]
    async with dashboard(live) as board:
        for job in jobs:
            await subscribe(board, job)
        assert live.hub.statistics().viewers == 5
    await live.until(lambda: live.hub.statistics().viewers == 0)


async def test_a_dashboard_whose_last_job_ends_in_the_drain_is_told_to_go_elsewhere(start_hub):
    """The drain ends sockets through their seats, so it cannot find one whose last job has ended."""
    async with start_hub() as live:
        job = await producers.job(live)
        async with dashboard(live) as board:
            await subscribe(board, job)
            live.hub._close_door()
            await live.publisher.ready(job)
            seen = await asyncio.wait_for(board.all(), 5)
        assert [one.name for one in seen] == ["build.stage.started", "end", "reconnect"]
        assert board.code == 1012
