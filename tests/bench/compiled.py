"""Peers that are compiled: a floor in C, broadcasters in Go and Rust as an engineer would write them, and
Centrifugo. Each is built once, outside the repository.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from urllib.parse import quote

import jwt
from rigs import INSTALLED, PEERS, PREFIX, Start, http_source, on_redis

from hub.bench.process import Cores, on_core
from hub.bench.result import Load
from hub.bench.rig import LIFETIME, Rig
from hub.bench.server import running
from hub.bench.target import Target, Transport

CENTRIFUGO = "github.com/centrifugal/centrifugo/v6@v6.9.1"

_KEY = "a secret of the benchmark, which nobody else needs"


def missing(tool: str) -> Callable[[], str]:
    """What to say where `tool` is not there, or ""."""
    return lambda: "" if shutil.which(tool) else f"expected {tool} on the PATH"


@contextmanager
def floor(load: Load, transport: Transport, cores: Cores) -> Iterator[Rig]:
    """Compiled for each run, in a moment."""
    with tempfile.TemporaryDirectory(prefix="push-hub-floor-") as directory:
        program = f"{directory}/floor"
        subprocess.run(["cc", "-O2", "-o", program, str(PEERS / "floor.c")], check=True)
        with on_redis([program], {}, load, transport, cores) as rig:
            yield rig


def built(program: Callable[[], Path]) -> Start:
    """A peer on Redis that is one program."""

    def start(load: Load, transport: Transport, cores: Cores) -> AbstractContextManager[Rig]:
        return on_redis([str(program())], {}, load, transport, cores)

    return start


def go() -> Path:
    """Build peers/go. Returns the program."""
    found = _copied("go") / "peer"
    subprocess.run(["go", "build", "-o", str(found), "."], cwd=found.parent, check=True)
    return found


def rust() -> Path:
    """Build peers/rust. Returns the program."""
    place = _copied("rust")
    subprocess.run(["cargo", "build", "-q", "--release", "--locked"], cwd=place, check=True)
    return place / "target" / "release" / "peer"


def _copied(peer: str) -> Path:
    place = INSTALLED / peer
    shutil.copytree(PEERS / peer, place, dirs_exist_ok=True)
    return place


@contextmanager
def centrifugo(load: Load, transport: Transport, cores: Cores) -> Iterator[Rig]:
    """Its memory engine, with history; the job is in the viewer's token, as its unidirectional transports
    want it."""
    program = _centrifugo()
    with tempfile.TemporaryDirectory(prefix="push-hub-centrifugo-") as directory:
        config = Path(directory, "config.json")
        config.write_text(json.dumps(_CONFIG))
        with on_core(cores.server):
            server = running([str(program), "-c", str(config), "--http_server.port", "{port}"], {})
        with server as (pid, port):
            root = "uni_sse" if transport is Transport.SSE else "uni_websocket"

            def head(index: int) -> tuple[str, str]:
                job = f"{PREFIX}-{index % load.jobs}"
                subs = {job: {"recover": True, "epoch": "", "offset": 1}} if load.behind else {}
                connect = quote(json.dumps({"token": _token(job, index), "subs": subs}))
                return f"/connection/{root}?cf_connect={connect}", ""

            yield Rig(
                Target("127.0.0.1", port, transport, head, pids=(pid,)), http_source("centrifugo", port, load)
            )


_CONFIG = {
    "http_server": {"address": "127.0.0.1"},
    "http_api": {"insecure": True},
    "client": {
        "token": {"hmac_secret_key": _KEY},
        "allowed_origins": ["*"],
        "connection_limit": 0,
        "user_connection_limit": 0,
    },
    "channel": {
        "without_namespace": {
            "history_size": 1000,
            "history_ttl": "10m",
            "allow_recovery": True,
            "force_recovery": True,
        }
    },
    "uni_sse": {"enabled": True},
    "uni_websocket": {"enabled": True},
    "usage_stats": {"disabled": True},
    "log": {"level": "error"},
}


def _token(channel: str, index: int) -> str:
    claims = {
        "sub": "bench",
        "exp": int(time.time()) + LIFETIME,
        "jti": str(index),
        "subs": {channel: {}},
    }
    return jwt.encode(claims, _KEY, "HS256")


def _centrifugo() -> Path:
    """Build it, once; a minute or two."""
    if not (INSTALLED / "centrifugo").exists():
        INSTALLED.mkdir(exist_ok=True)
        subprocess.run(["env", f"GOBIN={INSTALLED}", "go", "install", CENTRIFUGO], check=True)
    return INSTALLED / "centrifugo"
