"""Pages of other origins: those on the list may watch on both transports, all others may not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx
import pytest
import uvicorn
from starlette.responses import HTMLResponse

from hub.transports.sse import ASGI_SSE, RAW_SSE
from tests.support import producers
from tests.support.browser import chromium
from tests.support.live import live_hub, token
from tests.support.viewer import bearer

APP = "https://app.example"
EVIL = "https://evil.example"


@pytest.mark.parametrize("wire", ["fast", "portable"])
async def test_each_answer_may_be_read_by_a_listed_page_alone(real_redis, wire):
    """200, 204 and 404; a stream's socket is still handed over."""
    async with (
        live_hub(real_redis, wire=wire, allowed_origins=APP) as live,
        httpx.AsyncClient(base_url=f"{live.url}/api/jobs/", headers=bearer()) as client,
    ):
        job = await producers.job(live, events=2)
        ended = await producers.job(live, events=1)
        last = await live.publisher.ready(ended)
        for origin, readable in ((APP, True), (EVIL, False)):
            for path, status in (
                (f"{job}/events/stream", 200),
                (f"{ended}/events/stream?last_event_id={last}", 204),
                ("nowhere/events/stream", 404),
                (job, 200),
                (f"{job}/events", 200),
            ):
                async with client.stream("GET", path, headers={"Origin": origin}) as answer:
                    assert answer.status_code == status, path
                    headers = answer.headers
                    assert headers.get("access-control-allow-origin") == (origin if readable else None), path
                    if path == f"{job}/events/stream":
                        kind = RAW_SSE if wire == "fast" else ASGI_SSE
                        await live.until(lambda kind=kind: _has_seat(live.hub, kind))


def _has_seat(hub, kind) -> bool:
    return any(one.seats for one in hub.feeds.audiences() if one.format is kind)


async def test_a_preflight_allows_what_a_stream_needs_and_no_more(real_redis):
    async with (
        live_hub(real_redis, allowed_origins=APP) as live,
        httpx.AsyncClient(base_url=live.url) as client,
    ):
        asked = {
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "authorization,last-event-id",
        }
        answer = await client.options("/api/jobs/j/events/stream", headers={"Origin": APP, **asked})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == APP
        answer = await client.options("/api/jobs/j/events/stream", headers={"Origin": EVIL, **asked})
        assert "access-control-allow-origin" not in answer.headers
        answer = await client.options(
            "/api/jobs/j", headers={"Origin": APP, "Access-Control-Request-Method": "DELETE"}
        )
        assert answer.status_code == 400


@contextlib.asynccontextmanager
async def site() -> AsyncIterator[str]:
    """A page of another origin (another port is one)."""
    page = HTMLResponse("<!doctype html><title>another origin</title>")
    server = uvicorn.Server(uvicorn.Config(page, port=0, log_level="warning"))
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await running


WATCH = """async ([url, ws, token]) => {
    const read = await fetch(url, { headers: { Authorization: `Bearer ${token}`, "Last-Event-ID": "0-1" } })
        .then(async (answer) => (await answer.body.getReader().read(), answer.status)).catch(() => "refused");
    const missing = await fetch(url.replace("/jobs/", "/jobs/no"), { credentials: "include" })
        .then((answer) => answer.status).catch(() => "refused");
    const source = new EventSource(url, { withCredentials: true });
    const sse = await new Promise((resolve) => { source.onmessage = () => resolve("event"); source.onerror = () => resolve("refused"); });
    source.close();
    const socket = new WebSocket(ws);
    const over = await new Promise((resolve) => { socket.onmessage = () => resolve("frame"); socket.onerror = () => resolve("refused"); });
    socket.close();
    return [read, missing, sse, over];
}"""


@pytest.mark.parametrize("listed", [True, False])
async def test_a_page_of_another_origin_in_a_real_browser(real_redis, listed):
    """fetch with Authorization, EventSource and WebSocket with the cookie, and a 404 that can be read."""
    async with site() as origin, live_hub(real_redis, allowed_origins=origin if listed else APP) as live:
        job = await producers.job(live, events=2)
        url = f"{live.url}/api/jobs/{job}/events/stream"
        socket = f"{live.url.replace('http', 'ws', 1)}/api/jobs/{job}/events/ws"
        async with chromium() as browser:
            session = await browser.new_context()
            await session.add_cookies([{"name": "__session", "value": token(), "url": live.url}])
            page = await session.new_page()
            await page.goto(origin)
            found = await page.evaluate(WATCH, [url, socket, token()])
            await session.close()
        assert found == ([200, 404, "event", "frame"] if listed else ["refused"] * 4)
