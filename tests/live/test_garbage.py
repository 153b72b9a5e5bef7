"""Viewers that leave are freed at once, not by the garbage collector, which the server has made slow."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import struct
from collections import Counter

import pytest

from tests.faults.rig.rude import CLOSE, DASHBOARD, TEXT, frame, path_of, request

VISITS = 5
WAYS = ("polite", "answered", "at once", "reset", "half a request")
PATHS = {
    "sse": path_of("runs", "sse"),
    "websocket": path_of("runs", "websocket"),
    "dashboard": DASHBOARD,
    "page": "/api/jobs/runs/events?wait=30&after=9-9",
    "plain": "/healthz",
    "sse of an ended job": path_of("ended", "sse"),
    "websocket of an ended job": path_of("ended", "websocket"),
    "sse of no job": path_of("nobodys", "sse"),
    "websocket of no job": path_of("nobodys", "websocket"),
}


def visit(port: int, kind: str, way: str) -> None:
    """Connect and leave in this way; `kind` may be a job's id.

    Uses a plain socket in a thread, so that all garbage of the loop is the hub's.
    """
    head = request(PATHS.get(kind) or path_of(kind, "sse"))
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as sock,
        contextlib.suppress(ConnectionError),
    ):
        sock.sendall(head[:-20] if way == "half a request" else head)
        if way in ("polite", "answered") and kind != "page":
            sock.recv(1 << 16)
            if kind == "dashboard":
                sock.sendall(frame(TEXT, json.dumps({"op": "subscribe", "job": "runs"}).encode()))
                sock.recv(1 << 16)
        if way == "polite" and kind in ("websocket", "dashboard"):
            sock.sendall(frame(CLOSE, b"\x03\xe8"))
            while sock.recv(1 << 16):
                pass
        if way == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.fixture
def garbage():
    """A function that returns the hub's garbage since the last call. The collector is off meanwhile."""

    def counted(objects: list[object]) -> Counter[str]:
        kinds = map(type, objects)
        return Counter(kind.__qualname__ for kind in kinds if str(kind.__module__).startswith("hub."))

    standing: Counter[str] = Counter()

    def ours() -> list[str]:
        gc.collect()
        found = counted(gc.garbage)
        gc.garbage.clear()
        if not standing:
            standing.update(counted(gc.get_objects()))
        # An earlier test's application may go now: it has as many of a kind as this one's.
        return [name for name, number in found.items() if number >= VISITS + standing[name]]

    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield ours
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


@pytest.mark.parametrize("kind", PATHS)
async def test_a_viewer_that_leaves_is_freed_at_once(start_hub, garbage, kind):
    """This holds for every way to leave."""
    async with start_hub(linger=60) as live:
        for job in ("runs", "ended"):
            await live.jobs.create_job(job, user_id="ada")
        await live.publisher.ready("ended")
        for way in WAYS:
            await asyncio.to_thread(visit, live.port, kind, way)  # the first one of a kind fills caches
            await settled(live)
            garbage()
            for _ in range(VISITS):
                await asyncio.to_thread(visit, live.port, kind, way)
            await settled(live)
            assert not garbage(), way


@pytest.mark.parametrize("ends", [False, True], ids=["abandoned", "ended"])
async def test_a_feed_that_nobody_needs_is_freed_at_once(start_hub, garbage, ends):
    """The window, which may be a megabyte, is freed with the feed."""
    async with start_hub(linger=0) as live:
        for number in range(2 * VISITS):
            if number == VISITS:
                garbage()  # the first visits create caches that stay
            job = f"job-{number}"
            await live.jobs.create_job(job, user_id="ada")
            await asyncio.to_thread(visit, live.port, job, "answered")
            await live.publisher.emit(job, "step")
            if ends:
                await live.publisher.ready(job)
        await settled(live)
        await live.until(lambda: not live.hub.statistics().jobs)
        assert not garbage()


async def settled(live) -> None:
    """Return when nothing of a visit is running any more."""
    state = live.server.server_state
    await live.until(lambda: not state.connections and not state.tasks)
    await live.until(lambda: live.hub.statistics().viewers == 0)
    await asyncio.sleep(0.05)
