"""What is ours stands in keys of ours: nothing of an application's is read, changed or deleted."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from redis.asyncio import Redis

from hub import JobStateMachine, Publisher
from hub.broker.keys import Keys
from hub.broker.redis import RedisBroker
from hub.broker.script import Publication
from hub.job.event import JobId, job_id
from tests.support import producers
from tests.support.keys import log_of, meta_of
from tests.support.viewer import view

PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol.md"


@pytest.mark.parametrize(
    "theirs",
    [
        {"epoch": "1", "position": "3rd", "lease": "5", "ended": "yes", "attempt": "x"},
        {"epoch": "first", "lease": "0", "digest": "abc", "owner": "eve"},
    ],
    ids=["numbers", "words"],
)
async def test_fields_of_an_application_are_its_own(start_hub, real_redis, job, transport, theirs):
    """A training job that counts epochs; a lease that is a contract: nobody looks at them, nobody changes them."""
    async with start_hub(position_check=0.2) as live:
        await live.jobs.create_job(job, user_id="ada", **theirs)
        async with view(live, transport, job) as viewer:
            for n in range(3):
                await real_redis.hset(f"job:{job}", mapping=theirs)
                await live.publisher.emit(job, "step", {"n": n})
            assert producers.numbers(await viewer.take(3)) == [0, 1, 2]
            async with view(live, transport, job, "?from=start") as late:
                assert producers.numbers(await late.take(3)) == [0, 1, 2]
            await live.publisher.ready(job)
            assert [one.name for one in await viewer.all()] == ["build.stage.started", "end"]
    kept = await real_redis.hgetall(f"job:{job}")
    assert {name: kept[name.encode()].decode() for name in theirs} == theirs


async def test_a_stream_of_an_application_stays(real_redis):
    """It happened to have the name that our log had, and five entries."""
    for n in range(5):
        await real_redis.xadd("job:Q:log", {"n": n})
    publisher = Publisher(real_redis, strict=True)
    await publisher.emit("Q", "step")
    await JobStateMachine(real_redis).create_job("Q", user_id="ada")
    await publisher.ready("Q")
    assert await real_redis.xlen("job:Q:log") == 5


async def test_a_jobs_id_is_no_key_of_another_job(real_redis):
    """`y:log`, `y:meta` and `y:once:k` are jobs like any other."""
    publisher = Publisher(real_redis, strict=True)
    jobs = JobStateMachine(real_redis)
    for made in ("y", "y:log", "y:meta", "y:events", "y:once:k"):
        await jobs.create_job(made, user_id="ada")
    for made in ("y:log", "y", "y:meta", "y:events", "y:once:k"):
        assert (await publisher.emit(made, "step", once="k")).seq == 0


def test_no_id_of_a_job_can_name_a_key_of_ours():
    """Every one has a brace in it, and a job's id has none."""
    keys = Keys()
    for name in (keys.meta(JobId("a")), keys.log(JobId("a")), keys.once(JobId("a"), "k")):
        assert job_id(name) is None
        assert "{" in name
    assert job_id("a{b}") is None


@pytest.mark.parametrize(
    ("template", "slot_of"), [("job:{id}", "job:a"), ("app:{{id}}", "a"), ("{app}:{id}", "app")]
)
def test_our_keys_share_the_slot_of_the_applications(template, slot_of):
    """The script touches all of them, and a cluster wants them in one slot."""
    keys = Keys(template)
    for name in (keys.meta(JobId("a")), keys.log(JobId("a")), keys.once(JobId("a"), "k")):
        tag = re.search(r"\{([^}]+)\}", name)
        assert tag is not None
        assert tag[1] == slot_of


async def test_the_docs_name_every_key_that_the_hub_makes(start_hub, real_redis):
    """Its type and its life, as the table has them; a run of everything makes no other."""
    async with start_hub(commands="cancel") as live:
        await live.jobs.create_job("a", user_id="ada")
        publisher = live.publisher
        await publisher.emit("a", "step", once="mine")
        await publisher.emit_many("a", [("step", {"n": 1}), ("step", {"n": 2})])
        async with publisher.lease("a"), view(live, "sse", "a") as viewer:
            await viewer.take(3)
        await publisher.ready("a")
        await publisher.restart("a")
        await publisher.failed("a")
        made = {key.decode() async for key in real_redis.scan_iter("*")}
        kinds = {key: (await real_redis.type(key)).decode() for key in made}
    table = dict(re.findall(r"^\| `([^`]+)` \| (\w+)", PROTOCOL.read_text(), re.MULTILINE))
    patterns = {
        name: re.escape(name)
        .replace(r"\{id\}", "a")
        .replace("ID", "a")
        .replace("KEY", ".+")
        .replace("U", "ada")
        for name in table
    }
    for key, kind in kinds.items():
        (name,) = [name for name, pattern in patterns.items() if re.fullmatch(pattern, key)]
        assert table[name] == {"zset": "sorted"}.get(kind, kind), key  # the table says "sorted set"


async def test_only_named_fields_of_a_hash_are_read(real_redis):
    """Ten jobs with a field of 8 MB took the hub from 107 to 462 MB; and bytes that are no text broke a client that decodes."""
    await real_redis.hset(
        "job:a", mapping={"user_id": "ada", "status": "code", "blob": b"\xff" * 1000, "title": "T"}
    )
    broker = RedisBroker(real_redis, Publication())
    (found,) = await broker.jobs([JobId("a")])
    assert dict(found.fields) == {"user_id": "ada", "status": "code", "title": "T"}
    before = (await real_redis.info("stats"))["total_net_output_bytes"]
    await broker.jobs([JobId("a")])
    assert (await real_redis.info("stats"))[
        "total_net_output_bytes"
    ] - before < 6000  # INFO itself is most of it


@pytest.mark.parametrize("owner", [b"\xff", b"ad\xff"])
async def test_bytes_that_are_no_text_are_no_owner(start_hub, real_redis, owner):
    """U+FFFD stands for many bytes, and a user of that name would be all of them."""
    await real_redis.hset("job:a", mapping={"user_id": owner, "status": "code"})
    async with start_hub() as live, view(live, "sse", "a", user=owner.decode("utf-8", "replace")) as viewer:
        assert viewer.status == 404


async def test_a_client_that_decodes_is_no_matter(redis_server, real_redis, job, transport):
    """`decode_responses=True`, and fields of the hash that are no text."""
    from tests.support.live import live_hub

    await real_redis.hset(
        f"job:{job}", mapping={"user_id": "ada", "status": "code", "blob": b"\xff\xfe", "title": b"\xff"}
    )
    async with (
        Redis.from_url(redis_server.url, decode_responses=True) as client,
        live_hub(client, wire="fast", overridden=True) as live,
        view(live, transport, job) as viewer,
    ):
        await Publisher(client, strict=True).emit(job, "step", {"n": 0})
        assert producers.numbers(await viewer.take(1)) == [0]


async def test_an_owners_log_is_not_the_next_owners(start_hub, real_redis, job, transport):
    """The hash was deleted and another one written by the application itself; nothing is guessed."""
    async with start_hub(linger=0) as live:
        await live.jobs.create_job(job, user_id="bob")
        await live.publisher.emit(job, "secret", {"n": 0})
        await real_redis.delete(f"job:{job}")
        await real_redis.hset(f"job:{job}", mapping={"user_id": "ada", "status": "code"})
        async with view(live, transport, job, "?from=start") as viewer:
            await live.publisher.emit(job, "step", {"n": 1})
            seen = await viewer.until("step")
        assert "secret" not in [one.name for one in seen]
    entries = await real_redis.xrange(log_of(job))
    assert [json.loads(fields[b"data"])["n"] for _, fields in entries] == [1]
    assert (await real_redis.hget(meta_of(job), "owner")) == b"ada"
