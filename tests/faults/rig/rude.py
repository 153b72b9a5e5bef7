"""Rude clients on raw sockets: they stop reading, flood, send half a request, and leave without closing."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from tests.support.live import USER, token

TEXT, BINARY, CONT, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10
DASHBOARD = "/api/events/ws"


def path_of(job: str, transport: str) -> str:
    """Returns the path of a job's stream."""
    return f"/api/jobs/{job}/events/" + ("stream" if transport == "sse" else "ws")


def request(path: str, *, user: str = USER, more: tuple[str, ...] = ("Sec-Fetch-Mode: cors",)) -> bytes:
    """Returns a browser's GET request, or its WebSocket handshake if the path is a WebSocket's."""
    lines = [f"GET {path} HTTP/1.1", "Host: hub", f"Authorization: Bearer {token(user)}", *more]
    if path.partition("?")[0].endswith("/ws"):
        lines += ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
        lines += ["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def frame(opcode: int, data: bytes = b"", *, fin: bool = True, rsv1: bool = False, says: int = -1) -> bytes:
    """Returns a client's frame with a zero mask. `says`: a wrong length to announce."""
    length = len(data) if says < 0 else says
    first = (fin << 7) | (rsv1 << 6) | opcode
    if length < 126:
        head = struct.pack("!BB", first, 128 | length)
    elif length < 1 << 16:
        head = struct.pack("!BBH", first, 128 | 126, length)
    else:
        head = struct.pack("!BBQ", first, 128 | 127, length)
    return head + bytes(4) + data


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """Returns the hub's complete frames after its answer to the handshake, as (opcode, payload)."""
    at = data.find(b"\r\n\r\n") + 4
    found = []
    while len(data) - at >= 2:
        length, head = data[at + 1] & 127, 2
        if length == 126:
            length, head = int.from_bytes(data[at + 2 : at + 4], "big"), 4
        elif length == 127:
            length, head = int.from_bytes(data[at + 2 : at + 10], "big"), 10
        if len(data) < at + head + length:
            break
        found.append((data[at] & 15, data[at + head : at + head + length]))
        at += head + length
    return found


def close_code(data: bytes) -> int | None:
    """Returns the code in the hub's Close, or None if there is no Close."""
    return next((int.from_bytes(body[:2], "big") for opcode, body in frames(data) if opcode == CLOSE), None)


def texts(data: bytes) -> list[bytes]:
    """Returns the hub's text frames."""
    return [body for opcode, body in frames(data) if opcode == TEXT]


def status(data: bytes) -> int:
    """The status of the hub's answer, 0 if there is none."""
    return int(data.split(b" ", 2)[1]) if data.startswith(b"HTTP/") else 0


class Rude:
    """One connection. `small`: a receive buffer of a few KB, which is full soon. `sock`: a socket to use."""

    def __init__(self, port: int, *, small: bool = False, sock: socket.socket | None = None) -> None:
        self.address = ("127.0.0.1", port)
        self.got = b""
        self.sock = sock or socket.socket()
        if small:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.sock.setblocking(False)
        _present.add(self)

    async def connect(self, address: tuple[str, int] | None = None) -> Rude:
        async with asyncio.timeout(20):
            await asyncio.get_running_loop().sock_connect(self.sock, address or self.address)
        return self

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(
            20
        ):  # not wait_for, which may swallow the cancellation of who is waiting for it
            await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def read_until(self, words: bytes, timeout: float = 20) -> bytes:
        """Wait until `words` have come. Returns everything so far."""
        async with asyncio.timeout(timeout):
            while words not in self.got:
                chunk = await asyncio.get_running_loop().sock_recv(self.sock, 1 << 16)
                assert chunk, f"expected {words!r}, got the end after {self.got[-300:]!r}"
                self.got += chunk
        return self.got

    async def read_to_end(self, timeout: float = 20) -> bytes:
        """Returns everything until the hub closes or resets."""
        parts = [self.got]
        try:
            async with asyncio.timeout(timeout):
                while chunk := await asyncio.get_running_loop().sock_recv(self.sock, 1 << 16):
                    parts.append(chunk)
        except ConnectionError:
            pass
        finally:
            self.got = b"".join(parts)
        return self.got

    async def read_close(self, timeout: float = 20) -> int | None:
        """Wait for the hub's Close and return its code, or None if the connection ends without a readable
        one.
        """
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(timeout):
                while chunk := await asyncio.get_running_loop().sock_recv(self.sock, 1 << 16):
                    self.got += chunk
                    # the hub's text is ASCII, so this byte is a Close or part of a length
                    if b"\x88" in chunk and close_code(self.got) is not None:
                        break
        return close_code(self.got)

    async def watch(self, job: str, transport: str, query: str = "") -> Rude:
        """Ask for a job's stream and wait for its first bytes."""
        await self.connect()
        await self.send(request(path_of(job, transport) + query))
        await self.read_until(b"\r\n\r\n")
        return self

    def close(self) -> None:
        self.sock.close()
        _present.discard(self)

    def reset(self) -> None:
        """Close with an RST."""
        if self.sock.fileno() >= 0:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


_present: set[Rude] = set()


@contextlib.contextmanager
def company() -> Iterator[None]:
    """For thousands of clients: raises the limit of open files, and closes those left at the end."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        for rude in list(_present):
            rude.reset()


def held(port: int) -> int:
    """Returns how many sockets on `port` the listening process still holds."""
    return len(_connections(port))


def unsent(port: int) -> int:
    """Returns the bytes in the kernel's send buffers of those sockets: written, and not acknowledged."""
    return sum(int(line[4].partition(":")[0], 16) for line in _connections(port))


def _connections(port: int) -> list[list[str]]:
    """Lines of /proc/net/tcp (proc(5)). State 0A is a listening socket; one that no process holds has inode
    0.
    """
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [line for line in lines if line[1].endswith(f":{port:04X}") and line[3] != "0A" and line[9] != "0"]
