"""Publishers that never break a job: loops, values, ids, reserved types, batches."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import decimal
import enum
import gc
import json
import math
import pathlib
import random
import sys
import threading
import uuid
import warnings
from typing import Literal

import pydantic
import pytest
import redis as sync_redis
import uvloop

from hub import Publisher, SyncPublisher
from hub.errors import BrokerUnavailable, HubError, InvalidEvent, JobEnded
from hub.job import catalogue
from hub.job.catalogue import TypedEvent
from hub.job.event import RESERVED
from tests.support import producers
from tests.support.keys import log_of
from tests.support.viewer import view


def bodies(server, job) -> list[dict]:
    """The events in the log of `job`."""
    with sync_redis.Redis.from_url(server.url) as client:
        return [json.loads(fields[b"data"]) for _, fields in client.xrange(log_of(str(job)))]


# --- loops


@pytest.mark.parametrize(
    "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
def test_a_publisher_of_the_module_serves_every_run(redis_server, job, new_loop):
    """Celery, RQ and Django call `asyncio.run` once per task: every second emit was lost."""
    publisher = Publisher.from_url(redis_server.url)
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # connections of a loop that is gone
        for n in range(6):
            with asyncio.Runner(loop_factory=new_loop) as runner:
                seen.append(runner.run(publisher.emit(job, "step", {"n": n})))
                runner.run(publisher.aclose())
        gc.collect()
    assert [one.seq for one in seen] == list(range(6))
    assert publisher.failures == 0
    assert [one["n"] for one in bodies(redis_server, job)] == list(range(6))


async def test_two_loops_at_once_have_connections_of_their_own(redis_server, job):
    """A publisher that is shared by threads, each with a loop."""
    publisher = Publisher.from_url(redis_server.url, strict=True)

    def work() -> None:
        async def emit() -> None:
            for _ in range(20):
                await publisher.emit(job, "step")
            await publisher.aclose()

        asyncio.run(emit())

    await publisher.emit(job, "step")
    await asyncio.gather(*(asyncio.to_thread(work) for _ in range(4)))
    await publisher.aclose()
    assert len(bodies(redis_server, job)) == 81


def test_a_blocking_publisher_is_shared_by_threads(redis_server, job):
    """Sixteen of them: every event once, and none fails."""
    with SyncPublisher.from_url(redis_server.url, strict=True) as publisher:
        threads = [
            threading.Thread(target=lambda: [publisher.emit(job, "step") for _ in range(25)])
            for _ in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(bodies(redis_server, job)) == 400


# --- values


class Color(enum.Enum):
    RED = "red"


class Model(pydantic.BaseModel):
    a: int = 1
    when: dt.date = dt.date(2026, 1, 2)


@dataclasses.dataclass
class Data:
    a: int = 1


VALUES = [
    (dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC), "2026-01-02T03:04:05Z"),
    (dt.date(2026, 1, 2), "2026-01-02"),
    (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
    (decimal.Decimal("1.50"), "1.50"),
    (Color.RED, "red"),
    (pathlib.PurePosixPath("/x/y"), "/x/y"),
    ({1}, [1]),
    ((1, 2), [1, 2]),
    (b"\x00\xff", "AP8="),
    (math.nan, None),
    (math.inf, None),
    (Model(), {"a": 1, "when": "2026-01-02"}),
    (Data(), {"a": 1}),
    ({Color.RED: 1, 2: 3}, {"red": 1, "2": 3}),
]


@pytest.mark.parametrize(("value", "expected"), VALUES, ids=[type(value).__name__ for value, _ in VALUES])
def test_values_that_json_has_not_are_converted(redis_server, job, value, expected):
    """By one documented rule; with strict they are errors."""
    with SyncPublisher.from_url(redis_server.url) as publisher:
        assert publisher.emit(job, "step", {"value": value, "list": [value]}) is not None
    (body,) = bodies(redis_server, job)
    assert (body["value"], body["list"]) == (expected, [expected])
    with SyncPublisher.from_url(redis_server.url, strict=True) as strict:
        if not isinstance(value, tuple):
            with pytest.raises(InvalidEvent):
                strict.emit(job, "step", {"value": value})


def test_numbers_of_numpy_are_numbers(redis_server, job):
    """Whatever has a plain value of its own."""

    class Float32:
        def tolist(self) -> float:
            return 0.5

    with SyncPublisher.from_url(redis_server.url) as publisher:
        publisher.emit(job, "step", {"loss": Float32()})
    assert bodies(redis_server, job)[0]["loss"] == 0.5


@pytest.mark.parametrize("fields", [Model(), Data(), {"a": 1}], ids=["model", "dataclass", "mapping"])
def test_fields_may_be_a_model_or_a_dataclass(redis_server, job, fields):
    """As well as a mapping."""
    with SyncPublisher.from_url(redis_server.url) as publisher:
        assert publisher.emit(job, "step", fields) is not None
    assert bodies(redis_server, job)[0]["a"] == 1


@pytest.mark.parametrize("made", [42_000_001, uuid.UUID(int=42_000_001)])
def test_a_jobs_id_may_be_a_number_or_a_uuid(redis_server, made):
    """As databases have them."""
    with SyncPublisher.from_url(redis_server.url) as publisher:
        assert publisher.emit(made, "step") is not None
    assert bodies(redis_server, made)[-1]["job_id"] == str(made)


def test_a_clock_that_went_back_is_no_error(redis_server, job):
    """A negative duration is 0."""
    with SyncPublisher.from_url(redis_server.url) as publisher:
        assert publisher.stage_completed(job, "code", -0.001) is not None
    assert bodies(redis_server, job)[0]["duration"] == 0


class Rude:
    """A value whose own code fails."""

    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    def __str__(self) -> str:
        raise self.error("rude")

    __repr__ = __str__

    def __iter__(self):
        raise self.error("rude")


def anything(rng: random.Random, depth: int = 0) -> object:
    """Whatever somebody may pass."""
    cycle: list = []
    cycle.append(cycle)
    values: list = [
        *(value for value, _ in VALUES),
        None,
        "\ud800",
        10**5000,
        object(),
        type,
        len,
        cycle,
        complex(1, 2),
        float("-inf"),
        (one for one in [1]),
        *(Rude(error) for error in (TypeError, AttributeError, KeyError, RuntimeError, ValueError)),
        b"x" * 100,
        {object(): 1},
        {None: 2},
        {"id": 1},
    ]
    if depth < 3:
        values += [[anything(rng, depth + 1)], {"a": anything(rng, depth + 1)}]
    return rng.choice(values)


def test_nothing_that_is_emitted_breaks_a_job(redis_server, job):
    """An event goes out or InvalidEvent is raised; no TypeError, AttributeError, KeyError, RuntimeError of anybody's."""
    rng = random.Random(7)
    kinds = [*["step"] * 20, "build.stage.completed", "build.stage.started", "", 5, None, *RESERVED]
    with SyncPublisher.from_url(redis_server.url) as publisher:
        out = 0
        for _ in range(1500):
            fields = rng.choice([anything(rng), {"a": anything(rng), "stage": anything(rng)}])
            try:
                event_id = publisher.emit(
                    rng.choice([job, job, job, job, 5, None, [], "a b"]), rng.choice(kinds), fields
                )
            except InvalidEvent:
                continue
            out += event_id is not None
        assert publisher.failures == 0
    assert out > 100
    for one in bodies(redis_server, job):
        json.dumps(one, allow_nan=False)


# --- reserved types


@pytest.mark.parametrize("kind", sorted(RESERVED))
async def test_a_control_frames_name_is_no_events_type(start_hub, real_redis, job, transport, kind):
    """The publisher refuses it; from a bare one it never ends, resynchronises or confuses anything."""
    async with start_hub() as live:
        await live.jobs.create_job(job, user_id="ada")
        with pytest.raises(InvalidEvent):
            await live.publisher.emit(job, kind)
        async with view(live, transport, job) as viewer:
            await producers.shout(real_redis, job, {"type": kind, "status": "x"})
            await live.publisher.emit(job, "step")
            first, second = await viewer.take(2)
            assert second.name == "step"
            if transport == "websocket":
                assert json.loads(first.text) == {
                    "type": "raw",
                    "data": json.dumps({"type": kind, "status": "x"}),
                }
            else:
                assert not first.control
                assert first.fields["type"] == kind


# --- batches, and who listens


async def test_a_batch_is_one_step_with_contiguous_ids(start_hub, job, transport):
    """All or none; a terminal one is the last."""
    async with start_hub() as live:
        await live.jobs.create_job(job, user_id="ada")
        async with view(live, transport, job) as viewer:
            ids = await live.publisher.emit_many(job, [("step", {"n": n}) for n in range(50)], once="key")
            assert [one.seq for one in ids] == list(range(50))
            assert producers.numbers(await viewer.take(50)) == list(range(50))
            again = await live.publisher.emit_many(job, [("step", {"n": n}) for n in range(50)], once="key")
            assert again == ids
            with pytest.raises(InvalidEvent):
                await live.publisher.emit_many(job, [("end it", {"status": "ready"}), ("step", {})])
            with pytest.raises(InvalidEvent):
                await live.publisher.emit_many(job, [("step", {}), ("end", {})])
            await live.publisher.emit_many(job, [("step", {"n": 50}), ("step", {"n": 51, "status": "ready"})])
            assert producers.numbers(await viewer.all()) == [50, 51]
        with pytest.raises(JobEnded):
            await live.publisher.emit_many(job, [("step", {})])


async def test_a_worker_that_emits_a_token_at_a_time_publishes_batches(real_redis, job):
    """In order, all of them, and the last ones at the end of the block."""
    publisher = Publisher(real_redis, strict=True)
    calls = (await real_redis.info("commandstats")).get("cmdstat_evalsha", {}).get("calls", 0)
    async with publisher.batch(job, every=0.01, size=50) as batch:
        for n in range(500):
            batch.add("token", {"n": n})
            if n % 100 == 99:
                await asyncio.sleep(0.02)
    assert batch.dropped == 0
    rows = await real_redis.xrange(log_of(job))
    assert [json.loads(fields[b"data"])["n"] for _, fields in rows] == list(range(500))
    assert (await real_redis.info("commandstats"))["cmdstat_evalsha"]["calls"] - calls < 40


async def test_a_batch_without_redis_breaks_nothing(job):
    """The block runs, and what could not be published is counted."""
    async with Publisher.from_url("redis://127.0.0.1:1/0") as publisher:
        async with publisher.batch(job, every=0.001) as batch:
            for n in range(10):
                batch.add("token", {"n": n})
        assert publisher.failures >= 1
    with pytest.raises(BrokerUnavailable):
        async with (
            Publisher.from_url("redis://127.0.0.1:1/0", strict=True) as strict,
            strict.batch(job) as batch,
        ):
            batch.add("token")


async def test_a_worker_may_ask_whether_anybody_watches(start_hub, job):
    """So that it can leave out a costly snapshot."""
    async with start_hub(linger=0) as live:
        await live.jobs.create_job(job, user_id="ada")
        assert await live.publisher.watched(job) == 0
        async with view(live, "sse", job) as viewer:
            assert viewer.status == 200
            assert await live.publisher.watched(job) == 1
        await live.until(lambda: not live.hub.statistics().jobs)


# --- typed events of one's own


class Progress(TypedEvent):
    """How far the rendering is."""

    type: Literal["render.progress"] = "render.progress"
    done: int = pydantic.Field(ge=0)
    of: int


async def test_an_application_has_typed_events_of_its_own(start_hub, job, transport, monkeypatch):
    """Checked in the worker, and untouched on their way."""
    monkeypatch.setattr(catalogue, "CATALOGUE", dict(catalogue.CATALOGUE))
    catalogue.register(Progress)
    async with start_hub() as live:
        await live.jobs.create_job(job, user_id="ada")
        async with view(live, transport, job) as viewer:
            await live.publisher.emit(job, Progress(done=3, of=10))
            (seen,) = await viewer.take(1)
            assert (seen.name, seen.fields["done"], seen.fields["of"]) == ("render.progress", 3, 10)
        with pytest.raises(InvalidEvent, match=r"render\.progress: done"):
            await live.publisher.emit(job, "render.progress", {"done": -1, "of": 10})


def test_a_type_that_is_taken_is_refused():
    """A control frame's, the catalogue's, or none at all."""
    for taken in (*sorted(RESERVED), "build.stage.started", ""):
        made = pydantic.create_model("Made", __base__=TypedEvent, type=(str, taken))
        with pytest.raises(HubError):
            catalogue.register(made)


async def test_text_of_the_command_line_stays_text_where_the_type_says_so(redis_server, job):
    """`stage=1` is a stage called 1; `n=1` of a type of one's own is a number."""
    for kind, fields in (("build.stage.started", ["stage=1"]), ("step", ["n=1", "words=one"])):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "hub", "publish", job, kind, *fields, "--redis-url", redis_server.url,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, errors = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 0, errors
    started, step = bodies(redis_server, job)
    assert (started["stage"], step["n"], step["words"]) == ("1", 1, "one")
