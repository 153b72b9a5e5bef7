"""The server that a benchmark loads: its address, and the request that makes a viewer watch."""

from __future__ import annotations

import base64
import enum
import secrets
from collections.abc import Callable
from dataclasses import dataclass


class Transport(enum.StrEnum):
    """The transport of the viewers."""

    SSE = "sse"
    WEBSOCKET = "websocket"


@dataclass(frozen=True, slots=True)
class Target:
    """A server to load. `head(i)` returns viewer `i`'s path and header lines, each with its line end.

    `greeting` is sent when a WebSocket is open, for servers with a protocol of their own on top. `pids` are
    the server's processes, whose descendants are measured too; empty if they cannot be measured.
    """

    host: str
    port: int
    transport: Transport
    head: Callable[[int], tuple[str, str]]
    greeting: bytes = b""
    pids: tuple[int, ...] = ()

    def request(self, index: int) -> bytes:
        """Returns the HTTP request that makes viewer `index` watch."""
        path, lines = self.head(index)
        if self.transport is Transport.WEBSOCKET:
            key = base64.b64encode(secrets.token_bytes(16)).decode()
            lines += "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            lines += f"Sec-WebSocket-Key: {key}\r\n"
        else:
            lines += "Accept: text/event-stream\r\n"
        return f"GET {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n{lines}\r\n".encode()


def masked(opcode: int, payload: bytes) -> bytes:
    """Returns a client's WebSocket frame (RFC 6455 section 5.2) with at most 125 bytes. The mask is zero."""
    return bytes((0x80 | opcode, 0x80 | len(payload), 0, 0, 0, 0)) + payload
