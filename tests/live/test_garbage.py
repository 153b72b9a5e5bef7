"""Who leaves is freed at once. Cycles would wait for the garbage collector, which the server has made slow: megabytes of the dead."""

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
    """Come, and leave that way; `kind` may be a job's id. On a plain socket in a thread, so that the loop has no garbage but the hub's."""
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
    """A function that gives what was garbage of ours since it was last asked. Until then nothing is collected."""

    def ours() -> list[str]:
        gc.collect()
        found = Counter(
            type(one).__qualname__ for one in gc.garbage if type(one).__module__.startswith("hub.")
        )
        gc.garbage.clear()
        return [name for name, number in found.items() if number >= VISITS]  # else it is an earlier test's

    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield ours
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


@pytest.mark.parametrize("kind", PATHS)
async def test_who_leaves_is_freed_at_once(start_hub, garbage, kind):
    """However it leaves."""
    async with start_hub(linger=60) as live:
        for job in ("runs", "ended"):
            await live.jobs.create_job(job, user_id="ada")
        await live.publisher.ready("ended")
        for way in WAYS:
            await asyncio.to_thread(visit, live.port, kind, way)  # the first of its kind makes what stays
            await settled(live)
            garbage()
            for _ in range(VISITS):
                await asyncio.to_thread(visit, live.port, kind, way)
            await settled(live)
            assert not garbage(), way


@pytest.mark.parametrize("ends", [False, True], ids=["abandoned", "ended"])
async def test_a_feed_that_nobody_needs_is_freed_at_once(start_hub, garbage, ends):
    """With its window, which may be a megabyte."""
    async with start_hub(linger=0) as live:
        for number in range(2 * VISITS):
            if number == VISITS:
                garbage()  # the first ones make what stays
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
    """Return when nothing of a visit goes on any more."""
    state = live.server.server_state
    await live.until(lambda: not state.connections and not state.tasks)
    await live.until(lambda: live.hub.statistics().viewers == 0)
    await asyncio.sleep(0.05)
