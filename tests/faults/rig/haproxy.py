"""A real HAProxy, with a configuration that the documentation recommends."""

from __future__ import annotations

import re
import shutil

from tests.faults.rig.process import Hub
from tests.faults.rig.server import ConfiguredServer
from tests.support.browser import ROOT

BINARY = shutil.which("haproxy") or "/usr/sbin/haproxy"


def recommended(page: str) -> str:
    """Returns the configuration in a page of docs/."""
    page = (ROOT / "docs" / page).read_text()
    (found,) = re.findall(r"```haproxy\n(.*?)```", page, re.DOTALL)
    return found


class Haproxy(ConfiguredServer):
    """A single HAProxy process in front of `hubs`. `read_timeout`: seconds it waits for a byte from a hub."""

    name = "haproxy.cfg"
    page = "operations.md"

    def __init__(self, *hubs: Hub, read_timeout: int) -> None:
        self._hubs = hubs
        self._timeout = read_timeout
        super().__init__([BINARY, "-db", "-f", self.name])

    def configure(self) -> str:
        config = re.sub(
            r"(timeout (?:client|server|tunnel)) +\S+", rf"\1 {self._timeout}s", recommended(self.page)
        )
        config = re.sub(r"bind \S+", f"bind 127.0.0.1:{self.port}", config)
        return re.sub(r"^ *server hub1 127.0.0.1:8000(.*)$", self._servers, config, flags=re.MULTILINE)

    def _servers(self, line: re.Match[str]) -> str:
        return "\n".join(
            f"    server hub{n} 127.0.0.1:{hub.port}{line[1]}" for n, hub in enumerate(self._hubs)
        )


class RoutingHaproxy(Haproxy):
    """One that sends the viewers of a job to the same hub."""

    page = "scaling.md"
