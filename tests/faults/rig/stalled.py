"""Clients that ask for a stream and then never read a byte."""

from __future__ import annotations

import json
import socket
import struct

from hub.transports.websocket import wire_frame
from tests.faults.rig.process import Hub
from tests.support.live import token

_UPGRADE = [
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
]


class Stalled:
    """`kind`: sse, websocket, or dashboard (which subscribes to `job`). Its receive buffer is the smallest
    possible.
    """

    def __init__(self, hub: Hub, job: str, kind: str) -> None:
        path = {
            "sse": f"/api/jobs/{job}/events/stream",
            "websocket": f"/api/jobs/{job}/events/ws",
            "dashboard": "/api/events/ws",
        }[kind]
        lines = [f"GET {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {token()}"]
        lines += [] if kind == "sse" else _UPGRADE
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.sock.connect(("127.0.0.1", hub.port))
        self.sock.sendall("\r\n".join([*lines, "", ""]).encode())
        if kind == "dashboard":
            self.sock.recv(1)  # the handshake is answered, so frames may be sent
            self.sock.sendall(masked(json.dumps({"op": "subscribe", "job": job}).encode()))

    def close(self) -> None:
        """Close with an RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def masked(text: bytes) -> bytes:
    """Returns a client's text frame with a zero mask."""
    head = bytearray(wire_frame(text)[: -len(text)])
    head[1] |= 0x80
    return bytes(head) + bytes(4) + text
