"""Starts, watches and feeds each server. All get 200-byte events. Only the hub authenticates."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from compiled import built, centrifugo, floor, go, missing, rust
from rigs import INSTALLED, PEERS, PREFIX, Start, http_source, on_redis, target

from hub.bench.process import Cores, on_core
from hub.bench.result import Load
from hub.bench.rig import Rig, private_hub
from hub.bench.server import running
from hub.bench.target import Target, Transport, masked

PORTABLE = PEERS.parents[1] / "faults" / "rig" / "portable.py"
SSE, WEBSOCKET = Transport.SSE, Transport.WEBSOCKET
BOTH = (SSE, WEBSOCKET)
NGINX_MODULES = Path("/usr/lib/nginx/modules")


@dataclass(frozen=True, slots=True)
class Server:
    """One line of the table. Above `most` viewers, Redis would be the bottleneck."""

    name: str
    transports: tuple[Transport, ...]
    start: Start
    missing: Callable[[], str]
    most: int = 1 << 20
    resumes: bool = False  # it keeps events for viewers that come back


def _nothing() -> str:
    return ""


def _no_node() -> str:
    return "" if shutil.which("node") and shutil.which("npm") else "expected node and npm on the PATH"


def _no_nchan() -> str:
    found = _nginx() and (NGINX_MODULES / "ngx_nchan_module.so").exists()
    return "" if found else "expected nginx and libnginx-mod-nchan to be installed"


def _nginx() -> str | None:
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextmanager
def _hub(load: Load, transport: Transport, cores: Cores) -> Iterator[Rig]:
    with private_hub(load, transport, cores) as rig:
        yield rig


@contextmanager
def _portable(load: Load, transport: Transport, cores: Cores) -> Iterator[Rig]:
    """The hub on uvicorn's own protocol classes, as in an application that mounts it."""
    with private_hub(load, transport, cores, program=(str(PORTABLE),)) as rig:
        yield rig


def _node(script: str) -> Start:
    def start(load: Load, transport: Transport, cores: Cores) -> AbstractContextManager[Rig]:
        # the default would be enough for 20,000 sockets; this shows that node is not short of memory
        command = ["node", "--max-old-space-size=4096", str(PEERS / script)]
        return on_redis(command, {"NODE_PATH": str(_npm())}, load, transport, cores)

    return start


@contextmanager
def _socketio(load: Load, transport: Transport, cores: Cores) -> Iterator[Rig]:
    with _node("socketio.cjs")(load, transport, cores) as rig:
        plain = rig.target

        def head(index: int) -> tuple[str, str]:
            return f"/socket.io/?EIO=4&transport=websocket&job={PREFIX}-{index % load.jobs}", ""

        connect = masked(1, b"40")  # Engine.IO message, Socket.IO CONNECT
        yield Rig(Target(plain.host, plain.port, transport, head, connect, plain.pids), rig.source)


def _python(script: str) -> Start:
    def start(load: Load, transport: Transport, cores: Cores) -> AbstractContextManager[Rig]:
        environment = {"PYTHONPATH": str(_pip())} if "starlette" in script else {}
        return on_redis([sys.executable, str(PEERS / script)], environment, load, transport, cores)

    return start


@contextmanager
def _nchan(load: Load, transport: Transport, cores: Cores) -> Iterator[Rig]:
    nginx = _nginx()
    assert nginx is not None, "`missing` was called before"
    with tempfile.TemporaryDirectory(prefix="push-hub-nchan-") as directory:
        # Only `running` knows the port, so a shell writes it into the configuration.
        config = (PEERS / "nchan.conf").read_text().replace("{modules}", str(NGINX_MODULES))
        config = config.replace("{first}", "oldest" if load.behind else "newest")
        config = config.replace("{kept}", str(load.behind or 1000))
        Path(directory, "nchan.conf").write_text(config)
        write = f"sed s/{{{{port}}}}/{{port}}/ {directory}/nchan.conf > {directory}/nginx.conf"
        line = f"{write} && exec {nginx} -p {directory} -c nginx.conf -e stderr"
        with on_core(cores.server):
            server = running(["/bin/sh", "-c", line], {})
        with server as (pid, port):
            yield Rig(target(port, pid, load, transport), http_source("nchan", port, load))


SERVERS = [
    Server("hub", BOTH, _hub, _nothing, resumes=True),
    Server("hub, portable wire", BOTH, _portable, _nothing),
    Server("C, nothing but write", (SSE,), floor, missing("cc")),
    Server("nginx + nchan", BOTH, _nchan, _no_nchan, resumes=True),
    Server("Centrifugo", BOTH, centrifugo, missing("go"), resumes=True),
    Server("Go", BOTH, built(go), missing("go")),
    Server("Rust", BOTH, built(rust), missing("cargo")),
    Server("node", BOTH, _node("node_push.cjs"), _no_node),
    Server("Socket.IO", (WEBSOCKET,), _socketio, _no_node),
    Server("queue per viewer", BOTH, _python("queues.py"), _nothing),
    Server("sse-starlette", (SSE,), _python("sse_starlette_app.py"), _nothing),
    # each viewer is a Redis client: with many more, Redis on the other core would be the bottleneck
    Server("Pub/Sub per viewer", BOTH, _python("naive.py"), _nothing, most=2000),
]


def _npm() -> Path:
    """Install the node packages, once. Returns their directory."""
    modules = INSTALLED / "node_modules"
    if not (modules / "socket.io").exists():
        INSTALLED.mkdir(exist_ok=True)
        shutil.copy(PEERS / "package.json", INSTALLED)
        words = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--omit=optional"]
        subprocess.run(words, cwd=INSTALLED, check=True, stdout=subprocess.DEVNULL)
    return modules


def _pip() -> Path:
    """Install sse-starlette, once; FastAPI is the one that all use. Returns its directory."""
    packages = INSTALLED / "python"
    if not (packages / "sse_starlette").exists():
        words = ["-m", "pip", "install", "-q", "--no-deps", "--target", str(packages), "sse-starlette"]
        subprocess.run([sys.executable, *words], check=True)
    return packages


def versions() -> dict[str, str]:
    """Returns the versions of what was compared, for the foot of the table."""
    from importlib.metadata import version

    found = {
        name: version(name) for name in ("push-hub", "uvicorn", "uvloop", "fastapi", "websockets", "redis")
    }
    found["python"] = sys.version.split()[0]
    if shutil.which("node"):
        found["node"] = subprocess.run(["node", "-v"], capture_output=True, text=True).stdout.strip()
        for name in ("ws", "socket.io"):
            manifest = INSTALLED / "node_modules" / name / "package.json"
            if manifest.exists():
                found[name] = json.loads(manifest.read_text())["version"]
    if nginx := _nginx():
        found["nginx"] = (
            subprocess.run([nginx, "-v"], capture_output=True, text=True).stderr.strip().split("/")[-1]
        )
    return found
