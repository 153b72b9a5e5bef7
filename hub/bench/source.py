"""The producer of a benchmark: a process of its own, so that its work is neither the server's nor the viewers'.

It reads orders (`rate`, `duration`; one JSON object a line) on stdin and answers each with what it has published. Events
go out evenly spaced; who falls behind sends all that is due in one pipeline, so the rate holds while Redis can.
`python -m hub.bench` publishes to Redis; a server that takes events another way (tests/bench) brings its own `send`
and calls `obey`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from hub.bench.viewers import FILLER, MARK
from hub.broker.connect import for_publishing_sync
from hub.broker.script import SCRIPT, Publication
from hub.errors import BrokerUnavailable
from hub.job.event import JobId

Send = Callable[[list[tuple[int, str]]], None]
"""Publishes (number of the job, body) in order, and returns when the server has them."""

AT_ONCE = 500
"""Events per pipeline: 100 KB of small ones, some milliseconds of Redis."""

_HEAD = '{"type":"bench.tick","' + MARK.decode()
_TAIL = ',"pad":""}'
SMALLEST = len(_HEAD) + 16 + len(_TAIL)
"""Bytes of the smallest event we can make."""


@dataclass(frozen=True, slots=True)
class Published:
    """`events` in `elapsed` seconds; event `i` went to job `i % jobs`."""

    events: int
    elapsed: float


def body(size: int) -> str:
    """An event of `size` bytes, sent now."""
    return f'{_HEAD}{time.time_ns() // 1000},"pad":"{FILLER * (size - SMALLEST)}"}}'


def obey(send: Send, *, jobs: int, size: int) -> None:
    """Do what stdin says, until it ends."""
    for line in sys.stdin:
        order = json.loads(line)
        done = publish(send, jobs=jobs, size=size, rate=order["rate"], duration=order["duration"])
        print(json.dumps(asdict(done)), flush=True)


def publish(send: Send, *, jobs: int, size: int, rate: float, duration: float) -> Published:
    """Publish for `duration` seconds, `rate` events a second over all jobs."""
    start = time.monotonic()
    total = max(1, round(rate * duration))
    sent = 0
    while sent < total:
        due = min(total, int((time.monotonic() - start) * rate) + 1, sent + AT_ONCE)
        if due > sent:
            send([(number % jobs, body(size)) for number in range(sent, due)])
            sent = due
        else:
            time.sleep(max(0.0, start + sent / rate - time.monotonic()))
    return Published(total, time.monotonic() - start)


def through_script(url: str, names: Sequence[str], publication: Publication) -> Send:
    """Publish as the hub's own publisher does: numbered and retained."""
    client = for_publishing_sync(url)
    sha = client.script_load(SCRIPT)

    def send(batch: list[tuple[int, str]]) -> None:
        pipeline = client.pipeline(transaction=False)
        for number, event in batch:
            keys, args = publication.prepare(JobId(names[number]), [(event, "")], once=None)
            pipeline.evalsha(sha, len(keys), *keys, *map(str, args))
        pipeline.execute()

    return send


def through_channel(url: str, names: Sequence[str], publication: Publication) -> Send:
    """Publish as a foreign producer does: a bare PUBLISH."""
    client = for_publishing_sync(url)
    channels = [publication.keys.events(JobId(name)) for name in names]

    def send(batch: list[tuple[int, str]]) -> None:
        pipeline = client.pipeline(transaction=False)
        for number, event in batch:
            pipeline.publish(channels[number], event)
        pipeline.execute()

    return send


class Source:
    """The producer's process, as the benchmark sees it. An async context manager."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Source:
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None, "entered before"
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def publish(self, *, rate: float, duration: float) -> Published:
        """Order it and wait until it is done. Raises BrokerUnavailable when it ended instead; why is on its stderr."""
        process = self._process
        assert process is not None, "inside `async with`"
        assert process.stdin is not None, "we asked for a pipe"
        assert process.stdout is not None, "we asked for a pipe"
        process.stdin.write(json.dumps({"rate": rate, "duration": duration}).encode() + b"\n")
        # No timeout: the producer's Redis client has its own, and ends the process, which ends the line.
        answer = await process.stdout.readline()
        if not answer:
            raise BrokerUnavailable("expected the producer to publish, got its end")
        return Published(**json.loads(answer))


def redis_source(url: str, *, prefix: str, jobs: int, size: int, template: str, bare: bool) -> Source:
    """A producer on Redis for jobs `prefix-0` to `prefix-<jobs - 1>`; `bare`: PUBLISH only."""
    words = ["--prefix", prefix, "--jobs", str(jobs), "--size", str(size), "--template", template]
    # -m and not a fork: this process runs an event loop and a progress bar, which no child should inherit.
    return Source([sys.executable, "-m", "hub.bench", url, *words, *(["--bare"] if bare else [])])
