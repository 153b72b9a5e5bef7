"""A server with a configuration file, which is up once it listens."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.faults.rig.process import Process, free_port, wait_until


class ConfiguredServer(Process):
    """`command` runs in a directory with the file `name`, whose text `configure` makes for a free port."""

    name: str

    def __init__(self, command: list[str], environment: dict[str, str] | None = None) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__(command, environment)

    def configure(self) -> str:
        raise NotImplementedError

    def start(self) -> None:
        Path(self.directory.name, self.name).write_text(self.configure())
        super().start()
        wait_until(self._listens, f"{type(self).__name__} listens")

    def _listens(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0
