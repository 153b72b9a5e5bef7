"""What publishing costs: `python -m tests.bench.publish`, and a part of run.py. Events per second of one process on one connection, with
Redis on another core, beside the floor: the same script by EVALSHA on a plain socket, one after the other."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator

from hub import JobStateMachine, Publisher, SyncPublisher
from hub.broker.script import SCRIPT, Publication
from hub.demo.embedded import EmbeddedServer
from hub.job.event import JobId, dumps

FIELDS = {"stage": "code", "narration": "x" * 120}
SECONDS = 1.5
ROUNDS = 3


@contextlib.contextmanager
def on_cores() -> Iterator[EmbeddedServer]:
    """A Redis on the first core, and this process on the last."""
    all_cores = os.sched_getaffinity(0)
    cores = sorted(all_cores)
    os.sched_setaffinity(0, {cores[0]})
    try:
        with EmbeddedServer() as server:
            os.sched_setaffinity(0, {cores[-1]})
            yield server
    finally:
        os.sched_setaffinity(0, all_cores)


def floor(server: EmbeddedServer) -> int:
    """EVALSHA by hand: no checks, no retries, no answer that is read further than its end"""
    prepare = Publication().prepare
    body = dumps({"type": "build.stage.started", **FIELDS, "job_id": "floor"})
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(_packed("SCRIPT", "LOAD", SCRIPT))
        sock.recv(65536)
        sha = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()
        count, end = 0, time.perf_counter() + SECONDS
        while time.perf_counter() < end:
            keys, args = prepare(JobId("floor"), [(body, "code")], once=uuid.uuid4().hex)
            sock.sendall(_packed("EVALSHA", sha, str(len(keys)), *keys, *map(str, args)))
            assert sock.recv(65536)[:1] == b"*", "the script answers with a list"
            count += 1
    return int(count / SECONDS)


def _packed(*words: str) -> bytes:
    parts = [f"*{len(words)}\r\n".encode()]
    for word in words:
        data = word.encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


def blocking(server: EmbeddedServer) -> int:
    """`SyncPublisher.emit`"""
    with SyncPublisher.from_url(server.url, strict=True) as publisher:
        return _count(lambda: publisher.emit("job", "build.stage.started", FIELDS))


def blocking_many(server: EmbeddedServer) -> int:
    """`SyncPublisher.emit_many` of 100"""
    events = [("build.stage.started", FIELDS)] * 100
    with SyncPublisher.from_url(server.url, strict=True) as publisher:
        return 100 * _count(lambda: publisher.emit_many("job", events))


def one(server: EmbeddedServer) -> int:
    """`await Publisher.emit`"""
    return asyncio.run(_async(server, at_once=1))


def many(server: EmbeddedServer) -> int:
    """`await Publisher.emit_many` of 100"""
    return asyncio.run(_async(server, at_once=1, number=100))


def crowd(server: EmbeddedServer) -> int:
    """`Publisher.emit` of 64 tasks at once"""
    return asyncio.run(_async(server, at_once=64))


async def _async(server: EmbeddedServer, *, at_once: int, number: int = 1) -> int:
    count, end = 0, time.perf_counter() + SECONDS
    events = [("build.stage.started", FIELDS)] * number

    async def work(publisher: Publisher, job: str) -> None:
        nonlocal count
        while time.perf_counter() < end:
            if number == 1:
                await publisher.emit(job, "build.stage.started", FIELDS)
            else:
                await publisher.emit_many(job, events)
            count += number

    async with Publisher.from_url(server.url, strict=True) as publisher:
        await asyncio.gather(*(work(publisher, f"job-{n}") for n in range(at_once)))
    return int(count / SECONDS)


def _count(act: Callable[[], object]) -> int:
    count, end = 0, time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        act()
        count += 1
    return int(count / SECONDS)


async def _jobs(server: EmbeddedServer) -> None:
    async with JobStateMachine.from_url(server.url) as jobs:
        for name in ("floor", "job", *(f"job-{n}" for n in range(64))):
            await jobs.create_job(name, user_id="ada")


WAYS = (floor, blocking, one, crowd, blocking_many, many)


def rates(rounds: int = ROUNDS) -> list[dict]:
    """The best of some rounds of each way, interleaved: its name, events per second, and a description."""
    with on_cores() as server:
        asyncio.run(_jobs(server))
        best = dict.fromkeys(WAYS, 0)
        for _ in range(rounds):
            for way in WAYS:
                best[way] = max(best[way], way(server))
    return [{"way": way.__name__, "rate": rate, "what": way.__doc__} for way, rate in best.items()]


def markdown(rows: list[dict]) -> str:
    """The table."""
    least = rows[0]["rate"]
    lines = ["| | events/s | x floor |", "| --- | --- | --- |"]
    lines += [f"| {row['what']} | {row['rate']:,} | {row['rate'] / least:.2f} |" for row in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown(rates()))
