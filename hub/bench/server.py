"""Runs a server as a child process on a free port."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

from hub.errors import HubError

START_DEADLINE = 20.0
"""Seconds until the server must listen: the hub takes one second, on a busy machine five."""

END_DEADLINE = 10.0
"""Seconds after SIGTERM at which the server is killed."""


class ServerFailed(HubError):
    """The server under test did not start, or ended too early."""


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[tuple[int, int]]:
    """Run a server during the block. Yields its process id and its port, `{port}` in `command`."""
    port = free_port()
    with tempfile.TemporaryFile() as errors:  # a pipe would fill up and block the server
        process = subprocess.Popen(
            [word.format(port=port) for word in command],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        try:
            _wait_listening(process, port, errors)
            yield process.pid, port
        except OSError as error:  # /proc has no such process, or it refuses connections
            if process.poll() is None:
                raise
            raise ServerFailed(
                f"expected {process.args!r} to keep running, but it ended: {_last_words(errors)}"
            ) from error
        finally:
            process.terminate()
            try:
                process.wait(END_DEADLINE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port() -> int:
    """Returns a port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _wait_listening(process: subprocess.Popen[bytes], port: int, errors: IO[bytes]) -> None:
    deadline = time.monotonic() + START_DEADLINE
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise ServerFailed(f"expected {process.args!r} to listen on port {port}, got {_last_words(errors)}")


def _last_words(errors: IO[bytes]) -> str:
    errors.seek(0)
    return errors.read().decode(errors="replace").strip()[-2000:] or "no output"
