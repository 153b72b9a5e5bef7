"""hub.js, and the browser's own EventSource and WebSocket, in Firefox and in WebKit (Safari's engine)."""

from __future__ import annotations

import asyncio
import os

import pytest
from fastapi.responses import HTMLResponse

from tests.clients.test_hub_js import COLLECT, KINDS, PAGE, Chaos
from tests.support import producers
from tests.support.browsers import firefox, until, webkit
from tests.support.live import live_hub, token

BROWSERS = pytest.mark.parametrize("browser", [firefox, webkit], ids=["firefox", "webkit"])
NUMBER = 60
TEXT = "a\nb \u2028 \U0001f680"

BARE = """((job) => { window.bare = {}; const base = `/api/jobs/${job}/events`;
  const source = window.source = new EventSource(base + '/stream'); bare.sse = []; bare.names = [];
  source.onmessage = (m) => bare.sse.push([m.lastEventId, JSON.parse(m.data).n ?? JSON.parse(m.data).status]);
  for (const name of ['hello', 'heartbeat', 'reconnect', 'end']) source.addEventListener(name, () => bare.names.push(name));
  const socket = new WebSocket(base.replace(/^/, location.origin.replace('http', 'ws')) + '/ws'); bare.ws = [];
  socket.onmessage = (m) => { const f = JSON.parse(m.data); if (f.id) bare.ws.push([f.id, f.n ?? f.status]); };
  socket.onclose = (e) => { bare.code = e.code; };
})"""


@pytest.fixture(autouse=True)
def _needed(browser):
    """In CI a browser that is missing is a failure."""
    if os.environ.get("CI") == "true":
        import shutil

        assert shutil.which("firefox-esr"), "no firefox"
        assert shutil.which("WebKitWebDriver"), "no webkit"


async def signed_in(page, origin: str) -> None:
    await page.goto(f"{origin}/page")
    await page.evaluate(f"document.cookie = '__session={token()};path=/'")
    await until(page, "Boolean(window.hub)")


@BROWSERS
async def test_hub_js_sees_every_event_once_through_chaos(real_redis, browser):
    """On each transport, and on a dashboard: 502, silence, cuts and resets; then the end, and no request after it."""
    transports = ("websocket", "sse", "poll", "auto")
    async with (
        live_hub(real_redis, heartbeat=1, retry=0.2, max_viewers_per_user_and_job=100) as live,
        Chaos(live.port, 11) as chaos,
        browser() as page,
    ):
        live.app.get("/page")(lambda: HTMLResponse(PAGE))
        job = await producers.job(live)
        await signed_in(page, f"http://127.0.0.1:{chaos.port}")
        for transport in transports:
            await page.evaluate(f"({COLLECT})({[job, transport]})")
        await page.evaluate(
            f"(() => {{ window.board = hub.dashboard(); const one = board.watch('{job}'); seen.board = []; watches.board = one;"
            " (async () => { for await (const event of one) seen.board.push(event.n ?? event.type); })(); })()"
        )
        chaos.begin()
        for n in range(NUMBER):
            await live.publisher.emit(job, "step", {"n": n, "text": TEXT})
            await asyncio.sleep(0.05)
        chaos.on = False
        await live.publisher.ready(job)
        for transport in (*transports, "board"):
            await until(page, f"watches['{transport}'].status === 'ended'", timeout=60)
            seen = await page.evaluate(f"seen['{transport}']")
            assert seen == [*range(NUMBER), "build.stage.started"], transport
        assert await page.evaluate("Object.values(said).flat()") == []
        await page.evaluate("board.close()")
        assert len(set(chaos.done) & set(KINDS)) > 3
        await live.until(lambda: not live.hub.statistics().viewers)
        asked = sum(chaos.done.values())
        await asyncio.sleep(1.5)
        assert sum(chaos.done.values()) == asked, "no request after the end"


@BROWSERS
async def test_the_browsers_own_classes_see_what_the_contract_says(real_redis, browser):
    """Events in order with their ids, control frames by name, a resume after a cut, 204 after the end."""
    async with (
        live_hub(real_redis, heartbeat=1, retry=0.2) as live,
        Chaos(live.port, 1) as proxy,
        browser() as page,
    ):
        live.app.get("/page")(lambda: HTMLResponse(PAGE))
        job = await producers.job(live, events=3)
        await signed_in(page, f"http://127.0.0.1:{proxy.port}")
        await page.evaluate(f"{BARE}('{job}')")
        await until(page, "bare.ws.length === 3 && bare.sse.length === 3")
        await until(page, "bare.names.includes('heartbeat')")
        assert await page.evaluate("bare.names[0]") == "hello"
        proxy.begin()
        proxy.on = False
        await producers.publish(live, job, 2, start=3)
        await until(page, "bare.sse.length === 5")  # it came back by itself, with Last-Event-ID
        assert await page.evaluate("bare.code") == 1006
        await live.publisher.ready(job)
        await until(page, "bare.sse.length === 6 && bare.names.includes('end')")
        await until(page, "source.readyState === 2")  # it asked once more, and was answered 204
        seen = await page.evaluate("bare.sse")
        assert [what for _, what in seen] == [0, 1, 2, 3, 4, "ready"]
        assert await page.evaluate("bare.ws") == seen[:3]


@BROWSERS
async def test_what_is_not_there_is_an_error_that_a_page_can_show(real_redis, browser):
    async with live_hub(real_redis) as live, browser() as page:
        live.app.get("/page")(lambda: HTMLResponse(PAGE))
        await signed_in(page, live.url)
        for transport in ("websocket", "sse", "poll", "auto"):
            ask = f"hub.watch('nowhere', {{transport: '{transport}'}}).done.then(() => 0, (error) => error.code)"
            assert await page.evaluate(ask) == "not_found"
        await page.evaluate("document.cookie = '__session=;path=/;max-age=0'")
        assert (
            await page.evaluate("hub.watch('a').done.then(() => 0, (error) => error.code)") == "unauthorized"
        )
