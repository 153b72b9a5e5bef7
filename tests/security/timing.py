"""Can the time of an answer tell another user's job from one that does not exist?

    python -m tests.security.timing [ROUNDS]

Measures interleaved, on a hub and a Redis of its own, for each endpoint: a foreign job with a small hash, one with 200
fields and 100 KB, and an unknown one. Prints the medians, the attacker's AUC (0.5 is a guess; 1 is certain), and the
p-value of a permutation test. An absolute time says nothing here.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import time
from collections.abc import Sequence

from redis.asyncio import Redis
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from hub import JobStateMachine
from hub.demo.embedded import EmbeddedServer
from tests.live.test_cli import running, signed
from tests.support.live import token

PATHS = {
    "state": "/api/jobs/{}",
    "page": "/api/jobs/{}/events",
    "stream": "/api/jobs/{}/events/stream",
    "older stream": "/api/jobs/{}/stream",
    "socket": "/api/jobs/{}/events/ws",
}
JOBS = ("small", "large", "none")


async def main(rounds: int) -> None:
    """Print a line per endpoint and pair."""
    with EmbeddedServer() as server:
        async with Redis.from_url(server.url) as redis:
            await JobStateMachine(redis).create_job("small", user_id="eve")
            await JobStateMachine(redis).create_job("large", user_id="eve")
            await redis.hset("job:large", mapping={f"field-{n}": "x" * 500 for n in range(200)})
        env = {**signed(server.url), "HUB_MAX_MISSES": "10000000", "HUB_LOG_LEVEL": "error"}
        env["HUB_MAX_VIEWERS_PER_USER"] = "10000000"  # and of joins
        async with running("serve", "--port", "0", env=env) as command:
            url = (await command.error_line(r"listening on (http://127\.0\.0\.1:\d+)"))[1]
            for name, path in PATHS.items():
                times = await measure(url, path, rounds if name != "socket" else rounds // 4)
                for one, other in (("small", "none"), ("large", "none"), ("small", "large")):
                    report(name, one, other, times[one], times[other])


async def measure(url: str, path: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of each answer, by job, in a random order within each round."""
    times: dict[str, list[float]] = {job: [] for job in JOBS}
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    await asyncio.sleep(0.3)
    for _ in range(rounds):
        for job in random.sample(JOBS, len(JOBS)):
            where = path.format(job.ljust(5, "_") if job == "none" else job)
            await asyncio.sleep(random.uniform(0, 0.005))  # an attacker comes at any moment of a tick
            if where.endswith("/ws"):
                taken = await _handshake(url.replace("http", "ws") + where)
            else:
                taken = await _request(reader, writer, where)
            times[job].append(taken)
    writer.close()
    return times


async def _request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> float:
    began = time.perf_counter()
    writer.write(f"GET {path} HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
    head = await reader.readuntil(b'{"detail":"Job not found"}')
    assert head.startswith(b"HTTP/1.1 404"), head
    return time.perf_counter() - began


async def _handshake(url: str) -> float:
    began = time.perf_counter()
    try:
        async with connect(url, additional_headers={"Authorization": f"Bearer {TOKEN}"}):
            raise AssertionError("expected a refusal")
    except InvalidStatus:
        return time.perf_counter() - began


def auc(one: Sequence[float], other: Sequence[float]) -> float:
    """The chance that a time of `one` is longer than one of `other` (ties count half); at least a half."""
    ranked = sorted([(value, 0) for value in one] + [(value, 1) for value in other])
    rank_sum, index = 0.0, 0
    while index < len(ranked):
        end = index
        while end < len(ranked) and ranked[end][0] == ranked[index][0]:
            end += 1
        rank_sum += sum((index + 1 + end) / 2 for _, of in ranked[index:end] if of == 0)
        index = end
    area = (rank_sum - len(one) * (len(one) + 1) / 2) / (len(one) * len(other))
    return max(area, 1 - area)


def p_value(one: Sequence[float], other: Sequence[float], *, times: int = 200) -> float:
    """The share of random divisions of the same times whose AUC is as large."""
    found = auc(one, other)
    both = [*one, *other]
    larger = 0
    for _ in range(times):
        random.shuffle(both)
        larger += auc(both[: len(one)], both[len(one) :]) >= found
    return (larger + 1) / (times + 1)


def report(name: str, first: str, second: str, one: Sequence[float], other: Sequence[float]) -> None:
    """Print one pair."""
    medians = f"{statistics.median(one) * 1e6:7.0f} {statistics.median(other) * 1e6:7.0f} us"
    print(
        f"{name:13} {first:5} / {second:5} {medians}  AUC {auc(one, other):.3f}  p {p_value(one, other):.3f}"
    )


TOKEN = token()

if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000))
