"""What a deploy costs: `python -m tests.bench.storm` lets 10,000 viewers of 5,000 jobs come to a hub at once.

Each job has a retained log of 1,000 events, and each viewer has all but the last three. Prints the CPU of the hub
and of Redis, what Redis sent, and what the hub holds afterwards. Run it in a checkout of each version to compare.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import redis

from tests.faults.rig.process import Hub, RedisProcess
from tests.support.keys import log_of, meta_of
from tests.support.live import token

JOBS = 5_000
EACH = 2
EVENTS = 1_000
BEHIND = 3
BODY = '{"type":"step","job_id":"%s","n":%d,"fill":"' + "x" * 140 + '"}'
EPOCH = 1_732_345_000_123


def prepare(server: RedisProcess) -> None:
    """Jobs with a full log each; one is written and copied."""
    with redis.Redis(port=server.port) as client:
        with client.pipeline(transaction=False) as pipe:
            for n in range(EVENTS):
                pipe.xadd(log_of("a"), {"data": BODY % ("a", n)}, id=f"{EPOCH}-{n}")
            pipe.execute()
        for first in range(0, JOBS, 500):
            with client.pipeline(transaction=False) as pipe:
                for name in (f"job-{n}" for n in range(first, first + 500)):
                    pipe.copy(log_of("a"), log_of(name))
                    pipe.hset(f"job:{name}", mapping={"status": "code", "user_id": "ada"})
                    meta = {"epoch": EPOCH, "position": f"{EPOCH}-{EVENTS - 1}", "owner": "ada"}
                    pipe.hset(meta_of(name), mapping=meta)
                pipe.execute()


async def viewer(hub: Hub, job: str, credentials: str) -> asyncio.StreamWriter:
    """Returns once the last event is there."""
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
    writer.write(
        f"GET /api/jobs/{job}/events/stream HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {credentials}\r\n"
        f"Last-Event-ID: {EPOCH}-{EVENTS - 1 - BEHIND}\r\n\r\n".encode()
    )
    await reader.readuntil(f"id: {EPOCH}-{EVENTS - 1}\n".encode())
    return writer


def cpu_seconds(pid: int) -> float:
    """The CPU that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def storm(server: RedisProcess, hub: Hub) -> None:
    """Let them come, 100 at a time, and print what it took."""
    credentials = token()
    few = asyncio.Semaphore(100)

    async def come(job: str) -> asyncio.StreamWriter:
        async with few:
            return await viewer(hub, job, credentials)

    def sent() -> float:
        with redis.Redis(port=server.port) as client:
            return client.info("stats")["total_net_output_bytes"]

    before = cpu_seconds(hub.pid), cpu_seconds(server.pid), sent()
    began = time.monotonic()
    writers = await asyncio.gather(*(come(f"job-{n % JOBS}") for n in range(JOBS * EACH)))
    took = time.monotonic() - began
    print(
        f"{JOBS * EACH} viewers of {JOBS} jobs in {took:.1f} s: hub {cpu_seconds(hub.pid) - before[0]:.1f} s of CPU, "
        f"Redis {cpu_seconds(server.pid) - before[1]:.1f} s and {(sent() - before[2]) / 1e6:.0f} MB sent; "
        f"the hub holds {hub.metric('window_bytes') / 1e6:.1f} MB of events, RSS {hub.memory / 1e6:.0f} MB"
    )
    for writer in writers:
        writer.transport.abort()


def main() -> None:
    """Start both servers, and end them."""
    server = RedisProcess()
    try:
        prepare(server)
        hub = Hub(server.url, log_level="warning", max_viewers=20_000)
        try:
            asyncio.run(storm(server, hub))
        finally:
            hub.close()
    finally:
        server.close()


if __name__ == "__main__":
    main()
