"""A real nginx between viewers and hubs, configured as docs/operations.md says."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

from tests.faults.rig.process import Hub, Process, free_port, wait_until

BINARY = shutil.which("nginx") or "/usr/sbin/nginx"

CONFIG = """
daemon off;
master_process off;
error_log stderr warn;
pid nginx.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;

    map $http_upgrade $connection_upgrade {{ default upgrade; "" ""; }}
    upstream hub {{ {servers} keepalive 32; }}

    server {{
        listen 127.0.0.1:{port};
        location /api/ {{
            proxy_pass http://hub;
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_read_timeout {read_timeout}s;
            proxy_next_upstream error timeout http_503;
        }}
    }}
}}
"""


class Nginx(Process):
    """A single nginx process in front of `hubs`. `read_timeout`: seconds it waits for a byte from a hub."""

    def __init__(self, *hubs: Hub, read_timeout: int) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._config = CONFIG.format(
            port=self.port,
            read_timeout=read_timeout,
            servers=" ".join(f"server 127.0.0.1:{hub.port} max_fails=0;" for hub in hubs),
        )
        super().__init__([BINARY, "-p", ".", "-c", "nginx.conf", "-e", "stderr"])

    def start(self) -> None:
        Path(self.directory.name, "nginx.conf").write_text(self._config)
        super().start()
        wait_until(self._listens, "nginx listens")

    def _listens(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0
