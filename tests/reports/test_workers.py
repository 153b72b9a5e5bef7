"""The blocking publisher where workers live: forked after use, under gevent, behind Sentinels."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest
import redis

from hub import SyncPublisher
from hub.demo.embedded import find_binary
from tests.faults.rig.process import free_port
from tests.reports.test_publishers import bodies
from tests.support.browser import ROOT

GEVENT = """
from gevent import monkey
monkey.patch_all()
import os
import gevent
from hub import SyncPublisher

with SyncPublisher.from_url(os.environ["URL"], strict=True) as publisher:
    def work(number):
        with publisher.lease(f"{os.environ['JOB']}-{number}", ttl=8):
            for step in range(10):
                publisher.emit(os.environ["JOB"], "step", {"greenlet": number, "step": step})

    tasks = [gevent.spawn(work, number) for number in range(20)]
    gevent.joinall(tasks, raise_error=True)
"""


def test_a_publisher_that_was_used_before_the_fork_serves_parent_and_children(redis_server, job):
    """Celery's prefork: a connection must not be shared by two processes."""
    with SyncPublisher.from_url(redis_server.url, strict=True) as publisher:
        publisher.emit(job, "step", {"from": "parent"})
        children = []
        for child in range(4):
            if (pid := os.fork()) == 0:
                try:
                    for step in range(25):
                        publisher.emit(job, "step", {"from": child, "step": step})
                finally:
                    os._exit(0)
            children.append(pid)
        for step in range(25):
            publisher.emit(job, "step", {"from": "parent", "step": step})
        assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    events = bodies(redis_server, job)
    assert len(events) == 126
    for child in (*range(4), "parent"):
        steps = [event["step"] for event in events if event["from"] == child and "step" in event]
        assert steps == list(range(25))


def test_greenlets_share_a_publisher(redis_server, job):
    """`gevent.monkey.patch_all()`, twenty greenlets, each with a lease."""
    with redis.Redis.from_url(redis_server.url) as client:
        for name in (job, *(f"{job}-{number}" for number in range(20))):
            client.hset(f"job:{name}", "user_id", "ada")
    environment = os.environ | {"URL": redis_server.url, "JOB": job}
    run = [sys.executable, "-c", GEVENT]
    result = subprocess.run(
        run, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    events = bodies(redis_server, job)
    assert len(events) == 200
    for number in range(20):
        assert [event["step"] for event in events if event["greenlet"] == number] == list(range(10))


@pytest.fixture
def sentinel_url(redis_server, tmp_path):
    """A Sentinel that knows the server as `main`."""
    port = free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(f"port {port}\nsentinel monitor main 127.0.0.1 {redis_server.port} 1\n")
    command = [find_binary(), str(config), "--sentinel"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if "+monitor" in line:
            break
    yield f"redis+sentinel://127.0.0.1:{port}/main/0"
    process.terminate()
    process.communicate()


def test_closing_leaves_no_connection(sentinel_url, job):
    """Neither to the server nor to the Sentinels, which were left open until the process ended."""
    us = psutil.Process()
    before = {one.laddr.port for one in us.net_connections("tcp")}
    publisher = SyncPublisher.from_url(sentinel_url, strict=True)
    publisher.emit(job, "step")
    assert {one.laddr.port for one in us.net_connections("tcp")} > before
    publisher.close()
    assert {one.laddr.port for one in us.net_connections("tcp")} <= before
