"""The ACL rights in docs/operations.md suffice for hub and workers, and let the hub only read."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from hub import JobStateMachine, Publisher, SyncPublisher
from hub.demo.embedded import EmbeddedServer
from tests.support.keys import meta_of
from tests.support.live import USER, live_hub, token

OPERATIONS = Path(__file__).parents[2] / "docs/operations.md"


def rights(user: str) -> list[str]:
    """The rights in the documentation's line for a user."""
    found = re.search(rf"^ACL SETUSER {user} (.+)$", OPERATIONS.read_text(), re.MULTILINE)
    assert found is not None, user
    return found[1].split()


@pytest.fixture
async def server():
    """A Redis with these users and a superuser; yields a function that returns a user's URL."""
    with EmbeddedServer() as redis:
        async with Redis.from_url(redis.url) as client:
            also = ["+hgetall", "+hexists"]
            worker = [word for word in rights("worker") if word != "on"]
            await client.execute_command("ACL", "SETUSER", "hub", *rights("hub"))
            await client.execute_command("ACL", "SETUSER", "worker", *rights("worker"))
            await client.execute_command("ACL", "SETUSER", "maker", *rights("worker"), *also)
            merged = [word for word in worker if word not in ("-@all", ">PASSWORD")]
            await client.execute_command("ACL", "SETUSER", "root", "on", ">PASSWORD", "~*", "&*", "+@all")
            await client.execute_command("ACL", "SETUSER", "both", *rights("hub"), *merged)
            host = redis.url.removeprefix("redis://").removesuffix("/0")
            yield lambda user: f"redis://{user}:PASSWORD@{host}/0"


async def test_they_are_enough_for_everything(server):
    """Jobs are created, watched, published to, leased by both publishers, and declared lost."""
    async with Redis.from_url(server("both")) as client, Redis.from_url(server("maker")) as maker:
        jobs = JobStateMachine(maker)
        for job in ("a", "lost"):
            await jobs.create_job(job, user_id=USER)
        async with live_hub(client, redis_url=server("both"), position_check=0.3, window_events=2) as live:
            async with live.sse("a", "?from=start") as viewer, live.websocket("a"):
                async with (
                    Publisher.from_url(server("worker"), strict=True) as publisher,
                    publisher.lease("a", ttl=10),
                ):
                    for n in range(5):
                        await publisher.emit("a", "step", {"n": n}, once=str(n))
                    with SyncPublisher.from_url(server("worker"), strict=True) as blocking:
                        blocking.emit("a", "step", {"n": 5})
                        with blocking.lease("lost"):
                            pass
                await jobs.transition("a", "ready")
                assert [message.event for message in await viewer.all()][-1] == "end"
            async with live.sse("a", "?from=start") as late:  # from the retained log
                assert len(await late.all()) == 8
            await maker.hset(meta_of("lost"), "lease", "1")
            async with live.sse("lost") as watching:
                fields = [message.json for message in await watching.all()]
            assert [one.get("reason") for one in fields] == ["producer_lost", None]


async def test_tickets_and_revocations_need_what_the_documentation_adds(server):
    """And no more than that."""
    text = OPERATIONS.read_text()
    more = re.search(r"For tickets add `([^`]+)`.*?`([^`]+\+zadd[^`]+)`", text, re.DOTALL)
    assert more is not None
    async with Redis.from_url(server("maker")) as maker, Redis.from_url(server("root")) as root:
        await root.execute_command("ACL", "SETUSER", "hub", *more[1].split(), *more[2].split())
        await JobStateMachine(maker).create_job("a", user_id=USER)
        async with Redis.from_url(server("hub")) as client, live_hub(client, redis_url=server("hub")) as live:
            headers = {"Authorization": f"Bearer {token()}"}
            async with httpx.AsyncClient(headers=headers) as http:
                made = await http.post(f"{live.url}/api/jobs/a/tickets", json={"uses": 2})
            ticket = made.json()["ticket"]
            async with httpx.AsyncClient() as http:
                assert (await http.get(f"{live.url}/api/jobs/a?ticket={ticket}")).status_code == 200
                await live.context.revoke(USER)
                assert (await http.get(f"{live.url}/api/jobs/a?ticket={ticket}")).status_code == 404


def added(pattern: str) -> list[str]:
    """The rights that a sentence of the documentation adds."""
    found = re.search(pattern, OPERATIONS.read_text(), re.DOTALL)
    assert found is not None, pattern
    return [word for group in found.groups() for word in group.split()]


async def test_commands_need_what_the_documentation_adds(server):
    """And no more than that."""
    hears = added(r"workers that hear them `([^`]+)`")
    async with Redis.from_url(server("maker")) as maker, Redis.from_url(server("root")) as root:
        await root.execute_command("ACL", "SETUSER", "both", *added(r"both lists and `(\+xlen)`"))
        await root.execute_command("ACL", "SETUSER", "worker", *hears)
        await JobStateMachine(maker).create_job("a", user_id=USER)
        async with (
            Redis.from_url(server("both")) as client,
            live_hub(client, redis_url=server("both"), commands="cancel") as live,
            Publisher.from_url(server("worker"), strict=True) as publisher,
            publisher.lease("a", ttl=10) as lease,
        ):
            assert not lease.cancelled.is_set()
            async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token()}"}) as http:
                got = await http.post(f"{live.url}/api/jobs/a/commands", json={"name": "cancel"})
            assert got.status_code == 202, got.text
            async with asyncio.timeout(10):
                await lease.cancelled.wait()


async def test_the_list_of_jobs_needs_what_the_documentation_adds(server):
    """And no more than that."""
    hub = added(r"list of a user's jobs add `([^`]+)`")
    maker_also = added(r"for the list of jobs `([^`]+)`")
    async with Redis.from_url(server("maker")) as maker, Redis.from_url(server("root")) as root:
        await root.execute_command("ACL", "SETUSER", "hub", *hub)
        await root.execute_command("ACL", "SETUSER", "maker", *maker_also)
        await JobStateMachine(maker).create_job("a", user_id=USER)
        await root.hset("job:b", mapping={"user_id": USER, "status": "code"})
        async with (
            Redis.from_url(server("hub")) as client,
            live_hub(client, redis_url=server("hub")) as live,
            live.sse("b"),
            httpx.AsyncClient(headers={"Authorization": f"Bearer {token()}"}) as http,
            asyncio.timeout(10),
        ):
            while len((await http.get(f"{live.url}/api/jobs")).json()["jobs"]) < 2:
                await asyncio.sleep(0.05)
            await root.delete("job:b")
            assert [one["job_id"] for one in (await http.get(f"{live.url}/api/jobs")).json()["jobs"]] == ["a"]


async def test_the_hub_may_only_read(server):
    """Without leases the hub needs no right to write, so an attacker in it can change nothing."""
    async with Redis.from_url(server("maker")) as maker, Redis.from_url(server("hub")) as client:
        await JobStateMachine(maker).create_job("a", user_id=USER)
        async with (
            live_hub(client, redis_url=server("hub"), position_check=0.3) as live,
            live.sse("a") as viewer,
            Publisher.from_url(server("worker"), strict=True) as publisher,
        ):
            await publisher.ready("a")
            assert [message.event for message in await viewer.all()] == ["message", "end"]
        with pytest.raises(NoPermissionError):
            await client.hset("job:a", "status", "failed")
