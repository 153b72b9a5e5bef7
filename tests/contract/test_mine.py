"""A user's jobs: the list, and the dashboard on which they appear by themselves."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
import pytest_asyncio

from hub.broker.mine import key_of
from tests.support import producers
from tests.support.live import Live, token
from tests.support.viewer import dashboard

pytestmark = pytest.mark.asyncio(loop_scope="module")

_users = iter(range(10_000))


@pytest_asyncio.fixture(loop_scope="module")
async def user(live: Live) -> str:
    """A user that no other test has."""
    return f"user-{next(_users)}"


async def listed(live: Live, user: str, **query) -> dict:
    async with httpx.AsyncClient() as client:
        got = await client.get(
            f"{live.url}/api/jobs", params=query, headers={"Authorization": f"Bearer {token(user)}"}
        )
    assert got.status_code == 200, got.text
    assert got.headers["cache-control"] == "no-store"
    return got.json()


def ids(page: dict) -> list[str]:
    return [one["job_id"] for one in page["jobs"]]


async def test_the_jobs_of_a_user_the_newest_first(live, user):
    made = [await producers.job(live, user=user, events=n, title=f"T{n}") for n in range(3)]
    await producers.job(live, user="somebody else")
    page = await listed(live, user)
    assert ids(page) == made[::-1]
    first = page["jobs"][0]
    assert (first["status"], first["attempt"], first["job"]["title"]) == ("queued", 1, "T2")
    assert first["position"].endswith("-1")
    assert page["next"] is None
    began = [one["began"] for one in page["jobs"]]
    assert began == sorted(began, reverse=True)


async def test_pages_and_statuses(live, user):
    made = [await producers.job(live, user=user, events=1) for _ in range(7)]
    for job in made[::2]:
        await live.publisher.ready(job)
    seen, before = [], None
    while True:
        page = await listed(live, user, limit=3, **({"before": before} if before else {}))
        seen += ids(page)
        if (before := page["next"]) is None:
            break
        assert len(page["jobs"]) == 3
    assert seen == made[::-1]
    assert ids(await listed(live, user, status="ready")) == made[::2][::-1]
    two = await listed(live, user, status="ready", limit=2)
    assert (
        ids(two) + ids(await listed(live, user, status="ready", limit=2, before=two["next"]))
        == made[::2][::-1]
    )


async def test_a_rare_status_is_looked_for_page_by_page(live, user, monkeypatch):
    monkeypatch.setattr("hub.engine.mine.AT_MOST", 4)
    monkeypatch.setattr("hub.engine.mine.AT_ONCE", 2)
    made = [await producers.job(live, user=user, events=1) for _ in range(9)]
    await live.publisher.ready(made[0])
    pages, before = [], None
    while True:
        page = await listed(live, user, status="ready", **({"before": before} if before else {}))
        pages.append(ids(page))
        if (before := page["next"]) is None:
            break
    assert pages == [[], [], [made[0]]]


@pytest.mark.parametrize("before", ["", "nonsense", "~", "nan~x", "1e999~x", "1~", "\0"])
async def test_any_cursor_of_a_page_is_answered(live, user, before):
    await producers.job(live, user=user)
    page = await listed(live, user, before=before)
    assert isinstance(page["jobs"], list)


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 101}, {"limit": "x"}])
async def test_a_wrong_limit_is_said(live, user, query):
    async with httpx.AsyncClient() as client:
        got = await client.get(
            f"{live.url}/api/jobs", params=query, headers={"Authorization": f"Bearer {token(user)}"}
        )
    assert got.status_code == 422


async def test_a_job_that_is_not_theirs_any_more_is_not_shown(live, user):
    gone, given, kept = [await producers.job(live, user=user) for _ in range(3)]
    await live.client.delete(f"job:{gone}")
    await live.client.hset(f"job:{given}", "user_id", "bob")
    assert ids(await listed(live, user)) == [kept]
    assert await live.client.zcard(key_of(user)) == 1, "the index is mended"


async def test_a_hand_made_job_is_listed_once_its_owner_has_watched_it(live, user):
    job = await producers.foreign_job(live.client, user=user)
    assert ids(await listed(live, user)) == []
    async with live.sse(job, user=user):
        async with asyncio.timeout(10):
            while ids(await listed(live, user)) != [job]:
                await asyncio.sleep(0.05)


async def test_strangers_and_tickets_list_nothing(live, user):
    job = await producers.job(live, user=user)
    async with httpx.AsyncClient(base_url=live.url) as client:
        assert (await client.get("/api/jobs")).status_code == 404
        signed = {"Authorization": f"Bearer {token(user)}"}
        made = await client.post(f"/api/jobs/{job}/tickets", json={}, headers=signed)
        assert (await client.get(f"/api/jobs?ticket={made.json()['ticket']}")).status_code == 404


async def test_the_list_can_be_off(start_hub, user):
    async with start_hub(my_jobs=False) as live:
        await producers.job(live, user=user)
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token(user)}"}) as client:
            assert (await client.get(f"{live.url}/api/jobs")).status_code == 404
        async with dashboard(live, user=user) as board:
            await board.say("subscribe", mine=True, ref=1)
            assert (await board.answer(1)).fields["code"] == "unsupported"


async def appears(socket, job: str) -> dict:
    """The answer with which a job appears."""
    async with asyncio.timeout(10):
        while (frame := json.loads(await socket.recv())).get("job_id") != job or frame[
            "type"
        ] != "subscribed":
            pass
        return frame


async def test_jobs_appear_on_a_dashboard_by_themselves(live, user):
    running, over = await producers.job(live, user=user, events=1), await producers.job(live, user=user)
    await live.publisher.ready(over)
    async with live.dashboard(user=user) as socket:
        await socket.send(json.dumps({"op": "subscribe", "mine": True, "ref": 1}))
        await appears(socket, running)
        later = await producers.job(live, user=user)
        await appears(socket, later)
        await producers.job(live, user="somebody else")
        await live.publisher.emit(later, "step")
        await live.publisher.ready(later)
        seen = []
        async with asyncio.timeout(10):
            while not seen or seen[-1]["type"] != "end":
                seen.append(json.loads(await socket.recv()))
        assert {frame["job_id"] for frame in seen if "job_id" in frame} <= {running, later}
        assert [frame["type"] for frame in seen if frame.get("job_id") == later] == [
            "step",
            "build.stage.started",
            "end",
        ]
        assert not any(frame["type"] == "error" for frame in seen)


async def test_it_can_be_stopped_and_explicit_subscriptions_stay(live, user):
    first = await producers.job(live, user=user)
    async with live.dashboard(user=user) as socket:
        await socket.send(json.dumps({"op": "subscribe", "job": first, "ref": 1}))
        await appears(socket, first)
        await socket.send(json.dumps({"op": "subscribe", "mine": True, "ref": 2}))
        await socket.send(json.dumps({"op": "unsubscribe", "mine": True, "ref": 3}))
        kinds = []
        async with asyncio.timeout(10):
            while len(kinds) < 2:
                frame = json.loads(await socket.recv())
                kinds += [(frame["type"], frame["mine"])] * ("mine" in frame)
        assert kinds == [("subscribed", True), ("unsubscribed", True)]
        await producers.job(live, user=user)
        await live.publisher.emit(first, "step")
        async with asyncio.timeout(10):
            while (frame := json.loads(await socket.recv()))["type"] != "step":
                assert frame["type"] == "heartbeat", frame


async def test_a_socket_that_is_full_says_so(start_hub, user):
    async with start_hub(max_jobs_per_socket=2) as live:
        made = [await producers.job(live, user=user) for _ in range(3)]
        async with live.dashboard(user=user) as socket:
            await socket.send(json.dumps({"op": "subscribe", "mine": True}))
            seen = []
            async with asyncio.timeout(10):
                while len(seen) < 3:
                    frame = json.loads(await socket.recv())
                    if "job_id" in frame:
                        seen.append((frame["job_id"], frame.get("code", frame["type"])))
        assert seen == [(made[2], "subscribed"), (made[1], "subscribed"), (made[0], "too_many_jobs")]


@pytest.mark.parametrize("mine", [1, "yes", None, [], {}])
async def test_mine_is_true_or_false(live, user, mine):
    async with dashboard(live, user=user) as board:
        await board.say("subscribe", mine=mine, ref=1)
        assert (await board.answer(1)).fields["code"] == "malformed"
