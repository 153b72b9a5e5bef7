"""A real Prometheus that scrapes a hub twice a second, with the rules of docs/alerts.yml."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

from tests.faults.rig.process import Hub
from tests.faults.rig.server import ConfiguredServer
from tests.support.browser import ROOT
from tests.support.live import ADMIN

ALERTS = ROOT / "docs" / "alerts.yml"
BINARY = shutil.which("prometheus")


class Prometheus(ConfiguredServer):
    """Its rules fire at once, whatever their `for`."""

    name = "prometheus.yml"

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        super().__init__([])

    def configure(self) -> str:
        assert BINARY is not None, "the test is skipped otherwise"
        place = f"--web.listen-address=127.0.0.1:{self.port}"
        self.command = [BINARY, f"--config.file={self.name}", "--storage.tsdb.path=data", place]
        rules = re.sub(r"^( *)for: .*$", r"\1for: 0s", ALERTS.read_text(), flags=re.MULTILINE)
        Path(self.directory.name, "alerts.yml").write_text(rules)
        return f"""
global: {{scrape_interval: 500ms, scrape_timeout: 400ms, evaluation_interval: 500ms}}
rule_files: [alerts.yml]
scrape_configs:
  - job_name: push-hub
    authorization: {{credentials: {ADMIN}}}
    static_configs: [{{targets: ["127.0.0.1:{self._hub.port}"]}}]
"""

    def _get(self, path: str) -> dict:
        with urlopen(self.url + path, timeout=5) as answer:
            return json.load(answer)["data"]

    def firing(self) -> set[str]:
        """Names of the alerts that fire."""
        return {
            one["labels"]["alertname"]
            for one in self._get("/api/v1/alerts")["alerts"]
            if one["state"] == "firing"
        }

    async def until(self, condition, *, seconds: float = 30) -> None:
        """Return when `condition()` is true; a Prometheus that starts answers 503."""
        async with asyncio.timeout(seconds):
            while True:
                with suppress(OSError):
                    if await asyncio.to_thread(condition):
                        return
                await asyncio.sleep(0.1)

    def has(self, query: str) -> bool:
        """Returns True if the query has a result."""
        return bool(self._get(f"/api/v1/query?query={query}")["result"])
