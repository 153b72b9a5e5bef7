"""A real nginx between viewers and hubs, configured as docs/operations.md says."""

from __future__ import annotations

import re
import shutil

from tests.faults.rig.process import Hub
from tests.faults.rig.server import ConfiguredServer
from tests.support.browser import ROOT

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
        location = /hub.js {{ proxy_pass http://hub; }}
    }}
}}
"""


ROUTING = re.compile(r"```nginx\n(.*?)```", re.DOTALL)


class Nginx(ConfiguredServer):
    """A single nginx process in front of `hubs`. `read_timeout`: seconds it waits for a byte from a hub."""

    name = "nginx.conf"

    def __init__(self, *hubs: Hub, read_timeout: int) -> None:
        self._hubs = hubs
        self._timeout = read_timeout
        super().__init__([BINARY, "-p", ".", "-c", self.name, "-e", "stderr"])

    def configure(self) -> str:
        servers = " ".join(f"server 127.0.0.1:{hub.port} max_fails=0;" for hub in self._hubs)
        return CONFIG.format(port=self.port, read_timeout=self._timeout, servers=servers)


class RoutingNginx(Nginx):
    """One that sends the viewers of a job to the same hub, as docs/scaling.md says."""

    def configure(self) -> str:
        (routing,) = ROUTING.findall((ROOT / "docs/scaling.md").read_text())
        servers = " ".join(f"server 127.0.0.1:{hub.port} max_fails=0;" for hub in self._hubs)
        routing = routing.replace("server 127.0.0.1:8000;", servers)
        plain = super().configure().replace("proxy_pass http://hub;", "proxy_pass http://$upstream;", 1)
        return plain.replace("    map $http_upgrade", f"{routing}\n    map $http_upgrade", 1)
