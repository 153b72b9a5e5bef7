"""What the kernel knows of a TCP connection."""

from __future__ import annotations

import socket
import struct

_ACKNOWLEDGED = struct.Struct("=120xQ")
"""`tcpi_bytes_acked` of struct tcp_info (linux/tcp.h, since Linux 4.1)."""


def acknowledged(descriptor: int) -> int | None:
    """The bytes that the other side has acknowledged; None where there is no such count."""
    if not hasattr(socket, "TCP_INFO"):
        return None
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError:
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKNOWLEDGED.size)
    except OSError:
        return None
    finally:
        sock.detach()
    return int(_ACKNOWLEDGED.unpack(info)[0]) if len(info) == _ACKNOWLEDGED.size else None
