"""Real processes that a test can freeze, thaw, kill and restart: Redis, Sentinels and hubs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.request import Request, urlopen

import redis

from hub.demo.embedded import find_binary
from tests.support.live import ADMIN, SECRET, token

ROOT = Path(__file__).parents[3]


class Process:
    """A child process in a directory of its own. Its output is kept in a file."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self.command = list(command)
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
        self.directory = tempfile.TemporaryDirectory(prefix="push-hub-faults-")
        self.output = Path(self.directory.name, "output")
        self.child: subprocess.Popen[bytes] | None = None
        self.frozen = False
        self.start()

    @property
    def pid(self) -> int:
        assert self.child is not None, "started"
        return self.child.pid

    @property
    def running(self) -> bool:
        return self.child is not None and self.child.poll() is None

    @property
    def said(self) -> str:
        """Everything it has printed, over all restarts."""
        return self.output.read_text(errors="replace")

    def start(self) -> None:
        with self.output.open("ab") as out:
            self.child = subprocess.Popen(
                self.command,
                cwd=self.directory.name,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def signal(self, number: int) -> None:
        if self.running:
            os.kill(self.pid, number)

    def freeze(self) -> None:
        self.frozen = True
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.frozen = False
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it, also if it is frozen."""
        self.signal(signal.SIGKILL)
        assert self.child is not None, "started"
        self.child.wait()

    def terminate(self) -> None:
        self.signal(signal.SIGTERM)

    async def wait(self, timeout: float) -> int:
        """Wait until it ends by itself. Returns its exit code."""
        assert self.child is not None, "started"
        return await asyncio.wait_for(asyncio.to_thread(self.child.wait), timeout)

    def close(self) -> None:
        self.kill()
        self.directory.cleanup()


class RedisProcess(Process):
    """A redis-server (or a replica, or a Sentinel) whose port stays the same over restarts.

    `durable`: its data survives `kill` (appendonly, each write is synced to disk).
    """

    def __init__(
        self, *options: str, port: int | None = None, durable: bool = False, binary: str | None = None
    ) -> None:
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        keep = ["--appendonly", "yes", "--appendfsync", "always"] if durable else ["--appendonly", "no"]
        place = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        super().__init__([binary or find_binary(), *place, *keep, *options])

    def start(self) -> None:
        super().start()
        try:
            wait_until(self.answers, "Redis answers")
        except AssertionError as error:
            error.add_note(self.said[-2000:])
            self.close()
            raise

    def answers(self) -> bool:
        try:
            return bool(self.command_now("PING"))
        except redis.RedisError:
            return False

    def command_now(self, *words: str | int) -> object:
        """Run one command on a connection of its own."""
        with redis.Redis(port=self.port, socket_timeout=5, socket_connect_timeout=1) as client:
            return client.execute_command(*words)


class Hub(Process):
    """`push-hub serve`, whose port stays the same over restarts. `portable`: on uvicorn's own protocol
    classes.

    `program` is a module to run instead. `prefix` is a command that must replace itself (exec) by the hub.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        port: int | None = None,
        portable: bool = False,
        workers: int = 1,
        program: str = "",
        prefix: Sequence[str] = (),
        host: str = "",
        **settings: object,
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        settings = {"jwt_secret": SECRET, "log_level": "info", "max_viewers_per_user": 100_000} | settings
        settings = {"max_viewers_per_user_and_job": 100_000, "redis_url": redis_url} | settings
        settings = {"admin_port": 0, "admin_token": ADMIN, **settings}
        environment = {f"HUB_{name.upper()}": str(value) for name, value in settings.items()}
        module = program or ("tests.faults.rig.portable" if portable else "hub")
        more = ["--workers", str(workers)] if workers > 1 else []
        more += ["--host", host] if host else []
        serve = [sys.executable, "-m", module, "serve", "--port", str(self.port), *more]
        super().__init__([*prefix, *serve], environment)

    def start(self) -> None:
        super().start()
        wait_until(lambda: self.get("/healthz")[0] == 200, "the hub answers")

    def get(self, path: str, *, timeout: float = 5) -> tuple[int, str]:
        """Returns status and body of a GET. The status is 0 if nothing answers."""
        try:
            request = Request(self.url + path, headers={"Authorization": f"Bearer {ADMIN}"})
            with urlopen(request, timeout=timeout) as answer:
                return answer.status, answer.read().decode()
        except OSError as error:
            return getattr(error, "code", 0), ""

    @property
    def ready(self) -> bool:
        return self.get("/readyz")[0] == 200

    def viewers(self, job: str) -> int | None:
        """Returns how many viewers the job has over all hubs."""
        request = Request(f"{self.url}/api/jobs/{job}", headers={"Authorization": f"Bearer {token()}"})
        with urlopen(request, timeout=5) as answer:
            return json.load(answer)["viewers"]

    def metric(self, name: str) -> float:
        """Returns the value of a metric, named without `hub_`."""
        found = re.search(rf"^hub_{name} (\S+)$", self.get("/metrics")[1], re.MULTILINE)
        assert found is not None, f"expected a metric hub_{name}"
        return float(found[1])

    @property
    def files(self) -> int:
        """The number of its open file descriptors."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    @property
    def main_thread_seconds(self) -> float:
        """CPU seconds that its event loop has had."""
        return int(Path(f"/proc/{self.pid}/task/{self.pid}/schedstat").read_text().split()[0]) / 1e9

    @property
    def memory(self) -> int:
        """Its resident memory in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None, "Linux reports it"
        return int(found[1]) * 1024


def free_port() -> int:
    """Returns a port that nobody listens on.

    It is below those that the kernel gives to clients, and of this pytest process alone: whoever asked the
    kernel for a free one would find it taken by the time that a server listens there.
    """
    while True:
        port = next(_ports)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


def _own_ports() -> Iterator[int]:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    first, place = 10_000 + worker % 4 * 5_000, os.getpid()
    while True:
        place += 1
        yield first + place % 5_000


_ports = _own_ports()


def wait_until(condition, what: str, *, timeout: float = 20) -> None:
    """Return when `condition()` is true."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, json.JSONDecodeError):
            if condition():
                return
        time.sleep(0.02)
    raise AssertionError(f"expected that {what} within {timeout} s")


async def until(condition, what: str, *, timeout: float = 20) -> float:
    """The same without blocking the event loop. Returns the seconds it took."""
    began = time.monotonic()
    while not await asyncio.to_thread(condition):
        if time.monotonic() - began > timeout:
            raise AssertionError(f"expected that {what} within {timeout} s")
        await asyncio.sleep(0.02)
    return time.monotonic() - began
