"""hub.js through nginx, HAProxy and Caddy, all at once, on every transport: a cut, a restart with 502s, a silent cable, a hub
that is full, and a session that expires."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
from playwright.async_api import Page
from playwright.async_api import TimeoutError as Late

from hub import JobStateMachine, Publisher
from tests.clients.test_hub_js import COLLECT, PAGE
from tests.faults.rig import caddy, haproxy, nginx
from tests.faults.rig.caddy import Caddy
from tests.faults.rig.haproxy import Haproxy
from tests.faults.rig.nginx import Nginx
from tests.faults.rig.paged import PAGED
from tests.faults.rig.process import Hub
from tests.faults.rig.proxy import Proxy
from tests.support.browser import chromium
from tests.support.live import token

TRANSPORTS = ("websocket", "sse", "poll")

pytestmark = [
    pytest.mark.skipif(not Path(one.BINARY).exists(), reason=f"no {one.__name__.rpartition('.')[2]}")
    for one in (nginx, haproxy, caddy)
]

WATCH = COLLECT.replace("{transport, share: false}", "{transport, share: false, renew}").replace(
    "=> {",
    "=> { const renew = () => { document.cookie = `__session=${window.fresh};path=/`; window.renewed += 1; };",
    1,
)


class Evening:
    """Pages behind proxies behind cables, in front of one hub. `number`: events so far."""

    def __init__(self, hub: Hub, publisher: Publisher, job: str) -> None:
        self.hub = hub
        self.publisher = publisher
        self.job = job
        self.number = 0
        self.pages: dict[str, Page] = {}
        self.cables: list[Proxy] = []

    async def publish(self) -> None:
        """Ten events, some of them large."""
        for _ in range(10):
            text = "x" * 100_000 if self.number % 10 == 7 else "a\nb \u2028 \U0001f680"
            await self.publisher.emit(self.job, "step", {"n": self.number, "text": text})
            self.number += 1

    async def seen(self) -> None:
        """Everybody has seen everything, once and in order."""
        for name, page in self.pages.items():
            for transport in TRANSPORTS:
                there = f"seen.{transport}.length >= {self.number} || watches.{transport}.error"
                with suppress(Late):
                    await page.wait_for_function(there, timeout=30_000)
                seen = await page.evaluate(f"seen.{transport}")
                how = await page.evaluate(
                    f"[watches.{transport}.status, watches.{transport}.error?.code, renewed]"
                )
                assert seen == list(range(self.number)), (name, transport, how)

    async def restart(self, *, away: float = 0.0, **environment: str) -> None:
        self.hub.environment.update(environment)
        self.hub.terminate()
        await self.hub.wait(20)
        await asyncio.sleep(away)
        await asyncio.to_thread(self.hub.start)


async def test_every_event_comes_once_through_every_proxy(redis_server, real_redis, monkeypatch):
    most = {"max_viewers_per_user": 1000, "max_viewers_per_user_and_job": 100}
    settings = {"heartbeat": 1, "retry": 0.2, "drain": 1, "jwt_leeway": 0, **most}
    async with AsyncExitStack() as stack:
        monkeypatch.setenv("PUSH_HUB_PAGE", PAGE)
        hub = await asyncio.to_thread(Hub, redis_server.url, program=PAGED, **settings)
        stack.callback(hub.close)
        job = "evening"
        await JobStateMachine(real_redis).create_job(job, user_id="ada")
        evening = Evening(hub, Publisher(real_redis, strict=True), job)
        browser = await stack.enter_async_context(chromium())
        contexts = {}
        for name, start in (
            ("nginx", lambda: Nginx(hub, read_timeout=10)),
            ("haproxy", lambda: Haproxy(hub, read_timeout=10)),
            ("caddy", lambda: Caddy(hub)),
        ):
            proxy = await asyncio.to_thread(start)
            stack.callback(proxy.close)
            cable = await stack.enter_async_context(Proxy("127.0.0.1", proxy.port, gentle=True))
            evening.cables.append(cable)
            origin = f"http://127.0.0.1:{cable.port}"
            contexts[name] = context = await browser.new_context()
            await context.add_cookies([{"name": "__session", "value": token(), "url": origin}])
            page = await context.new_page()
            await page.goto(f"{origin}/api/page")
            await page.wait_for_function("window.hub")
            await page.evaluate("(fresh) => { window.fresh = fresh; window.renewed = 0; }", token())
            evening.pages[name] = page
            for transport in TRANSPORTS:
                await page.evaluate(WATCH, [job, transport])
        await evening.publish()
        await evening.seen()

        for cable in evening.cables:
            cable.cut()
        await evening.publish()
        await evening.seen()

        restarting = asyncio.create_task(evening.restart(away=1.5))  # the proxies answer 502 or 503
        await evening.publish()
        await restarting
        await evening.seen()

        for cable in evening.cables:
            cable.silence()
        await evening.publish()
        await evening.seen()

        await evening.restart(HUB_MAX_VIEWERS="1")
        await evening.publish()
        await asyncio.sleep(1)
        assert await asyncio.to_thread(hub.metric, "refused_total") > 0
        await evening.restart(HUB_MAX_VIEWERS="1000")
        await evening.seen()

        for cable, context in zip(evening.cables, contexts.values(), strict=True):
            origin = f"http://127.0.0.1:{cable.port}"
            short = token(exp=int(time.time()) + 3)
            await context.add_cookies([{"name": "__session", "value": short, "url": origin}])
            cable.cut()
        for page in evening.pages.values():
            await page.wait_for_function("renewed > 0", timeout=30_000)
        await evening.publish()
        await evening.seen()

        await evening.publisher.ready(job)
        for page in evening.pages.values():
            await page.wait_for_function("Object.values(watches).every((one) => one.status === 'ended')")
            assert await page.evaluate("Object.values(said).flat()") == []
        asked = [cable.connections for cable in evening.cables]
        await asyncio.sleep(1)
        assert [cable.connections for cable in evening.cables] == asked
