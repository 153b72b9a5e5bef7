"""What a benchmark loads: a server's address, and the bytes that make a viewer watch there."""

from __future__ import annotations

import base64
import enum
import secrets
from collections.abc import Callable
from dataclasses import dataclass


class Transport(enum.StrEnum):
    """How viewers watch."""

    SSE = "sse"
    WEBSOCKET = "websocket"


@dataclass(frozen=True, slots=True)
class Target:
    """A server to load. `head` gives the path and the header lines (each with its line end) of viewer `i`.

    `greeting` goes out once a WebSocket is open, for protocols of their own on top of it. `pids` are the server's
    processes (their children are counted along); empty when they are not ours to see.
    """

    host: str
    port: int
    transport: Transport
    head: Callable[[int], tuple[str, str]]
    greeting: bytes = b""
    pids: tuple[int, ...] = ()

    def request(self, index: int) -> bytes:
        """The bytes that make viewer `index` watch."""
        path, lines = self.head(index)
        if self.transport is Transport.WEBSOCKET:
            key = base64.b64encode(secrets.token_bytes(16)).decode()
            lines += f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        else:
            lines += "Accept: text/event-stream\r\n"
        return f"GET {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n{lines}\r\n".encode()


def masked(opcode: int, payload: bytes) -> bytes:
    """A client's WebSocket frame (RFC 6455 section 5.2) of at most 125 bytes; the mask is zero, as it hides nothing."""
    return bytes((0x80 | opcode, 0x80 | len(payload), 0, 0, 0, 0)) + payload
