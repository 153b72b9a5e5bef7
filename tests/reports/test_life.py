"""A job's life: who may watch is asked at every join; attempts; deletion; jobs that are not there yet."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack

import pytest

from hub import Publisher
from hub.broker.script import Publication
from hub.engine.caller import Caller
from tests.support import producers
from tests.support.keys import log_of, meta_of
from tests.support.live import token
from tests.support.viewer import view


async def remade(live, redis, job):
    await redis.delete(f"job:{job}")
    await live.jobs.create_job(job, user_id="bob")


async def rewritten(live, redis, job):
    await redis.delete(f"job:{job}")
    await redis.hset(f"job:{job}", mapping={"user_id": "bob", "status": "code"})


async def changed(live, redis, job):
    await redis.hset(f"job:{job}", "user_id", "bob")


async def removed(live, redis, job):
    await redis.hdel(f"job:{job}", "user_id")


CHANGES = [remade, rewritten, changed, removed]


async def get(live, path: str, user: str):
    import httpx

    async with httpx.AsyncClient() as client:
        return await client.get(
            f"{live.url}{path}", headers={"Authorization": f"Bearer {token(user)}"}, timeout=10
        )


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("watched", [True, False], ids=["watched", "lingering"])
async def test_who_may_watch_is_asked_at_every_join(start_hub, real_redis, job, transport, change, watched):
    """The old owner gets 404 at once and sees nothing of the new one's; the new one sees nothing of the old one's."""
    async with start_hub(position_check=1000, linger=1000) as live:
        await live.jobs.create_job(job, user_id="ada", title="T")
        await live.publisher.emit(job, "private", {"n": 0})
        async with AsyncExitStack() as stack:
            old = await stack.enter_async_context(view(live, transport, job))
            await old.take(1)
            if not watched:
                await stack.aclose()
                await live.until(lambda: live.hub.statistics().viewers == 0)
            await change(live, real_redis, job)
            async with view(live, transport, job, user="ada") as again:
                assert again.status == 404
            for path in ("", "/events"):
                assert (await get(live, f"/api/jobs/{job}{path}", "ada")).status_code == 404
            if change is not removed:
                async with view(live, transport, job, "?from=start", user="bob") as new:
                    await live.publisher.emit(job, "theirs", {"n": 1})
                    seen = await new.until("theirs")
                    assert "private" not in [one.name for one in seen]
                text = (await get(live, f"/api/jobs/{job}", "bob")).text
                assert "private" not in text
                assert "theirs" in text
            if watched:
                assert [one.name for one in await old.all()] == []
                assert old.closed in ("cut", "4404", "ended")


async def test_a_dashboard_loses_a_job_that_changed_hands(start_hub, real_redis, job):
    """And keeps the others."""
    async with start_hub(position_check=0.2) as live, live.dashboard() as board:
        assert json.loads(await board.recv())["type"] == "hello"
        for made in (job, f"{job}-2"):
            await live.jobs.create_job(made, user_id="ada")
            await board.send(json.dumps({"op": "subscribe", "job": made}))
            assert json.loads(await board.recv())["type"] == "subscribed"
        await changed(live, real_redis, job)
        answer = json.loads(await asyncio.wait_for(board.recv(), 10))
        assert (answer["type"], answer["code"], answer["job_id"]) == ("error", "not_found", job)
        await live.publisher.emit(job, "theirs")
        await live.publisher.emit(f"{job}-2", "step")
        assert json.loads(await asyncio.wait_for(board.recv(), 10))["type"] == "step"


async def test_a_storm_of_joins_costs_a_few_reads(start_hub, real_redis, job):
    """One read is shared by those who ask at the same time, and in a storm by those of the same second."""
    async with start_hub() as live:
        await live.jobs.create_job(job, user_id="ada")
        reads = []
        jobs = live.hub.broker.jobs

        async def counted(asked):
            reads.append(asked)
            return await jobs(asked)

        live.hub.broker.jobs = counted
        began = time.monotonic()
        for _ in range(60):
            views = await asyncio.gather(*(live.hub._reads.read_of(Caller("ada"), job) for _ in range(20)))
            assert {one.user_id for one in views} == {"ada"}
        seconds = int(time.monotonic() - began) + 2
        assert len(reads) <= 21 * seconds


# --- attempts


async def test_a_terminal_ends_an_attempt_and_the_application_begins_the_next(
    start_hub, real_redis, job, transport
):
    """It sets the status back and goes on; whoever comes back with an old cursor is told, and gets the new attempt whole."""
    async with start_hub(position_check=0.2) as live:
        await live.jobs.create_job(job, user_id="ada")
        await live.publisher.emit(job, "step", {"n": 0})
        async with view(live, transport, job) as first:
            await live.publisher.failed(job)
            await first.all()
        cursor = first.cursor
        async with view(live, transport, job, cursor=cursor) as over:
            assert (
                over.status == 204
                or over.closed == "ended"
                or [one.name for one in await over.all()] == ["end"]
            )
        await real_redis.hset(f"job:{job}", "status", "running")
        async with view(live, transport, job) as waiting:
            assert (await get(live, f"/api/jobs/{job}", "ada")).json()["status"] == "running"
            await live.publisher.emit(job, "step", {"n": 1})
            seen = await waiting.until("step")
            assert [one.name for one in seen][-3:] == ["resync", "state", "step"] or len(seen) == 1
            async with view(live, transport, job, cursor=cursor) as back:
                seen = await back.until("step")
                assert [one.name for one in seen] == ["resync", "state", "step"] or seen[0].name == "resync"
            async with view(live, transport, job, "?from=start") as late:
                assert producers.numbers(await late.until("step")) == [1]
                await live.publisher.ready(job)
                assert [one.name for one in await late.all()] == ["build.stage.started", "end"]
        state = (await get(live, f"/api/jobs/{job}", "ada")).json()
        assert (state["status"], state["attempt"]) == ("ready", 2)


async def test_a_publisher_restarts_a_job(start_hub, real_redis, job, transport):
    """The attempt has a number, the log begins anew, a lease of before is over."""
    async with start_hub() as live:
        await live.jobs.create_job(job, user_id="ada")
        await live.publisher.failed(job)
        assert await live.publisher.restart(job) == 2
        assert await live.publisher.restart(job, status="again") == 3
        assert await real_redis.hget(f"job:{job}", "status") == b"again"
        async with view(live, transport, job) as viewer:
            assert (await live.publisher.emit(job, "step", {"n": 0})).seq == 0
            assert producers.numbers(await viewer.take(1)) == [0]


async def test_an_end_that_the_hub_does_not_know_is_an_end(start_hub, real_redis, job, transport):
    """The publisher's terminal statuses are in our hash, so a viewer does not wait for ever for another."""
    publisher = Publisher(real_redis, strict=True, publication=Publication(terminal=frozenset({"done"})))
    async with start_hub(position_check=0.2) as live:
        await live.jobs.create_job(job, user_id="ada")
        async with view(live, transport, job) as viewer:
            await publisher.emit(job, "step", {"status": "done"})
            seen = await viewer.all()
            assert seen[-1].fields == {"status": "done"}
        async with view(live, transport, job) as late:
            assert (await late.all())[-1].fields == {"status": "done"}


# --- deleted, and not yet there


@pytest.mark.parametrize("bare", [True, False], ids=["bare", "ours"])
async def test_viewers_of_a_deleted_job_are_told(start_hub, real_redis, job, transport, bare):
    """Within a check; new ones get 404 at once."""
    async with start_hub(position_check=0.2) as live:
        if bare:
            await real_redis.hset(f"job:{job}", mapping={"user_id": "ada", "status": "code"})
        else:
            await live.jobs.create_job(job, user_id="ada")
            await live.publisher.emit(job, "step")
        async with view(live, transport, job, "?from=live") as viewer:
            await real_redis.delete(f"job:{job}")
            (end,) = await viewer.all()
            assert (end.name, end.fields) == ("end", {"status": None, "reason": "deleted"})
            assert viewer.closed in ("ended", "4404")
        async with view(live, transport, job) as late:
            assert late.status == 404


async def test_a_viewer_may_come_before_its_job(start_hub, real_redis, job, transport):
    """An EventSource never returns from a 404."""
    async with start_hub() as live:

        async def made():
            await asyncio.sleep(0)
            await live.until(lambda: live.hub._reads._recent.get(job) is not None)
            await live.jobs.create_job(job, user_id="ada")
            await live.publisher.emit(job, "step", {"n": 0})

        making = asyncio.create_task(made())
        async with view(live, transport, job, "?wait=10&from=start") as viewer:
            assert producers.numbers(await viewer.take(1)) == [0]
        await making


@pytest.mark.parametrize("foreign", [True, False], ids=["foreign", "unknown"])
async def test_a_wait_for_nothing_is_404_and_tells_nothing(start_hub, job, transport, foreign):
    """Another's job is waited for as long as none."""
    async with start_hub() as live:
        if foreign:
            await live.jobs.create_job(job, user_id="bob")
        began = asyncio.get_running_loop().time()
        async with view(live, transport, job, "?wait=0.7") as viewer:
            assert viewer.status == 404
        assert asyncio.get_running_loop().time() - began >= 0.7


@pytest.mark.parametrize("wait", ["-1", "x", "", "1e9", "nan", "٣"])
async def test_a_wait_that_is_no_number_is_none(start_hub, job, wait):
    """A stranger's text is never an error."""
    from urllib.parse import quote

    async with start_hub() as live:
        assert (
            await get(live, f"/api/jobs/{job}/events/stream?wait={quote(wait)}", "ada")
        ).status_code == 404


async def test_the_waits_of_a_user_are_bounded(start_hub, job):
    """Each asks Redis twice a second."""
    async with start_hub() as live:
        waiting = [asyncio.create_task(live.hub.view(Caller("ada"), job, None, wait=30)) for _ in range(20)]
        await live.until(lambda: live.hub.admission._waits["ada"] == 20)
        answer = await get(live, f"/api/jobs/{job}/events/stream?wait=30", "ada")
        assert answer.status_code == 503
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert not live.hub.admission._waits


# --- events before, and after


async def test_events_from_before_the_job_are_kept(start_hub, real_redis, job, transport):
    """A worker was faster than the request that makes the job."""
    async with start_hub() as live:
        for n in range(2):
            await live.publisher.emit(job, "step", {"n": n})
        await live.jobs.create_job(job, user_id="ada")
        await live.publisher.emit(job, "step", {"n": 2})
        async with view(live, transport, job, "?from=start") as viewer:
            assert producers.numbers(await viewer.take(3)) == [0, 1, 2]


async def test_a_page_that_has_everything_is_told_so_after_the_log_has_expired(start_hub, real_redis, job):
    """204, and an EventSource stops; our hash outlives the log by a month."""
    async with start_hub(linger=0) as live:
        await live.jobs.create_job(job, user_id="ada")
        last = await live.publisher.ready(job)
        await real_redis.delete(log_of(job))
        assert await real_redis.ttl(meta_of(job)) > 30 * 24 * 3600
        async with view(live, "sse", job, cursor=str(last)) as viewer:
            assert viewer.status == 204


async def test_an_event_over_the_limit_that_ends_a_job_ends_it(start_hub, real_redis, job, transport):
    """A gap stands for it, then comes the end, and nobody waits for a check."""
    large = Publisher(real_redis, strict=True, publication=Publication(limit=10_000))
    async with start_hub(max_event_bytes=1000, position_check=1000) as live:
        await live.jobs.create_job(job, user_id="ada")
        async with view(live, transport, job) as viewer:
            await large.emit(job, "step", {"status": "ready", "fill": "x" * 5000})
            seen = await viewer.all()
        assert [one.name for one in seen][:2] == ["gap", "state"]
        assert seen[-1].fields == {"status": "ready"}


# --- two databases, and messages that imitate


async def test_another_databases_job_of_this_name_is_another_job(
    redis_server, start_hub, real_redis, job, transport
):
    """Channels are shared by all databases of a Redis, keys are not."""
    from redis.asyncio import Redis

    url = redis_server.url.removesuffix("/0") + "/1"
    async with start_hub() as live, Redis.from_url(url) as staging:
        await live.jobs.create_job(job, user_id="ada")
        await staging.hset(f"job:{job}", mapping={"user_id": "bob", "status": "code"})
        theirs = Publisher(staging, strict=True)
        async with view(live, transport, job) as viewer:
            await theirs.emit(job, "staging", {"n": 0})
            await theirs.ready(job)
            await live.publisher.emit(job, "step", {"n": 1})
            seen = await viewer.take(1)
            assert [one.name for one in seen] == ["step"]
            await live.publisher.ready(job)
            assert [one.name for one in await viewer.all()] == ["build.stage.started", "end"]
        assert live.hub.statistics().strangers == 2
        await staging.flushdb()


async def test_a_message_that_imitates_the_next_id_displaces_nothing_without_a_word(
    start_hub, real_redis, job, transport
):
    """What came with an id is held against the log, all of it and not the newest event only."""
    async with start_hub(position_check=0.2) as live:
        await live.jobs.create_job(job, user_id="ada")
        first = await live.publisher.emit(job, "step", {"n": 0})
        async with view(live, transport, job, "?from=start") as viewer:
            await viewer.take(1)
            await producers.shout(real_redis, job, f'{{"id":"{first.next}","type":"false"}}')
            await live.publisher.emit(job, "step", {"n": 1})
            await live.publisher.emit(job, "step", {"n": 2})
            seen = await viewer.until("state")
            assert [one.name for one in seen] == ["false", "step", "resync", "state"]
            assert seen[2].fields == {"reason": "rolled back"}
            assert seen[3].fields["last"]["step"]["n"] == 2


async def test_a_checksum_that_agrees_is_no_news(start_hub, real_redis, job, transport):
    """A healthy job is never resynchronised: after joins, gaps, oversize events, batches and restarts."""
    large = Publisher(real_redis, strict=True, publication=Publication(limit=10_000))
    async with start_hub(max_event_bytes=1000, position_check=0.1, window_events=5) as live:
        await live.jobs.create_job(job, user_id="ada")
        async with view(live, transport, job) as viewer:
            for n in range(4):
                await live.publisher.emit(job, "step", {"n": n})
                await large.emit(job, "large", {"fill": "x" * 2000})
                *_, last = await live.publisher.emit_many(job, [("step", {"n": n}), ("step", {"n": n})])
                # A check that comes before the messages is right to find them.
                await live.until(lambda last=last: live.hub.feeds.watched[job]._window.last == last)
                checks = live.hub.statistics().checks_found
                await asyncio.sleep(0.25)  # two position checks
                assert live.hub.statistics().checks_found == checks
            await live.publisher.ready(job)
            assert "resync" not in [one.name for one in await viewer.all()]


async def test_a_job_without_an_owner_is_said_once(real_redis, job, caplog):
    """Nobody can watch it, and nothing else would say so."""
    publisher = Publisher(real_redis, strict=True)
    for _ in range(3):
        await publisher.emit(job, "step")
    assert [one.message for one in caplog.records if "no owner" in one.getMessage()].__len__() == 1


@pytest.mark.parametrize("theirs", [{"done"}, {"ready", "failed", "cancelled"}, {"failed"}])
async def test_terminal_statuses_that_differ_are_said(
    start_hub, real_redis, job, capsys, monkeypatch, theirs
):
    """In the hub's log and in the publisher's, with both sets, once."""
    monkeypatch.setattr("hub.quiet.INTERVAL", 0.0)
    publisher = Publisher(real_redis, strict=True, publication=Publication(terminal=frozenset(theirs)))
    async with start_hub() as live:
        await live.jobs.create_job(job, user_id="ada")
        await publisher.emit(job, "step")
        async with view(live, "sse", job, "?from=start") as viewer:
            await viewer.take(1)
            await publisher.emit(job, "step")
            await publisher.emit(job, "step")
    said = capsys.readouterr().err
    stated = ",".join(sorted(theirs | {"failed"}))
    assert f"its publisher ends jobs with {stated}, this hub with failed,ready" in said
    assert said.count(f"a hub ends jobs with failed,ready, this publisher with {stated}") == 1


async def test_terminal_statuses_that_agree_are_not_mentioned(start_hub, real_redis, job, capsys):
    """Nor written into Redis a second time."""
    async with start_hub() as live:
        await live.jobs.create_job(job, user_id="ada")
        await Publisher(real_redis, strict=True).emit(job, "step")
        async with view(live, "sse", job, "?from=start") as viewer:
            await viewer.take(1)
    assert "ends jobs with" not in capsys.readouterr().err
    assert not await real_redis.hexists(f"push-hub:{{job:{job}}}:meta", "hub_terminal")
