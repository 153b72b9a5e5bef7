"""Commands to workers: who may give which, on every way in, and what the worker hears."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress

import httpx
import pytest
import pytest_asyncio

from hub import may_command, may_watch
from hub.broker.script import MOST_COMMANDS
from hub.errors import JobEnded
from hub.job.command import MAX_ARGS
from tests.support import producers
from tests.support.live import Live, token

pytestmark = pytest.mark.asyncio(loop_scope="module")

WAYS = ["socket", "dashboard", "post"]
Give = Callable[..., Awaitable[dict]]


@pytest_asyncio.fixture(loop_scope="module")
async def hub(place, start_hub) -> AsyncIterator[Live]:
    async with start_hub(commands="cancel,approve") as live:
        yield live


@pytest.fixture(params=WAYS)
def give(request, hub) -> Give:
    """Gives a command in one of the three ways; returns the answer as on a socket."""
    return {"socket": by_socket, "dashboard": by_dashboard, "post": by_post}[request.param].__get__(hub)


async def by_socket(live: Live, job: str, name: object, *, user: str = "ada", iat: float = 0, **more) -> dict:
    from websockets.exceptions import InvalidStatus

    try:
        async with live.websocket(job, "?from=live", user=user, iat=iat) as socket:
            await socket.recv()
            await socket.send(json.dumps({"op": "command", "name": name, "ref": 1, **more}))
            return await answer(socket)
    except InvalidStatus as error:
        return {"type": "error", "code": {404: "not_found"}[error.response.status_code]}


async def by_dashboard(
    live: Live, job: str, name: object, *, user: str = "ada", iat: float = 0, **more
) -> dict:
    async with live.dashboard(user=user, iat=iat) as socket:
        await socket.send(json.dumps({"op": "command", "job": job, "name": name, "ref": 1, **more}))
        return await answer(socket)


async def answer(socket) -> dict:
    async with asyncio.timeout(10):
        while (frame := json.loads(await socket.recv())).get("ref") != 1:
            pass
        return frame


CODES = {404: "not_found", 403: "forbidden", 409: "nobody", 422: "invalid", 429: "too_many_commands"}


async def by_post(
    live: Live, job: str, name: object, *, user: str = "ada", key: str | None = None, iat: float = 0, **more
) -> dict:
    headers = {"Authorization": f"Bearer {token(user, iat=iat)}"} | (
        {"Idempotency-Key": key} if key is not None else {}
    )
    async with httpx.AsyncClient() as client:
        got = await client.post(
            f"{live.url}/api/jobs/{job}/commands", json={"name": name, **more}, headers=headers
        )
    if got.status_code == 202:
        return {"type": "accepted", **got.json()}
    detail = got.json()["detail"]
    code = "ended" if detail == JobEnded.detail else CODES[got.status_code]
    return {"type": "error", "code": code, "message": detail}


@pytest_asyncio.fixture(loop_scope="module")
async def job(hub) -> str:
    return await producers.job(hub, events=1)


async def listening(live: Live, job: str) -> asyncio.Task:
    """A worker that does every command; it returns what it has heard when the job ends."""

    async def work() -> list[tuple[str, dict, str]]:
        heard = []
        async for command in live.publisher.commands(job):
            heard.append((command.name, dict(command.args), command.user))
            if command.name == "approve":
                await command.refused("not today")
            else:
                await command.done(at="once")
        return heard

    task = asyncio.create_task(work())
    await hears(live, job)
    return task


async def hears(live: Live, job: str) -> None:
    """Return when a worker listens."""
    async with asyncio.timeout(10):
        while not await live.client.hget(f"push-hub:{{job:{job}}}:meta", "listens"):
            await asyncio.sleep(0.01)


async def test_a_worker_hears_a_command_and_every_viewer_hears_the_worker(hub, job, give):
    worker = await listening(hub, job)
    async with hub.sse(job, "?from=live") as viewer:
        first = await give(job, "cancel", args={"why": "enough"})
        second = await give(job, "approve")
        assert [first["type"], second["type"]] == ["accepted", "accepted"]
        done, refused = [(await viewer.next()).json for _ in range(2)]
    assert done == {
        "type": "command.done",
        "at": "once",
        "command": first["command"],
        "name": "cancel",
        "job_id": job,
    }
    assert refused["type"], refused["command"] == ("command.refused", second["command"])
    assert refused["reason"] == "not today"
    await hub.publisher.ready(job)
    assert await worker == [("cancel", {"why": "enough"}, "ada"), ("approve", {}, "ada")]
    assert await hub.client.xlen(f"push-hub:{{job:{job}}}:commands") == 0


async def test_a_command_that_nobody_would_hear_is_refused_at_once(hub, job, give):
    assert (await give(job, "cancel"))["code"] == "nobody"
    async with hub.publisher.lease(job):
        assert (await give(job, "cancel"))["type"] == "accepted"
    assert (await give(job, "cancel"))["code"] == "nobody"


async def test_a_job_that_is_over_takes_no_commands(hub, job, give):
    await hub.publisher.ready(job)
    if give.__func__ is by_socket:
        with suppress(Exception):
            assert (await give(job, "cancel"))["code"] == "ended"
    else:
        assert (await give(job, "cancel"))["code"] == "ended"


@pytest.mark.parametrize("name", ["delete", "", None, 7, ["cancel"], "x" * 1000, "cancel\n"])
async def test_a_command_that_is_not_allowed_is_refused(hub, job, give, name):
    async with hub.publisher.lease(job):
        assert (await give(job, name))["code"] == "invalid"


@pytest.mark.parametrize("args", [[], "x", 7, {"x": "y" * MAX_ARGS}], ids=["list", "text", "number", "large"])
async def test_arguments_that_are_none_are_refused(hub, job, give, args):
    async with hub.publisher.lease(job):
        assert (await give(job, "cancel", args=args))["code"] == "invalid"
        assert (await give(job, "cancel", args={"x": "y" * (MAX_ARGS - 20)}))["type"] == "accepted"


async def test_a_stranger_is_answered_as_about_no_job(hub, job, give):
    async with hub.publisher.lease(job):
        for one, user in ((job, "eve"), ("nothing", "ada"), ("nothing", "eve")):
            assert (await give(one, "cancel", user=user))["code"] == "not_found"
            assert (await give(one, "delete", user=user))["code"] == "not_found", (
                "before anything else is looked at"
            )
    assert not await hub.client.xlen(f"push-hub:{{job:{job}}}:commands")


async def test_a_key_makes_a_command_once(hub, job, give):
    async with hub.publisher.lease(job):
        first = await give(job, "cancel", key="k1")
        assert first == await give(job, "cancel", key="k1")
        assert (await give(job, "cancel", key="k2"))["command"] != first["command"]
    for bad in ("", "x" * 200):
        if give.__func__ is not by_post or bad:
            assert (await give(job, "cancel", key=bad))["code"] == "invalid"


async def test_a_key_of_a_viewer_is_no_key_of_a_worker(hub):
    """A user whose id looks like a command's cannot keep the worker's answer from the others."""
    job = await producers.job(hub, events=1)
    async with hub.publisher.lease(job):
        given = (await by_post(hub, job, "cancel"))["command"]
    await hub.client.hset(f"job:{job}", "user_id", given)
    async with hub.publisher.lease(job):
        await by_post(hub, job, "cancel", user=given, key="command.done")
    once = [key async for key in hub.client.scan_iter(f"push-hub:{{job:{job}}}:once:command:*")]
    assert not once


async def test_a_worker_that_hears_nothing_is_not_sent_more_and_more(place, start_hub):
    async with start_hub(commands="cancel", max_commands=1000) as live:
        job = await producers.job(live, events=1)
        async with (
            live.publisher.lease(job),
            httpx.AsyncClient(headers={"Authorization": f"Bearer {token()}"}) as client,
        ):
            url = f"{live.url}/api/jobs/{job}/commands"
            codes = [
                (await client.post(url, json={"name": "cancel"})).status_code
                for _ in range(MOST_COMMANDS + 1)
            ]
        assert codes == [202] * MOST_COMMANDS + [429]
        totals = live.hub.statistics()
        assert (totals.commands, totals.commands_refused) == (MOST_COMMANDS, 1)


async def test_a_user_who_gives_too_many_is_slowed_down(place, start_hub):
    async with start_hub(commands="cancel", max_commands=5) as live:
        job = await producers.job(live, events=1)
        async with (
            live.publisher.lease(job),
            httpx.AsyncClient(headers={"Authorization": f"Bearer {token()}"}) as client,
        ):
            url = f"{live.url}/api/jobs/{job}/commands"
            got = [await client.post(url, json={"name": "cancel"}) for _ in range(8)]
        assert [one.status_code for one in got][:5] == [202] * 5
        assert got[-1].status_code == 429
        assert int(got[-1].headers["Retry-After"]) >= 3


async def test_commands_are_off_unless_they_are_named(place, start_hub):
    async with start_hub() as live:
        job = await producers.job(live, events=1)
        async with live.publisher.lease(job):
            assert (await by_post(live, job, "cancel"))["code"] == "invalid"


@pytest.mark.parametrize("way", WAYS)
async def test_an_application_says_who_may_command(place, start_hub, way):
    """Bob may watch and approve; the owner may not cancel; eve may neither."""
    asked = []

    def may(user, job: str, name: str) -> bool:
        asked.append((user.user_id, job, name))
        return (user.user_id, name) in {("bob", "approve"), ("ada", "approve")}

    async with start_hub(commands="cancel,approve") as live:
        live.app.dependency_overrides[may_watch] = lambda user, _job: user.user_id == "bob"
        live.app.dependency_overrides[may_command] = may
        job = await producers.job(live, events=1)
        give = {"socket": by_socket, "dashboard": by_dashboard, "post": by_post}[way]
        async with live.publisher.lease(job):
            answers = {
                (user, name): await give(live, job, name, user=user)
                for user in ("ada", "bob", "eve")
                for name in ("cancel", "approve")
            }
    assert {key: one.get("code") for key, one in answers.items()} == {
        ("ada", "cancel"): "forbidden",
        ("ada", "approve"): None,
        ("bob", "cancel"): "forbidden",
        ("bob", "approve"): None,
        ("eve", "cancel"): "not_found",
        ("eve", "approve"): "not_found",
    }
    assert {user for user, *_ in asked} == {"ada", "bob"}


async def test_a_guest_may_watch_and_not_command(place, start_hub):
    async with start_hub(commands="cancel") as live:
        live.app.dependency_overrides[may_watch] = lambda user, _job: user.user_id == "bob"
        job = await producers.job(live, events=1)
        async with live.publisher.lease(job):
            for give in (by_socket, by_dashboard, by_post):
                assert (await give(live, job, "cancel", user="bob"))["code"] == "forbidden"


async def test_somebody_who_was_revoked_and_signed_in_again_commands(hub, give):
    user = f"again-{give.__func__.__name__}"
    await hub.context.revoke(user)
    job = await producers.job(hub, events=1, user=user)
    async with hub.publisher.lease(job), asyncio.timeout(10):
        while (answer := await give(job, "cancel", user=user, iat=time.time() + 2))["type"] != "accepted":
            assert answer["code"] == "not_found"
            await asyncio.sleep(0.1)


async def test_a_ticket_only_reads(hub, job):
    signed = {"Authorization": f"Bearer {token()}"}
    async with httpx.AsyncClient(base_url=hub.url) as client, hub.publisher.lease(job):
        made = await client.post(f"/api/jobs/{job}/tickets", json={"uses": 3}, headers=signed)
        ticket = made.json()["ticket"]
        got = await client.post(f"/api/jobs/{job}/commands?ticket={ticket}", json={"name": "cancel"})
        assert got.status_code == 404
        from websockets.asyncio.client import connect

        url = hub.url.replace("http", "ws")
        for path in (f"/api/jobs/{job}/events/ws", "/api/events/ws"):
            async with connect(f"{url}{path}?ticket={ticket}") as socket:
                await socket.send(json.dumps({"op": "command", "job": job, "name": "cancel", "ref": 1}))
                assert (await answer(socket))["code"] == "forbidden"


async def test_a_worker_that_dies_with_a_command_hears_it_again(hub, job):
    async with hub.publisher.lease(job):
        given = [(await by_post(hub, job, "cancel", args={"n": n}))["command"] for n in range(3)]
    heard = []
    for _ in range(2):
        async with aclosing(hub.publisher.commands(job)) as commands:
            heard.append((await anext(commands)).id)
    assert heard == [given[0]] * 2
    async with aclosing(hub.publisher.commands(job)) as commands:
        first = await anext(commands)
        second = await anext(commands)
        await second.done()
    assert [first.id, second.id] == given[:2]
    async with aclosing(hub.publisher.commands(job)) as commands:
        assert (await anext(commands)).id == given[2], "the second one was answered"


async def test_commands_of_an_earlier_attempt_or_owner_are_not_heard(hub, job):
    async with hub.publisher.lease(job):
        await by_post(hub, job, "cancel")
        assert await hub.publisher.restart(job) == 2
        async with hub.publisher.lease(job):
            await by_post(hub, job, "approve")
            async with aclosing(hub.publisher.commands(job)) as commands:
                assert (await anext(commands)).name == "approve"
    await hub.client.hset(f"job:{job}", "user_id", "bob")
    async with hub.publisher.lease(job):
        assert (await by_post(hub, job, "cancel", user="bob"))["type"] == "accepted"
        async with aclosing(hub.publisher.commands(job)) as commands:
            heard = await anext(commands)
    assert (heard.name, heard.user) == ("cancel", "bob")


async def test_a_lease_says_that_the_job_is_cancelled(hub, job):
    async with hub.publisher.lease(job) as lease:
        assert not lease.cancelled.is_set()
        async with hub.sse(job, "?from=live") as viewer:
            refused = await by_post(hub, job, "approve")
            given = await by_post(hub, job, "cancel")
            async with asyncio.timeout(5):
                await lease.cancelled.wait()
            first, second = [(await viewer.next()).json for _ in range(2)]
    assert (first["type"], first["command"]) == ("command.refused", refused["command"])
    assert (second["type"], second["command"]) == ("command.done", given["command"])


async def test_a_worker_that_iterates_hears_all_and_its_lease_knows(hub, job):
    publisher = hub.publisher
    heard = []
    async with publisher.lease(job) as lease:
        assert not lease.cancelled.is_set()

        async def work() -> None:
            async for command in publisher.commands(job):
                heard.append(command.name)
                await command.done()

        worker = asyncio.create_task(work())
        await hears(hub, job)
        await by_post(hub, job, "approve")
        await by_post(hub, job, "cancel")
        async with asyncio.timeout(5):
            await lease.cancelled.wait()
        await publisher.failed(job)
        await worker
    assert heard == ["approve", "cancel"]


async def test_many_commands_on_one_socket_are_answered_in_order(hub, job):
    worker = await listening(hub, job)
    async with hub.websocket(job, "?from=live") as socket, asyncio.timeout(20):
        await socket.recv()
        for n in range(10):
            await socket.send(json.dumps({"op": "command", "name": "cancel", "args": {"n": n}, "ref": n}))
        got = []
        while len(got) < 10:
            frame = json.loads(await socket.recv())
            got += [frame.get("ref")] * (frame["type"] == "accepted")
        assert got == list(range(10))
        for n in range(40):
            await socket.send(json.dumps({"op": "command", "name": "cancel", "ref": n}))
        codes = []
        while len(codes) < 40:
            frame = json.loads(await socket.recv())
            codes += [frame.get("code", "accepted")] * ("ref" in frame)
        assert set(codes) <= {"accepted", "unavailable", "too_many_commands"}
    async with asyncio.timeout(10):
        while await hub.client.xlen(f"push-hub:{{job:{job}}}:commands"):
            await asyncio.sleep(0.01)
    await hub.publisher.ready(job)
    assert [args["n"] for _, args, _ in (await worker)[:10]] == list(range(10))
