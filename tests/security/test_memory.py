"""What the worst job costs a hub in a process of its own, as the kernel counts it."""

from __future__ import annotations

import socket
import urllib.request
from contextlib import ExitStack, closing

import pytest
import redis

from hub import SyncPublisher
from tests.faults.rig.process import Hub, wait_until
from tests.support.live import token

MEGABYTE = 1_000_000
MEMORY = 128 * MEGABYTE
"""`HUB_MEMORY` of these hubs."""


@pytest.fixture
def publisher(redis_server):
    with SyncPublisher.from_url(redis_server.url) as one:
        yield one


def worst_job(url: str, publisher: SyncPublisher, job: str, events: int) -> str:
    """A job whose retained log, window and state are full of events of a megabyte."""
    with redis.Redis.from_url(url, decode_responses=True) as client:
        client.hset(f"job:{job}", mapping={"user_id": "ada", "status": "building"})
    for n in range(events):
        publisher.emit(job, f"t{n}", {"x": "x" * MEGABYTE})
    return job


def get(hub: Hub, path: str) -> int:
    """Read an answer to its end; its size."""
    request = urllib.request.Request(hub.url + path, headers={"Authorization": f"Bearer {token()}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return len(answer.read())


def test_jobs_that_are_read_one_after_the_other_leave_nothing(redis_server, publisher):
    """300 jobs of a megabyte. The first fifty warm the allocator up."""
    with closing(Hub(redis_server.url, linger=0, memory=MEMORY, max_misses=10**6)) as hub:
        before = 0
        for n in range(350):
            job = worst_job(redis_server.url, publisher, f"job-{n}", 1)
            assert get(hub, f"/api/jobs/{job}") > MEGABYTE
            assert get(hub, f"/api/jobs/{job}/events") > MEGABYTE
            if n == 50:
                before = hub.memory
        assert hub.memory - before < 10 * MEGABYTE
        wait_until(lambda: hub.metric("held_bytes") == 0, "the last job is let go")


@pytest.mark.parametrize("wire", ["stream", "ws"])
def test_a_thousand_viewers_that_do_not_read_the_worst_job_cost_the_budget(redis_server, publisher, wire):
    """Each asks for the whole past, and takes nothing of it, while the job goes on."""
    job = worst_job(redis_server.url, publisher, "worst", 40)
    most = {"max_viewers_per_user": 60_000, "max_viewers_per_user_and_job": 2000, "max_viewers_per_job": 2000}
    upgrade = (
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: MDEyMzQ1Njc4OTAxMjM0NQ==\r\n"
    )
    head = (
        f"GET /api/jobs/{job}/events/{wire}?from=start HTTP/1.1\r\nHost: hub\r\n"
        f"Authorization: Bearer {token()}\r\n{upgrade if wire == 'ws' else ''}\r\n"
    )
    with closing(Hub(redis_server.url, memory=MEMORY, send_timeout=30, **most)) as hub, ExitStack() as stack:
        peak = [hub.memory]
        for n in range(1000):
            viewer = stack.enter_context(socket.create_connection(("127.0.0.1", hub.port)))
            viewer.sendall(head.encode())
            if n % 20 == 0:
                peak.append(hub.memory)
        for n in range(40):
            publisher.emit(job, f"live{n}", {"x": "x" * MEGABYTE})
            peak.append(hub.memory)
        assert hub.metric("viewers") > 0
        assert hub.metric("past_bytes") > 0
        stack.close()
        wait_until(lambda: hub.metric("viewers") == 0, "the viewers are gone")
        wait_until(lambda: hub.metric("past_bytes") == 0, "their past is let go")
        assert max(peak) - peak[0] < MEMORY
