"""A primary, a replica that follows it, and Sentinels that watch both."""

from __future__ import annotations

from pathlib import Path

import redis

from hub.demo.embedded import find_binary
from tests.faults.rig.process import Process, RedisProcess, free_port, wait_until

SERVICE = "jobs"


class Sentinel(Process):
    """A Sentinel with a quorum of one."""

    def __init__(self, primary: RedisProcess, *, down_after: float = 1.0) -> None:
        self.port = free_port()
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} 1",
            f"sentinel down-after-milliseconds {SERVICE} {down_after * 1000:.0f}",
            f"sentinel failover-timeout {SERVICE} 3000",
        ]
        self._lines = "\n".join(lines)
        super().__init__([find_binary(), "sentinel.conf", "--sentinel"])

    def start(self) -> None:
        Path(self.directory.name, "sentinel.conf").write_text(self._lines)
        super().start()
        wait_until(self.knows_a_replica, "the Sentinel knows the replica")

    def ask(self, *words: str) -> object:
        with redis.Redis(port=self.port, socket_timeout=5) as client:
            return client.execute_command("SENTINEL", *words)

    def knows_a_replica(self) -> bool:
        try:
            return len(self.ask("REPLICAS", SERVICE)) == 1
        except redis.RedisError:
            return False

    def fails_over(self) -> bool:
        """Begins a planned failover. Returns False while the replica is too new to be promoted."""
        try:
            return bool(self.ask("FAILOVER", SERVICE))
        except redis.ResponseError:
            return False

    @property
    def primary_port(self) -> int:
        """Returns the address that it gives for the primary."""
        _, port = self.ask("GET-MASTER-ADDR-BY-NAME", SERVICE)
        return int(port)


def url(*sentinels: int) -> str:
    """Returns the URL of the primary that the Sentinels on these ports know."""
    return f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in sentinels)}/{SERVICE}/0"
