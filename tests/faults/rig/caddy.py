"""A real Caddy, with the configuration that docs/operations.md recommends."""

from __future__ import annotations

import re
import shutil

from tests.faults.rig.process import Hub
from tests.faults.rig.server import ConfiguredServer
from tests.support.browser import ROOT

BINARY = shutil.which("caddy") or "/usr/bin/caddy"


def recommended() -> str:
    """Returns the configuration in docs/operations.md."""
    (found,) = re.findall(r"```caddy\n(.*?)```", (ROOT / "docs/operations.md").read_text(), re.DOTALL)
    return found


class Caddy(ConfiguredServer):
    """A single Caddy process in front of `hub`, without TLS and its administration."""

    name = "Caddyfile"

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        super().__init__([BINARY, "run", "--adapter", "caddyfile", "--config", self.name], {"HOME": "."})

    def configure(self) -> str:
        config = re.sub(r"^\S+ \{", f"http://127.0.0.1:{self.port} {{", recommended())
        config = re.sub(r"reverse_proxy .* \{", f"reverse_proxy 127.0.0.1:{self._hub.port} {{", config)
        return "{\n    admin off\n    auto_https off\n}\n" + config
