"""Tickets: what they open, how often, and for whom."""

from __future__ import annotations

import asyncio
import json
import time

import httpx
import pytest
import pytest_asyncio

from hub import User, may_watch, require_auth
from tests.support import producers
from tests.support.live import live_hub, token
from tests.support.viewer import with_headers

STREAMS = ("events/stream", "stream", "events/ws", "events", "")


@pytest_asyncio.fixture(params=["fast", "portable"])
async def live(real_redis, request):
    async with live_hub(real_redis, wire=request.param, jwt_leeway=0, shared_by="org_id") as hub:
        yield hub


async def post(live, job: str, body=None, *, user: str = "ada", headers=None, **claims) -> httpx.Response:
    headers = headers or {"Authorization": f"Bearer {token(user, **claims)}"}
    async with httpx.AsyncClient(headers=headers) as client:
        return await client.post(f"{live.url}/api/jobs/{job}/tickets", json=body or {})


async def ticket_of(live, job: str, body=None, **more) -> str:
    answer = await post(live, job, body, **more)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()["ticket"]


def path_of(job: str, stream: str, ticket: str) -> str:
    return f"/api/jobs/{job}/{stream}".rstrip("/") + f"?ticket={ticket}"


async def status_of(live, job: str, stream: str, ticket: str, headers=None) -> int:
    if stream in ("events", ""):
        async with httpx.AsyncClient(headers=headers) as client:
            return (await client.get(live.url + path_of(job, stream, ticket))).status_code
    async with with_headers(live, path_of(job, stream, ticket), headers or {}) as viewer:
        return viewer.status


@pytest.mark.parametrize("stream", STREAMS)
async def test_a_ticket_opens_every_endpoint_of_its_job_once(live, stream):
    """Without a header or a cookie. The second time it is unknown, whatever else the request brings."""
    job = await producers.job(live, events=1)
    ticket = await ticket_of(live, job)
    assert await status_of(live, job, stream, ticket) == (101 if stream == "events/ws" else 200)
    assert await status_of(live, job, stream, ticket) == 404
    own = {"Authorization": f"Bearer {token()}"}
    assert await status_of(live, job, stream, ticket, own) == 404
    assert live.context.statistics().auth_refused_ticket == 2


async def test_its_stream_is_its_users(live):
    """With the past, as for the user."""
    job = await producers.job(live, events=3)
    async with with_headers(live, path_of(job, "events/stream", await ticket_of(live, job)), {}) as viewer:
        assert producers.numbers(await viewer.take(3)) == [0, 1, 2]


async def test_a_ticket_of_a_dashboard_subscribes_its_job_alone(live):
    job, other = await producers.job(live, events=1), await producers.job(live, events=1)
    ticket = await ticket_of(live, job)
    async with with_headers(live, f"/api/events/ws?ticket={ticket}", {}) as board:
        await board.say("subscribe", job=other, ref=1)
        assert (await board.answer(1)).fields["code"] == "not_found"
        await board.say("subscribe", job=job)
        await board.until("step")
    async with with_headers(live, f"/api/events/ws?ticket={ticket}", {}) as board:
        assert board.status == 404


async def test_another_jobs_ticket_opens_nothing_and_is_not_used(live):
    job, other = await producers.job(live, events=1), await producers.job(live, events=1)
    ticket = await ticket_of(live, job)
    for stream in STREAMS:
        assert await status_of(live, other, stream, ticket) == 404
    assert await status_of(live, job, "events/stream", ticket) == 200


async def test_only_who_may_watch_makes_one(live):
    """The same 404 for a stranger, another user, an unknown job and a ticket."""
    job = await producers.job(live, events=1)
    ticket = await ticket_of(live, job)
    answers = [
        await post(live, job, user="eve"),
        await post(live, "nowhere"),
        await post(live, job, headers={"X": "y"}),
        await post(live, f"{job}/tickets?ticket={ticket}", headers={"X": "y"}),
    ]
    assert {answer.status_code for answer in answers} == {404}
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"{live.url}/api/jobs/{job}/tickets?ticket={ticket}", json={})
    assert (answer.status_code, answer.json()) == (404, {"detail": "Job not found"})


@pytest.mark.parametrize(
    "body",
    [
        {"ttl": 0},
        {"ttl": -1},
        {"ttl": 301},
        {"ttl": "x"},
        {"uses": 0},
        {"uses": 101},
        {"uses": None},
        {"uses": 1.5},
        {"more": 1},
    ],
)
async def test_what_a_ticket_cannot_be_is_refused(live, body):
    assert (await post(live, await producers.job(live), body)).status_code == 422


async def test_a_late_ticket_is_unknown(live):
    job = await producers.job(live, events=1)
    ticket = await ticket_of(live, job, {"ttl": 0.2})
    await asyncio.sleep(0.3)
    assert await status_of(live, job, "events/stream", ticket) == 404


@pytest.mark.parametrize(
    "ticket", ["", "x", "pht_", "pht_" + "a" * 22, "pht_" + "a" * 5000, "pht_%00" + "a" * 21, "a&ticket=b"]
)
async def test_what_is_no_ticket_is_refused(live, ticket):
    job = await producers.job(live, events=1)
    for stream in STREAMS:
        assert await status_of(live, job, stream, ticket) == 404


async def test_a_ticket_may_be_used_several_times(live):
    """Two clients do not share the last use."""
    job = await producers.job(live, events=1)
    ticket = await ticket_of(live, job, {"uses": 3})
    statuses = await asyncio.gather(*(status_of(live, job, "events/stream", ticket) for _ in range(8)))
    assert sorted(statuses) == [200] * 3 + [404] * 5


async def test_its_stream_ends_with_the_credentials_of_its_user(real_redis):
    async with live_hub(real_redis, jwt_leeway=0, stream_age=10) as live:
        job = await producers.job(live, events=1)
        ticket = await ticket_of(live, job, exp=time.time() + 2)
        async with with_headers(live, path_of(job, "events/ws", ticket), {}) as viewer:
            await viewer.all()
            assert viewer.code == 4401


async def test_a_share_link_outlives_them(real_redis):
    """Where the operator allows it: any number of viewers until it is over, and not a second more."""
    async with live_hub(real_redis, jwt_leeway=0, stream_age=10, ticket_max_ttl=3600) as live:
        job = await producers.job(live, events=1)
        link = await ticket_of(live, job, {"ttl": 4, "uses": None}, exp=time.time() + 2)
        assert (await post(live, job, {"ttl": 3601})).status_code == 422
        await asyncio.sleep(2.1)
        for _ in range(3):
            assert await status_of(live, job, "events/stream", link) == 200
        async with with_headers(live, path_of(job, "events/ws", link), {}) as viewer:
            await viewer.all()
            assert viewer.code == 4401
        assert await status_of(live, job, "events/stream", link) == 404


async def test_a_revoked_ticket_opens_nothing(live):
    job = await producers.job(live, events=1)
    ticket = await ticket_of(live, job, {"uses": 2}, iat=time.time() - 1)
    await live.context.revoke("ada")
    assert await status_of(live, job, "events/stream", ticket) == 404


async def test_a_ticket_of_a_guest_opens_what_the_guest_may_watch(live):
    """By a shared field, or by the application's word; a job that is not shared any more is closed to it."""
    job = await producers.job(live, events=1)
    await live.client.hset(f"job:{job}", "org_id", "acme")
    ticket = await ticket_of(live, job, {"uses": 5}, user="bob", org_id="acme")
    assert await status_of(live, job, "events/stream", ticket) == 200
    await live.client.hdel(f"job:{job}", "org_id")
    assert await status_of(live, job, "events/stream", ticket) == 404
    live.app.dependency_overrides[may_watch] = lambda user, _: user.user_id == "bob"
    assert await status_of(live, job, "events/stream", ticket) == 200


async def test_an_application_with_its_own_authentication_has_tickets(live):
    """Its `require_auth` is not asked about a request that has one."""
    live.app.dependency_overrides[require_auth] = lambda: User("ada")
    job = await producers.job(live, events=1)
    ticket = await ticket_of(live, job, headers={"X": "y"})

    def refuse():
        raise AssertionError("asked")

    live.app.dependency_overrides[require_auth] = refuse
    assert await status_of(live, job, "events/stream", ticket) == 200


async def test_redis_has_no_ticket_that_works(live):
    """Only hashes, which go with the ticket's time."""
    job = await producers.job(live, events=1)
    ticket = await ticket_of(live, job, {"uses": 2})
    keys = [key async for key in live.client.scan_iter("push-hub:ticket:*")]
    for key in keys:
        kept = await live.client.hgetall(key)
        assert ticket[4:] not in key.decode() + json.dumps(
            {name.decode(): value.decode() for name, value in kept.items()}
        )
        assert 0 < await live.client.pttl(key) <= 300_000
