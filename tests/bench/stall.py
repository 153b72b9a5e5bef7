"""Measures how long the hub's event loop is blocked by a job with many viewers.

    python tests/bench/stall.py --viewers 15000

The hub runs as `push-hub serve` runs it, alone on core 0, with an extra timer that is due every millisecond.
The timer's largest delay is the longest time that any other job, heartbeat or request had to wait. Prints one
line.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path

PERIOD = 0.001
WORST = "PUSH_HUB_BENCH_STALL"


def main() -> int:
    """Run the benchmark. Returns 1 if not every event came once."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--viewers", type=int, default=15_000)
    parser.add_argument("--rate", type=float, default=2.0, help="events a second")
    parser.add_argument("--duration", type=float, default=10.0, help="seconds")
    parser.add_argument("--transport", choices=("sse", "websocket"), default="sse")
    given = parser.parse_args()

    from hub.bench.bar import watched
    from hub.bench.process import Cores, end_as_by_ctrl_c, on_core, raise_open_files
    from hub.bench.result import Load
    from hub.bench.rig import private_hub
    from hub.bench.target import Transport

    end_as_by_ctrl_c()
    raise_open_files(given.viewers + 1000)
    load = Load(given.viewers, rate=given.rate, duration=given.duration)
    transport, cores = Transport(given.transport), Cores.ours()
    with tempfile.TemporaryDirectory() as directory:
        found = Path(directory, "worst")
        os.environ[WORST] = str(found)
        with private_hub(load, transport, cores, program=(__file__,)) as rig, on_core(cores.client):
            result = watched(rig, load, f"hub {transport.value}")
        worst = sorted(map(float, found.read_text().split()), reverse=True)
    tail = ", ".join(f"{late * 1000:.1f}" for late in worst[:5])
    print(
        f"{given.viewers:,} viewers over {transport.value}, {given.rate:g} events/s: the loop was late "
        f"by at most {tail} ms; p50 / p99 of a delivery {result.p50:.0f} / {result.p99:.0f} ms"
    )
    return 0 if result.flawless else 1


def serve() -> None:
    """Run the hub with the timer. Only delays during a fan-out count, not those of joins and of the end."""
    import hub.serve.server
    from hub.cli import main as command

    late: list[float] = []

    async def tick(server: hub.serve.server.Server) -> None:
        loop = asyncio.get_running_loop()
        due, before = loop.time(), 0
        while not server.should_exit:
            due = max(due + PERIOD, loop.time())
            await asyncio.sleep(due - loop.time())
            now = sum(service.hub.statistics().deliveries for service in server._context.services)
            if 0 < before < now:
                late.append(loop.time() - due)
            before = now

    class Watched(hub.serve.server.Server):
        async def startup(self, sockets: list | None = None) -> None:
            await super().startup(sockets)
            self._ticking = asyncio.create_task(tick(self))

    hub.serve.server.Server = Watched
    try:
        command()
    finally:
        late.sort()
        Path(os.environ[WORST]).write_text(" ".join(f"{one:.6f}" for one in late[-100:]))


if __name__ == "__main__":
    if WORST in os.environ:
        serve()
    else:
        sys.exit(main())
