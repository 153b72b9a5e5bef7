"""A real HAProxy, with the configuration that docs/operations.md recommends."""

from __future__ import annotations

import re
import shutil
import socket
from pathlib import Path

from tests.faults.rig.process import Hub, Process, free_port, wait_until
from tests.support.browser import ROOT

BINARY = shutil.which("haproxy") or "/usr/sbin/haproxy"


def recommended() -> str:
    """Returns the configuration in docs/operations.md."""
    page = (ROOT / "docs/operations.md").read_text()
    (found,) = re.findall(r"```haproxy\n(.*?)```", page, re.DOTALL)
    return found


class Haproxy(Process):
    """A single HAProxy process in front of `hubs`. `read_timeout`: seconds it waits for a byte from a hub."""

    def __init__(self, *hubs: Hub, read_timeout: int) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        servers = "\n".join(f"    server hub{n} 127.0.0.1:{hub.port}" for n, hub in enumerate(hubs))
        config = re.sub(r"(timeout (?:client|server|tunnel)) +\S+", rf"\1 {read_timeout}s", recommended())
        config = re.sub(r"bind \S+", f"bind 127.0.0.1:{self.port}", config)
        self._config = re.sub(r"^ *server .*$", servers, config, flags=re.MULTILINE)
        super().__init__([BINARY, "-db", "-f", "haproxy.cfg"])

    def start(self) -> None:
        Path(self.directory.name, "haproxy.cfg").write_text(self._config)
        super().start()
        wait_until(self._listens, "HAProxy listens")

    def _listens(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0
