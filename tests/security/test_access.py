"""Who may watch beyond the owner, and for how long; what a user was given can be taken back."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from types import SimpleNamespace

import httpx
import pytest
import pytest_asyncio

from hub import may_watch
from hub.engine import guests
from hub.engine.caller import Caller
from hub.errors import InvalidSettings
from hub.fanout.wire import Reason
from hub.job.cursor import Wish
from hub.job.revocation import Revocation
from hub.transports.sse import ASGI_SSE
from tests.support import producers
from tests.support.live import live_hub, token
from tests.support.viewer import dashboard, view, with_headers

WIRES = ("door", "fast", "portable")


@asynccontextmanager
async def hub_on(real_redis, wire, **values):
    async with live_hub(real_redis, wire=wire, jwt_leeway=0, **values) as live:
        yield live


@pytest_asyncio.fixture(params=WIRES)
async def live(real_redis, request):
    async with hub_on(real_redis, request.param, shared_by="org_id") as hub:
        yield hub


# --- authenticate


@pytest_asyncio.fixture(params=WIRES)
async def brief(real_redis, request, monkeypatch):
    """A hub that looks at its streams every tenth of a second, and whose tokens live for a second and a half."""
    monkeypatch.setattr("tests.support.live.token", lambda user: token(user, exp=time.time() + 1.5))
    async with hub_on(real_redis, request.param, stream_age=10) as hub:
        yield hub


@pytest.mark.parametrize("board", [False, True], ids=["one job", "dashboard"])
async def test_a_socket_renews_its_credentials(brief, board):
    """It outlives its first token, until the second one expires."""
    job = await producers.job(brief, events=1)
    expires = time.time() + 3
    async with dashboard(brief) if board else view(brief, "websocket", job) as socket:
        await socket.say("authenticate", token=token(exp=expires), ref=7)
        answer = await socket.until("authenticated")
        assert answer[-1].fields == {"expires": pytest.approx(expires), "ref": 7}
        await socket.all()
        assert socket.code == 4401
    assert time.time() >= expires - 0.1


@pytest.mark.parametrize("board", [False, True], ids=["one job", "dashboard"])
@pytest.mark.parametrize(
    "bad",
    [lambda: "nonsense", lambda: token("eve"), lambda: token(exp=time.time() - 60)],
    ids=["no token", "another's", "expired"],
)
async def test_a_bad_token_ends_the_socket(live, board, bad):
    """Another user's valid token, too: a socket stays its user's."""
    job = await producers.job(live, events=1)
    async with dashboard(live) if board else view(live, "websocket", job) as socket:
        await socket.say("authenticate", token=bad())
        await socket.all()
        assert socket.code == 4401


async def test_a_token_that_is_missing_is_an_error(live):
    """And nothing else."""
    job = await producers.job(live, events=1)
    async with view(live, "websocket", job) as socket:
        await socket.say("authenticate", ref=1)
        await socket.say("authenticate", token=5, ref=2)
        seen = await socket.until("error")
        assert seen[-1].fields["code"] == "malformed"
        await socket.say("ping")
        await socket.until("pong")


# --- beyond the owner


def path_of(transport: str, job: str) -> str:
    return f"/api/jobs/{job}/events/{'stream' if transport == 'sse' else 'ws'}"


def guest(live, transport: str, job: str, user: str = "bob", **claims):
    """A viewer whose token has these claims."""
    return with_headers(live, path_of(transport, job), {"Authorization": f"Bearer {token(user, **claims)}"})


TRANSPORTS = ("sse", "websocket")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_job_is_shared_by_a_claim_that_equals_a_field(live, transport):
    """A number, too. The field is not shown."""
    job = await producers.job(live, events=2)
    await live.client.hset(f"job:{job}", "org_id", "no-17")
    async with guest(live, transport, job, org_id="no-17") as viewer:
        assert [seen.name for seen in await viewer.take(2)] == ["step", "step"]
    await live.client.hset(f"job:{job}", "org_id", "1795")
    async with guest(live, transport, job, org_id=1795) as viewer:
        assert [seen.name for seen in await viewer.take(2)] == ["step", "step"]
    await live.client.hset(f"job:{job}", "org_id", "no-17")
    async with httpx.AsyncClient(
        headers={"Authorization": f"Bearer {token('bob', org_id='no-17')}"}
    ) as client:
        state = (await client.get(f"{live.url}/api/jobs/{job}")).json()
        assert state["job_id"] == job
        assert "no-17" not in json.dumps(state["job"])
        assert len((await client.get(f"{live.url}/api/jobs/{job}/events")).json()["events"]) == 2


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    "claims",
    [{}, {"org_id": "no-18"}, {"org_id": ""}, {"org_id": ["no-17"]}, {"org_id": True}, {"status": "code"}],
)
async def test_another_claim_opens_nothing(live, transport, claims):
    """Nor does an empty one, where the job has no such field."""
    shared, not_shared = await producers.job(live, events=1), await producers.job(live, events=1)
    await live.client.hset(f"job:{shared}", "org_id", "no-17")
    await live.client.hset(f"job:{not_shared}", "org_id", "")
    for job in (shared, not_shared):
        async with guest(live, transport, job, **claims) as viewer:
            assert viewer.status == 404


async def test_a_job_that_is_not_shared_any_more_closes(live):
    """At the next look, on both transports."""
    job = await producers.job(live, events=1)
    await live.client.hset(f"job:{job}", "org_id", "no-17")
    async with (
        guest(live, "websocket", job, org_id="no-17") as socket,
        guest(live, "sse", job, org_id="no-17") as stream,
    ):
        await socket.until("step")
        await stream.until("step")
        await live.client.hdel(f"job:{job}", "org_id")
        async with view(live, "sse", job) as owner:
            await owner.until("step")
            await look(live)
            assert await socket.all() == []
            assert socket.code == 4404
            assert await stream.all() == []
            await producers.publish(live, job, 1, start=1)
            await owner.until("step")


async def look(live) -> None:
    """The look that comes every minute."""
    await guests.GuestCheck(live.hub.broker, lambda: live.hub._views).look()


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("is_async", [True, False], ids=["async", "plain"])
async def test_an_application_says_who_may_watch(live, transport, is_async):
    """At the join, and again while the stream lives: once for each user and job."""
    job = await producers.job(live, events=1)
    asked, allowed = [], {"bob"}

    def decide(user, job):
        asked.append((user.user_id, job))
        return user.user_id in allowed

    async def decide_later(user, job):
        return decide(user, job)

    live.app.dependency_overrides[may_watch] = decide_later if is_async else decide
    async with guest(live, transport, job) as viewer, guest(live, transport, job) as other:
        await viewer.until("step")
        await other.until("step")
        async with guest(live, transport, job, user="eve") as refused:
            assert refused.status == 404
        async with view(live, transport, job) as owner:
            await owner.until("step")
        assert asked == [("bob", job), ("bob", job), ("eve", job)], "nobody asks about the owner"
        asked.clear()
        await look(live)
        assert asked == [("bob", job)]
        allowed.clear()
        await look(live)
        assert [await viewer.all(), await other.all()] == [[], []]
        assert transport == "sse" or viewer.code == 4404


async def test_an_application_is_asked_about_jobs_that_do_not_exist(live):
    """Else the time of the answer would say which ones exist; and its yes makes none."""
    asked = []
    live.app.dependency_overrides[may_watch] = lambda user, job: asked.append(job) or True
    async with guest(live, "sse", "nowhere") as viewer:
        assert viewer.status == 404
    assert asked == ["nowhere"]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_an_application_that_fails_sends_a_browser_back_later(live, transport):
    """It is no 500, after which an EventSource gives up; and it ends nobody's stream."""
    job = await producers.job(live, events=1)
    fails = False

    def decide(user, job):
        if fails:
            raise RuntimeError("no database")
        return True

    live.app.dependency_overrides[may_watch] = decide
    async with view(live, transport, job, user="bob") as viewer:
        await viewer.until("step")
        fails = True
        async with view(live, transport, job, user="bob") as refused:
            assert [seen.name for seen in await refused.all()] in ([], ["reconnect"])
            assert refused.closed == "reconnect" or refused.code == 4013
        await look(live)
        await producers.publish(live, job, 1)
        await viewer.until("step")


async def test_a_dashboard_loses_the_job_and_stays(live):
    """The other jobs go on."""
    theirs, own = await producers.job(live, events=1), await producers.job(live, events=1, user="bob")
    allowed = [True]
    live.app.dependency_overrides[may_watch] = lambda user, job: allowed[0]
    async with dashboard(live, user="bob") as board:
        for job in (theirs, own):
            await board.say("subscribe", job=job)
            await board.until("step")
        allowed[0] = False
        await look(live)
        lost = (await board.until("error"))[-1].fields
        assert (lost["code"], lost["job_id"]) == ("not_found", theirs)
        await producers.publish(live, own, 1)
        await board.until("step")


# --- revocation


async def test_revoked_streams_end_on_every_hub(real_redis):
    """Within a second; other users' stay. Nobody comes back with an old token, a new token works."""
    async with hub_on(real_redis, "fast", linger=0) as one, hub_on(real_redis, "portable") as two:
        job, other = await producers.job(one, events=1), await producers.job(one, events=1, user="bob")
        old = {"Authorization": f"Bearer {token(iat=int(time.time()) - 10)}"}
        async with (
            with_headers(one, path_of("sse", job), old) as first,
            with_headers(two, path_of("websocket", job), old) as second,
            with_headers(two, "/api/events/ws", old) as board,
            with_headers(two, "/api/events/ws", old) as idle,
            view(two, "sse", other, user="bob") as bob,
        ):
            await first.until("step")
            await second.until("step")
            await board.say("subscribe", job=job)
            await board.until("step")
            await bob.until("step")
            await one.context.revoke("ada")
            assert [seen.fields for seen in await first.all()] == [{"after_ms": 0, "reason": "revoked"}]
            for socket in (second, board, idle):
                assert await asyncio.wait_for(socket.all(), 2) is not None
                assert socket.code == 4401
            await producers.publish(two, other, 1)
            await bob.until("step")
        fresh = {"Authorization": f"Bearer {token(iat=time.time())}"}
        for hub in (one, two):
            for path in (path_of("sse", job), path_of("websocket", job), "/api/events/ws"):
                async with with_headers(hub, path, old) as refused:
                    assert refused.status == 404
            async with httpx.AsyncClient(base_url=hub.url, headers=old) as client:
                assert (await client.get("/api/session")).status_code == 401
                assert (await client.get(f"/api/jobs/{job}")).status_code == 404
            async with with_headers(hub, path_of("sse", job), fresh) as back:
                await back.until("step")
        assert one.hub.statistics().auth_refused_revoked >= 3
        await one.until(lambda: not one.hub.statistics().jobs)
    async with hub_on(real_redis, "fast") as later, with_headers(later, path_of("sse", job), old) as refused:
        assert refused.status == 404, "a hub that begins later has read the list"


async def test_a_revocation_that_no_message_brought_is_found_at_the_reconnect(live):
    """The subscription was down when it was said."""
    job = await producers.job(live, events=1)
    async with view(live, "websocket", job) as socket:
        await socket.until("step")
        await live.client.zadd("push-hub:revoked", {Revocation("ada", None, 0.0).member: time.time()})
        await live.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await socket.all()
        assert socket.code == 4401


async def test_one_job_is_revoked_alone(live):
    """4404 on it; the user's other jobs go on, and refuse nobody."""
    job, other = await producers.job(live, events=1), await producers.job(live, events=1)
    old = {"Authorization": f"Bearer {token(iat=int(time.time()) - 10)}"}
    async with (
        with_headers(live, path_of("websocket", job), old) as socket,
        with_headers(live, path_of("sse", other), old) as stays,
    ):
        await socket.until("step")
        await stays.until("step")
        await live.context.revoke("ada", job)
        await socket.all()
        assert socket.code == 4404
        async with with_headers(live, path_of("sse", job), old) as refused:
            assert refused.status == 404
        async with with_headers(live, path_of("sse", other), old) as again:
            await again.until("step")
        await producers.publish(live, other, 1)
        await stays.until("step")


async def test_a_token_without_the_time_of_its_issue_is_refused_after_a_revocation(live):
    """Nobody can know whether it is older."""
    job = await producers.job(live, events=1)
    await live.context.revoke("ada")
    async with view(live, "sse", job) as refused:
        assert refused.status == 404


async def test_a_slow_reader_of_the_past_sees_nothing_after_the_revocation(live):
    """Its seat is taken at the end of the log, and sent away."""
    job = await producers.job(live, events=3)
    with await live.hub.view(Caller("ada"), job, Wish()) as coming:
        live.hub.revocations.add(Revocation("ada", None, time.time()))
        assert await live.hub.read_past(coming) == []
        written = []
        wire = SimpleNamespace(paused=False, write=written.append, beat=written.append, finish=written.append)
        coming.seat(wire, ASGI_SSE).catch_up()
        await asyncio.sleep(0)
        assert written == [Reason.REVOKED]


async def test_the_list_is_kept_as_long_as_tokens_live(live):
    """And no longer. What somebody else writes there, or says on the channel, is not believed to be a list."""
    await live.context.revoke("ada")
    await live.context.revoke("bob", "j")
    await live.hub.broker.revoke(Revocation("ada", None, 5.0), valid=1.0)
    rows = await live.client.zrange("push-hub:revoked", 0, -1, withscores=True)
    assert {member for member, _ in rows} == {b'["ada",null]', b'["bob","j"]'}
    assert all(at > time.time() - 5 for _, at in rows), "an older one does not replace a newer one"
    await live.client.zadd("push-hub:revoked", {"nonsense": 1, "[1,2]": 2, '["x","a b"]': 3})
    assert len(await live.hub.broker.revocations()) == 2
    for message in (
        "x",
        "[]",
        "{}",
        '{"revoked":"ada","job":null,"at":1e999}',
        '{"revoked":"","job":null,"at":1}',
    ):
        await live.client.publish("push-hub:control", message)
    job = await producers.job(live, events=1, user="carl")
    async with view(live, "sse", job, user="carl") as viewer:
        await viewer.until("step")


async def test_what_is_no_id_is_not_revoked(live):
    """It would be kept, and concern nobody."""
    for user, job in (("", None), ("ada", "a b"), ("ada", "")):
        with pytest.raises(InvalidSettings, match="expected a user"):
            await live.context.revoke(user, job)
