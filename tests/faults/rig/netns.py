"""Two network namespaces with a cable that can be cut. Needs root."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.faults.rig.process import Hub

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def available() -> bool:
    """Returns True if this user may create namespaces on this machine."""
    return os.geteuid() == 0 and shutil.which("ip") is not None


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=10)


class Cable:
    """A context manager: the namespaces `hub` and `viewers`. `address` is the hub's address on the cable."""

    def __init__(self) -> None:
        self.hub, self.viewers = f"hub{os.getpid()}", f"viewers{os.getpid()}"
        self.address = "10.213.7.1"

    def __enter__(self) -> Cable:
        _ip("netns", "add", self.hub)
        _ip("netns", "add", self.viewers)
        _ip(
            "-n",
            self.hub,
            "link",
            "add",
            "cable",
            "type",
            "veth",
            "peer",
            "name",
            "cable",
            "netns",
            self.viewers,
        )
        for where, address in ((self.hub, self.address), (self.viewers, "10.213.7.2")):
            _ip("-n", where, "address", "add", f"{address}/24", "dev", "cable")
            _ip("-n", where, "link", "set", "lo", "up")
            _ip("-n", where, "link", "set", "cable", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for name in (self.hub, self.viewers):
            with contextlib.suppress(subprocess.SubprocessError):
                _ip("netns", "delete", name)

    def cut(self) -> None:
        _ip("-n", self.viewers, "link", "set", "cable", "down")

    def mend(self) -> None:
        _ip("-n", self.viewers, "link", "set", "cable", "up")

    def viewer_socket(self) -> socket.socket:
        """Returns a socket in the viewers' namespace. It stays in that namespace wherever it is used."""
        with inside(self.viewers):
            return socket.socket()


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """Sockets that this thread creates in the block belong to the namespace. The block must not await."""
    with Path("/proc/thread-self/ns/net").open() as home, Path("/run/netns", name).open() as there:
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(home.fileno())


def _enter(file: int) -> None:
    if _libc.setns(file, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


class FarHub(Hub):
    """A hub in a namespace. It must reach its Redis over a Unix socket."""

    def __init__(self, namespace: str, redis_url: str, **more) -> None:
        self.namespace = namespace
        prefix = ("ip", "netns", "exec", namespace)
        super().__init__(redis_url, prefix=prefix, host="0.0.0.0", **more)

    def get(self, path: str, *, timeout: float = 5) -> tuple[int, str]:
        with inside(self.namespace):
            return super().get(path, timeout=timeout)
