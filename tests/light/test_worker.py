"""What `pip install push-hub` is enough for. .ci/run runs this folder a second time, with nothing else installed and
with the lowest versions that pyproject.toml allows."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import uuid

import pytest
import redis
from redis.asyncio import Redis

import hub
from hub import EventId, HubError, JobStateMachine, Publisher, SyncPublisher

BARE = """
import sys
class Bare:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        allowed = {"hub", "redis", "hiredis", "pydantic", "pydantic_core", "annotated_types", "typing_extensions"}
        if top in sys.stdlib_module_names or top in allowed | {"typing_inspection", "async_timeout"} or top[0] == "_":
            return None
        raise ModuleNotFoundError(f"No module named {top!r}", name=top)
sys.meta_path.insert(0, Bare())
"""


def bare(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program where only redis and pydantic can be imported."""
    return subprocess.run(
        [sys.executable, "-c", BARE + program], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def job(redis_url) -> str:
    """A job as an application writes it."""
    made = uuid.uuid4().hex
    with redis.Redis.from_url(redis_url) as client:
        client.hset(f"job:{made}", mapping={"user_id": "ada", "status": "building"})
    return made


def retained(url: str, job: str) -> list[dict[str, object]]:
    """The events that a viewer of the job would be given."""
    with redis.Redis.from_url(url, decode_responses=True) as client:
        for key in client.scan_iter(match=f"*{job}*"):
            if client.type(key) == "stream":
                entries = client.xrange(key)
                return [
                    json.loads(next(value for value in fields.values() if value.startswith("{")))
                    for _, fields in entries
                ]
    return []


async def build(publisher: Publisher, job: str) -> None:
    async with publisher.lease(job):
        await publisher.stage_started(job, "code", "Writing code")
        await publisher.emit_many(job, [("tick", {"n": n}) for n in range(50)])
        await asyncio.gather(*(publisher.emit(job, "tock", {"n": n}) for n in range(20)))
    assert isinstance(await publisher.ready(job), EventId)


async def test_an_async_worker(redis_url):
    job = uuid.uuid4().hex
    async with Redis.from_url(redis_url) as client:
        machine = JobStateMachine(client)
        await machine.create_job(job, user_id="ada")
        async with Publisher.from_url(redis_url) as publisher:
            await build(publisher, job)
        async with Publisher.from_url(redis_url, strict=True) as strict:
            with pytest.raises(HubError):
                await strict.emit(job, "late", {})
        assert (await machine.get_job(job)).status == "ready"
    events = await asyncio.to_thread(retained, redis_url, job)
    assert len(events) == 72
    assert events[-1]["status"] == "ready"


def test_a_publisher_outlives_its_loop(redis_url, job):
    publisher = Publisher.from_url(redis_url)
    for n in range(3):
        asyncio.run(one_event(publisher, job, n))
    assert [event["n"] for event in retained(redis_url, job)] == [0, 1, 2]


async def one_event(publisher: Publisher, job: str, n: int) -> None:
    await publisher.emit(job, "step", {"n": n})
    await publisher.aclose()


def test_a_blocking_worker(redis_url, job):
    with SyncPublisher.from_url(redis_url, strict=True) as publisher:
        with publisher.lease(job):
            publisher.stage_started(job, "code")
            publisher.emit(job, "step", {"n": 1}, once="a key of its own")
            publisher.emit(job, "step", {"n": 1}, once="a key of its own")
        publisher.failed(job, "It broke")
        with pytest.raises(HubError):
            publisher.emit(job, "late", {})
    assert [event.get("status") for event in retained(redis_url, job)][-1] == "failed"
    assert len(retained(redis_url, job)) == 3


def test_a_redis_that_is_away_is_a_clear_error(job):
    with SyncPublisher.from_url("redis://127.0.0.1:1/0", strict=True) as publisher, pytest.raises(HubError):
        publisher.emit(job, "step", {})


def test_publishing_needs_redis_and_pydantic_only(redis_url, job):
    done = bare(
        f"from hub import SyncPublisher, Publisher, JobStateMachine, HubError, EventId\n"
        f"SyncPublisher.from_url({redis_url!r}).emit({job!r}, 'step', {{'n': 1}})\n"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [event["n"] for event in retained(redis_url, job)] == [1]


@pytest.mark.parametrize(
    ("name", "extra"),
    [("watch", "client"), ("watch_sync", "client"), ("create_app", "server"), ("Settings", "server")],
)
def test_a_name_that_needs_more_says_what_to_install(name, extra):
    done = bare(f"from hub import {name}")
    assert f"pip install 'push-hub[{extra}]'" in done.stderr.splitlines()[-1]
    assert name in hub.__all__


def test_the_command_says_what_to_install():
    done = bare("from hub.__main__ import main\nmain()")
    assert done.returncode == 1
    assert "pip install 'push-hub[server]'" in done.stderr
    assert "Traceback" not in done.stderr
