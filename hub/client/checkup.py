"""Watches a hub from outside, and says what a proxy does on the way: buffer, compress, eat upgrades."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing

import httpx

from hub.client.finding import Finding, Level
from hub.client.way import TIMEOUT, UNAVAILABLE, Way, of_http2, of_leaving, of_socket, words_of

AT_ONCE = 2.0
"""Seconds within which the first frame must be there; a proxy that buffers shows none for minutes."""

IDLE = 65.0
"""Seconds of silence that a stream must survive: more than the idle timeout of an ALB or nginx."""


async def checkup(url: str, job: str, headers: Mapping[str, str], *, long: bool) -> AsyncIterator[Finding]:
    """Yields what is found on the way to a hub. Without a `job` of the caller's it says less. `long` takes a
    minute more.
    """
    way = Way(url, job, headers)
    async with httpx.AsyncClient(timeout=TIMEOUT, http2=False) as client:
        try:
            alive = await client.get(f"{url.rstrip('/')}/healthz")
        except UNAVAILABLE as error:
            yield Finding(
                Level.ERROR,
                f"{url} does not answer ({words_of(error)})",
                "nobody can watch",
                "the URL, DNS, the firewall",
            )
            return
        yield _of_health(alive)
        if url.startswith("https:"):
            yield await of_http2(url)
        session = await client.get(f"{url.rstrip('/')}/api/session", headers=headers)
        yield _of_session(session, has_credentials=bool(headers))
        if not job or session.status_code != 200:
            return
        async for finding in _of_stream(client, way, long=long):
            yield finding
    yield await of_socket(way)


def _of_health(answer: httpx.Response) -> Finding:
    if answer.status_code == 200:
        return Finding(Level.OK, f"the hub answers over {answer.http_version}")
    words = f"/healthz is answered with {answer.status_code}"
    return Finding(
        Level.ERROR, words, "a load balancer takes this hub out", "the path, and who answers there"
    )


def _of_session(answer: httpx.Response, *, has_credentials: bool) -> Finding:
    if answer.status_code == 200:
        return Finding(Level.OK, f"signed in as {answer.json().get('user')!r}")
    if not has_credentials:
        return Finding(
            Level.WARNING,
            "no credentials were given",
            "streams were not looked at",
            "--token, or --cookie, and --job",
        )
    return Finding(
        Level.ERROR,
        f"the credentials are not good ({answer.status_code})",
        "every stream is answered with 404",
        "`push-hub token --inspect` says why; does a proxy remove Authorization?",
    )


async def _of_stream(client: httpx.AsyncClient, way: Way, *, long: bool) -> AsyncIterator[Finding]:
    """Opens an event stream, reads its first frame, waits, and resumes."""
    headers = {**way.headers, "Accept": "text/event-stream", "Accept-Encoding": "gzip, br"}
    began = time.monotonic()
    request = client.build_request("GET", way.stream, headers=headers, timeout=None)
    try:
        async with asyncio.timeout(AT_ONCE):  # a proxy that buffers holds back the head, too
            answer = await client.send(request, stream=True)
            pieces = answer.aiter_raw()
            first = await anext(pieces, b"")
    except TimeoutError:
        yield Finding(
            Level.ERROR,
            f"nothing of an event stream came within {AT_ONCE:g} s",
            "a proxy buffers it: viewers see events minutes late",
            "nginx: proxy_buffering off; HAProxy: option http-no-delay; a CDN: no cache for this path",
        )
        return
    except UNAVAILABLE as error:
        yield Finding(
            Level.ERROR,
            f"the stream broke off ({words_of(error)})",
            "viewers reconnect all the time",
            "timeouts of the proxy",
        )
        return
    async with aclosing(answer):
        if answer.status_code != 200:
            yield _of_status(answer.status_code)
            return
        for finding in _of_headers(answer.headers):
            yield finding
        took = (time.monotonic() - began) * 1000
        yield Finding(Level.OK, f"the first bytes of a stream come after {took:.0f} ms")
        if long:
            yield await _of_silence(pieces)
            if (left := await of_leaving(client, way)) is not None:
                yield left
    cursor = _cursor(first)
    if cursor:
        yield await _of_resume(client, way, cursor)


def _of_status(status: int) -> Finding:
    if status == 204:
        return Finding(
            Level.WARNING, "the job is over", "its stream ends at once", "--job with one that runs"
        )
    return Finding(
        Level.ERROR, f"a stream is answered with {status}", "nobody can watch this job", "is it this user's?"
    )


def _of_headers(headers: httpx.Headers) -> list[Finding]:
    kind = headers.get("content-type", "")
    found = []
    if not kind.startswith("text/event-stream"):
        found.append(
            Finding(
                Level.ERROR, f"the content type is {kind!r}", "an EventSource gives up", "who answers there?"
            )
        )
    if "content-encoding" in headers:
        words = f"a proxy compresses streams ({headers['content-encoding']})"
        found.append(
            Finding(
                Level.WARNING, words, "events wait for its buffer", "no compression for text/event-stream"
            )
        )
    if "no-transform" not in headers.get("cache-control", ""):
        found.append(
            Finding(
                Level.WARNING,
                "a proxy has changed Cache-Control",
                "others may cache or compress",
                "pass it on",
            )
        )
    return found


async def _of_silence(pieces: AsyncIterator[bytes]) -> Finding:
    """Listens for a minute and more."""
    until = time.monotonic() + IDLE
    number = 0
    while (left := until - time.monotonic()) > 0:
        try:
            async with asyncio.timeout(left):
                piece = await anext(pieces, b"")
        except TimeoutError:
            break
        except UNAVAILABLE:  # cut off in the middle of a chunk
            piece = b""
        if not piece:
            return Finding(
                Level.ERROR,
                f"the stream ended after {IDLE - (until - time.monotonic()):.0f} s",
                "viewers reconnect all the time",
                "idle timeouts of the proxy: 75 s or more",
            )
        number += 1
    if number:
        return Finding(Level.OK, f"the stream lives for {IDLE:.0f} s, with {number} frames")
    return Finding(
        Level.ERROR, f"no heartbeat came in {IDLE:.0f} s", "a proxy will take it for dead", "HUB_HEARTBEAT=15"
    )


async def _of_resume(client: httpx.AsyncClient, way: Way, cursor: str) -> Finding:
    headers = {**way.headers, "Last-Event-ID": cursor}
    try:
        async with client.stream("GET", way.stream, headers=headers, timeout=TIMEOUT) as answer:
            first = await anext(answer.aiter_raw(), b"")
    except UNAVAILABLE as error:
        return Finding(
            Level.WARNING,
            f"the second stream broke off ({words_of(error)})",
            "viewers reconnect",
            "try again",
        )
    if answer.status_code == 204 or (answer.status_code == 200 and b"event: resync" not in first):
        return Finding(Level.OK, "a stream resumes with Last-Event-ID")
    return Finding(
        Level.WARNING,
        "a stream did not resume with Last-Event-ID",
        "a viewer that reconnects starts over",
        "does a proxy remove the header? Does the job's producer use our publisher?",
    )


def _cursor(data: bytes) -> str:
    return next((line[4:].decode("latin-1") for line in data.split(b"\n") if line.startswith(b"id: ")), "")
