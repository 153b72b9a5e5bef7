"""The producer for nchan and Centrifugo: HTTP POSTs, pipelined on one connection, so that no event waits.

`python http_source.py SERVER PORT PREFIX JOBS SIZE`; orders come on stdin (see hub/bench/source.py).
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable

from hub.bench.source import Send, obey

Post = Callable[[str, str], str]
"""A request that publishes to a job an event."""


def through_http(post: Post, port: int, prefix: str) -> Send:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(batch: list[tuple[int, str]]) -> None:
        connection.sendall("".join(post(f"{prefix}-{number}", body) for number, body in batch).encode())
        answers, rest = 0, b""
        while answers < len(batch):
            data = rest + connection.recv(1 << 16)
            if len(data) == len(rest):
                raise ConnectionError("the server closed the publisher's connection")
            answers += data.count(b"HTTP/1.1 20")
            rest = data[-10:] if not data.endswith(b"HTTP/1.1 20") else b""

    return send


def _nchan(job: str, body: str) -> str:
    return _post(f"/pub/{job}", body)


def _centrifugo(job: str, body: str) -> str:
    return _post("/api/publish", f'{{"channel":"{job}","data":{body}}}')


def _post(path: str, body: str) -> str:
    return f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n\r\n{body}"


SERVERS: dict[str, Post] = {"nchan": _nchan, "centrifugo": _centrifugo}


if __name__ == "__main__":
    server, at, jobs_prefix, count, size_ = sys.argv[1:]
    obey(through_http(SERVERS[server], int(at), jobs_prefix), jobs=int(count), size=int(size_))
