"""Starts a peer that subscribes to Redis, with its producer. All get 200-byte events."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from hub.bench.process import Cores, on_core
from hub.bench.result import Load
from hub.bench.rig import Rig
from hub.bench.server import running
from hub.bench.source import Source, redis_source
from hub.bench.target import Target, Transport
from hub.demo.embedded import EmbeddedServer

PEERS = Path(__file__).parent / "peers"
PREFIX = "bench"

INSTALLED = Path(tempfile.gettempdir()) / "push-hub-bench"
"""Where npm, pip, go and cargo install what only peers need: outside the repository, kept for the next run.
"""

Start = Callable[[Load, Transport, Cores], AbstractContextManager[Rig]]


@contextmanager
def on_redis(
    command: Sequence[str], environment: Mapping[str, str], load: Load, transport: Transport, cores: Cores
) -> Iterator[Rig]:
    """Start a peer that subscribes to Redis: `command`, followed by port and URL."""
    with on_core(cores.client):
        redis = EmbeddedServer()
    with redis:
        with on_core(cores.server):
            server = running([*command, "{port}", redis.url], environment)
        with server as (pid, port):
            source = redis_source(
                redis.url, prefix=PREFIX, jobs=load.jobs, size=load.size, template="job:{id}", bare=True
            )
            yield Rig(target(port, pid, load, transport), source)


def target(port: int, pid: int, load: Load, transport: Transport) -> Target:
    """A peer whose viewers need nothing but a path."""
    root = "sse" if transport is Transport.SSE else "ws"
    return Target(
        "127.0.0.1", port, transport, lambda index: (f"/{root}/{PREFIX}-{index % load.jobs}", ""), pids=(pid,)
    )


def http_source(server: str, port: int, load: Load) -> Source:
    """A producer that posts to `server`, one of peers/http_source.py."""
    words = [str(PEERS / "http_source.py"), server, str(port), PREFIX, str(load.jobs), str(load.size)]
    return Source([sys.executable, *words])
