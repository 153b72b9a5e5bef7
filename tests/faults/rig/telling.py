"""`push-hub serve` that prints its number of asyncio tasks at SIGUSR1. `HUB_TELLING_PORTABLE=1`: portable."""

from __future__ import annotations

import asyncio
import os
import re
import signal

import hub.serve.server
from hub.cli import main
from tests.faults.rig.portable import portable
from tests.faults.rig.process import Hub, until

TELLING = "tests.faults.rig.telling"


async def tasks(hub: Hub) -> int:
    """Ask the process for its number of tasks, and wait for the answer."""
    before = len(_told(hub))
    hub.signal(signal.SIGUSR1)
    await until(lambda: len(_told(hub)) > before, "the hub counts its tasks")
    return int(_told(hub)[-1])


def _told(hub: Hub) -> list[str]:
    return re.findall(r"^tasks: (\d+)$", hub.said, re.MULTILINE)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, lambda *_: print(f"tasks: {len(asyncio.all_tasks())}", flush=True))
    if os.environ.get("HUB_TELLING_PORTABLE"):
        hub.serve.server.config = portable
    main()
