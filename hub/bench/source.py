"""The producer of a benchmark: a separate process, so that its CPU is neither the server's nor the viewers'.

It reads orders (`rate` and `duration`, one JSON object per line) on stdin and answers each with what it
published. Events are evenly spaced. If the producer falls behind, it sends all that is due in one pipeline,
so the rate holds as long as Redis can take it. `python -m hub.bench` publishes to Redis; for a server that
takes events another way, tests/bench calls `obey` with its own `send`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from hub.bench.viewers import FILLER, MARK
from hub.broker.connect import single_sync
from hub.broker.script import SCRIPT, Publication
from hub.errors import BrokerUnavailable
from hub.job.event import JobId

Send = Callable[[list[tuple[int, str]]], None]
"""Publishes pairs of job number and event body in order; returns when the server has accepted them."""

AT_ONCE = 500
"""Most events per pipeline: 100 KB of small ones, which take Redis some milliseconds."""

_HEAD = '{"type":"bench.tick","' + MARK.decode()
_TAIL = ',"pad":""}'
SMALLEST = len(_HEAD) + 16 + len(_TAIL)
"""Bytes of the smallest event: the one without padding."""


@dataclass(frozen=True, slots=True)
class Published:
    """`events` in `elapsed` seconds; event `i` went to job `i % jobs`."""

    events: int
    elapsed: float


def body(size: int) -> str:
    """Returns an event of `size` bytes that carries the current time."""
    return f'{_HEAD}{time.time_ns() // 1000},"pad":"{FILLER * (size - SMALLEST)}"}}'


def obey(send: Send, *, jobs: int, size: int) -> None:
    """Publish for each order on stdin and answer it on stdout, until stdin ends."""
    for line in sys.stdin:
        order = json.loads(line)
        done = publish(send, jobs=jobs, size=size, rate=order["rate"], duration=order["duration"])
        sys.stdout.write(json.dumps(asdict(done)) + "\n")
        sys.stdout.flush()  # the process that gave the order waits for this line


def publish(send: Send, *, jobs: int, size: int, rate: float, duration: float) -> Published:
    """Publish for `duration` seconds, `rate` events per second over all jobs."""
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
    """Returns a `Send` that publishes as `Publisher` does: numbered and retained."""
    client = single_sync(url)
    sha = client.script_load(SCRIPT)

    def send(batch: list[tuple[int, str]]) -> None:
        pipeline = client.pipeline(transaction=False)
        for number, event in batch:
            keys, args = publication.prepare(JobId(names[number]), [(event, "")], once=None)
            pipeline.evalsha(sha, len(keys), *keys, *map(str, args))
        pipeline.execute()

    return send


def through_channel(url: str, names: Sequence[str], publication: Publication) -> Send:
    """Returns a `Send` that publishes as a foreign producer does: a bare PUBLISH."""
    client = single_sync(url)
    channels = [publication.keys.events(JobId(name)) for name in names]

    def send(batch: list[tuple[int, str]]) -> None:
        pipeline = client.pipeline(transaction=False)
        for number, event in batch:
            pipeline.publish(channels[number], event)
        pipeline.execute()

    return send


class Source:
    """The producer's process, controlled by the benchmark. An async context manager."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Source:
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None, "`__aenter__` ran before"
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def publish(self, *, rate: float, duration: float) -> Published:
        """Order events and wait until they are published. Raises BrokerUnavailable if the process ends."""
        process = self._process
        assert process is not None, "`publish` is called inside `async with`"
        assert process.stdin is not None, "`__aenter__` asked for a pipe"
        assert process.stdout is not None, "`__aenter__` asked for a pipe"
        process.stdin.write(json.dumps({"rate": rate, "duration": duration}).encode() + b"\n")
        # Needs no timeout: that of the producer's Redis client ends the process, which ends this read.
        answer = await process.stdout.readline()
        if not answer:
            raise BrokerUnavailable("expected the producer to publish, but it ended; its stderr says why")
        return Published(**json.loads(answer))


def redis_source(url: str, *, prefix: str, jobs: int, size: int, template: str, bare: bool) -> Source:
    """Returns a producer on Redis for jobs `prefix-0` to `prefix-<jobs - 1>`. `bare`: only by PUBLISH."""
    words = ["--prefix", prefix, "--jobs", str(jobs), "--size", str(size), "--template", template]
    # A new interpreter and not a fork: a child must not inherit this process's event loop and progress bar.
    return Source([sys.executable, "-m", "hub.bench", url, *words, *(["--bare"] if bare else [])])
