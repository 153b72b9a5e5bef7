"""The way to a hub, and what its connections are like: TLS and HTTP/2, WebSockets, and how long one that is
broken off is taken for a viewer.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake, WebSocketException

from hub.client.finding import Finding, Level

TIMEOUT = 10.0
"""Seconds for an answer."""

NOTICED = 30.0
"""Seconds after which a viewer that has left should not be counted any more; hubs count every 5 s."""

UNAVAILABLE = (httpx.HTTPError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Way:
    """The way to a job: the hub's URL, the job's id, and the headers that show whose it is."""

    url: str
    job: str
    headers: Mapping[str, str]

    @property
    def stream(self) -> str:
        """The URL of the event stream."""
        return f"{self.url.rstrip('/')}/api/jobs/{quote(self.job, safe='')}/events/stream"

    @property
    def socket(self) -> str:
        """The URL of the WebSocket."""
        return self.stream.removesuffix("stream").replace("http", "ws", 1) + "ws"


async def of_http2(url: str) -> Finding:
    """What the server chooses when a browser offers HTTP/2."""
    parts = urlsplit(url)
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        async with asyncio.timeout(TIMEOUT):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or 443, ssl=context)
    except (OSError, TimeoutError) as error:
        return Finding(
            Level.ERROR,
            f"TLS fails ({words_of(error)})",
            "no browser comes in",
            "the certificate, and its chain",
        )
    chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
    writer.close()
    if chosen == "h2":
        return Finding(Level.OK, "browsers come over HTTP/2")
    return Finding(
        Level.WARNING,
        "browsers come over HTTP/1.1",
        "a browser opens six connections to a host: six tabs with an EventSource each use them up",
        "HTTP/2 at the proxy, or a WebSocket; hub.js shares one connection among tabs",
    )


async def of_leaving(client: httpx.AsyncClient, way: Way) -> Finding | None:
    """Opens a WebSocket and breaks it off, as a laptop that is closed. None if the hub counts no viewers."""

    async def viewers() -> int | None:
        answer = await client.get(way.stream.removesuffix("/events/stream"), headers=way.headers)
        count = answer.json().get("viewers") if answer.status_code == 200 else None
        return count if isinstance(count, int) else None

    async def until(count: int) -> float | None:
        began = time.monotonic()
        while time.monotonic() - began < NOTICED:
            if (now := await viewers()) is None or now == count:
                return time.monotonic() - began
            await asyncio.sleep(0.5)
        return None

    try:
        if (before := await viewers()) is None:
            return None
        async with connect(way.socket, additional_headers=dict(way.headers), close_timeout=1) as socket:
            await socket.recv()
            if await until(before + 1) is None:
                return None  # others come and go
            socket.transport.abort()
        took = await until(before)
    except (*UNAVAILABLE, WebSocketException, ValueError):
        return None  # `of_socket` says more
    if took is not None:
        return Finding(
            Level.OK, f"a viewer that leaves is noticed, and not counted any more, after {took:.0f} s"
        )
    return Finding(
        Level.WARNING,
        f"a viewer that left is still counted after {NOTICED:.0f} s",
        "viewers that are gone take places, and your workers work for nobody",
        "does a proxy keep connections to the hub that its clients have left?",
    )


async def of_socket(way: Way) -> Finding:
    """Opens a WebSocket."""
    try:
        async with (
            asyncio.timeout(TIMEOUT),
            connect(way.socket, additional_headers=dict(way.headers), close_timeout=1) as socket,
        ):
            await socket.recv()
    except (WebSocketException, InvalidHandshake, OSError, TimeoutError) as error:
        return Finding(
            Level.ERROR,
            f"a WebSocket does not open ({words_of(error)})",
            "dashboards do not work, and hub.js falls back to SSE",
            "nginx: proxy_http_version 1.1, and the headers Upgrade and Connection",
        )
    return Finding(Level.OK, "a WebSocket opens")


def words_of(error: Exception) -> str:
    """What an error says, or its name."""
    return str(error) or type(error).__name__
