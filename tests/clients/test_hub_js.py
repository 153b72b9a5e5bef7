"""hub.js: its pure part in Node, all of it in a real Chromium, through a proxy that does everything wrong."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import random
import shutil
import subprocess
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest
from starlette.responses import HTMLResponse

from hub.web.client import hub_js
from tests.support import producers
from tests.support.browser import chromium
from tests.support.live import Live, live_hub, token
from tests.support.npm import npm

HERE = Path(__file__).parent
NUMBER = 160


def test_the_pure_part():
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node")
    result = subprocess.run(
        [node, "--test", HERE / "hub.test.mjs"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout


def test_it_is_small_and_needs_nothing():
    text = hub_js()
    assert len(gzip.compress(text.encode())) <= 9 * 1024
    assert "import " not in "".join(line for line in text.splitlines() if not line.startswith("//"))


KINDS = ("whole", "502", "silent", "cut", "reset", "mute")


class Chaos:
    """A TCP proxy in front of a hub. While `on`, a seeded choice decides what happens to each connection."""

    def __init__(self, port: int, seed: int) -> None:
        self.on = False
        self.done: dict[str, int] = {}
        self._deck: list[str] = []
        self._upstream = port
        self._random = random.Random(seed)
        self._open: set[asyncio.Task] = set()

    async def __aenter__(self) -> Chaos:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._open.add(task)
        kind = self._next() if self.on else "whole"
        self.done[kind] = self.done.get(kind, 0) + 1
        try:
            with suppress(OSError, TimeoutError):
                await self._play(kind, reader, writer)
        finally:
            self._open.discard(task)
            writer.transport.abort()

    def begin(self) -> None:
        """Break what is open, and whatever comes from now on."""
        self.on = True
        for task in self._open:
            task.cancel()

    def _next(self) -> str:
        """One of each, in a random order, again and again."""
        if not self._deck:
            self._deck = self._random.sample(KINDS, len(KINDS))
        return self._deck.pop()

    async def _play(self, kind: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if kind == "502":
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno!")
            await writer.drain()
            writer.close()
            return
        if kind == "silent":
            await asyncio.sleep(self._random.uniform(0.5, 3))
            return
        upstream, out = await asyncio.open_connection("127.0.0.1", self._upstream)
        limit = {"cut": self._random.uniform(0.2, 1.5), "reset": self._random.uniform(0.05, 0.5)}.get(
            kind, 2 if self.on else 60
        )
        try:
            async with asyncio.timeout(limit):
                up = asyncio.create_task(_pump(reader, out))
                # "mute": the cable is silent after a while, and nobody closes it
                await _pump(upstream, writer, until=time.monotonic() + 0.7 if kind == "mute" else None)
                up.cancel()
        finally:
            out.transport.abort()


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, until: float | None = None
) -> None:
    while data := await reader.read(65_536):
        if until is not None and time.monotonic() > until:
            await asyncio.sleep(20)
            return
        writer.write(data)
        await writer.drain()


PAGE = "<!doctype html><title>page</title><script type=module>import * as hub from '/hub.js'; window.hub = hub;</script>"


@asynccontextmanager
async def page_on(live: Live, port: int, **cookies: str):
    """A page of the proxy's origin, with hub.js in `window.hub`, signed in."""
    async with tabs_on(live, port, 1, **cookies) as (made,):
        yield made


@asynccontextmanager
async def tabs_on(live: Live, port: int, number: int, **cookies: str):
    """So many pages of one browser."""

    @live.app.get("/page")
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE)

    async with chromium() as browser:
        context = await browser.new_context()
        origin = f"http://127.0.0.1:{port}"
        for name, value in ({"__session": token()} | cookies).items():
            if value:
                await context.add_cookies([{"name": name, "value": value, "url": origin}])
        said: list[str] = []
        pages = []
        for _ in range(number):
            made = await context.new_page()
            made.on("pageerror", lambda error: said.append(str(error)))
            await made.goto(f"{origin}/page")
            await made.wait_for_function("window.hub")
            pages.append(made)
        yield pages
        assert said == []


COLLECT = """([job, transport]) => { const w = hub.watch(job, {transport, share: false}); const seen = []; const said = [];
  window.seen = {...window.seen, [transport]: seen}; window.watches = {...window.watches, [transport]: w};
  for (const kind of ["gap", "resync"]) w.addEventListener(kind, (e) => said.push(e.detail));
  window.said = {...window.said, [transport]: said};
  (async () => { for await (const event of w) seen.push(event.n ?? event.type); })(); }"""


@pytest.mark.parametrize("seed", [1, *range(2, int(os.environ.get("PUSH_HUB_CHAOS", "1")) + 1)])
async def test_every_transport_sees_every_event_once_through_chaos(real_redis, seed):
    """502, silence at the start, silence later, cuts and resets, and a hub that is full."""
    transports = ("websocket", "sse", "poll", "auto")
    async with (
        live_hub(real_redis, heartbeat=1, retry=0.2, max_viewers_per_user_and_job=100) as live,
        Chaos(live.port, seed) as chaos,
    ):
        job = await producers.job(live)
        async with page_on(live, chaos.port) as page:
            for transport in transports:
                await page.evaluate(COLLECT, [job, transport])
            chaos.begin()
            for n in range(NUMBER):
                await live.publisher.emit(job, "step", {"n": n, "text": "a\nb \u2028 \U0001f680"})
                await asyncio.sleep(0.05)
            chaos.on = False
            await live.publisher.ready(job)
            for transport in transports:
                await page.wait_for_function(f"watches['{transport}'].status === 'ended'", timeout=60_000)
                seen = await page.evaluate(f"seen['{transport}']")
                assert seen == [*range(NUMBER), "build.stage.started"], transport
                assert await page.evaluate(f"said['{transport}']") == []
            states = await page.evaluate(
                "Object.values(watches).map((one) => [one.state.status, one.state.ended])"
            )
            assert states == [["ready", True]] * 4
            assert set(chaos.done) == set(KINDS)
            asked = sum(chaos.done.values())
            await page.wait_for_timeout(1500)
            assert sum(chaos.done.values()) == asked, "no request after the end"


async def test_it_stops_with_an_error_that_a_page_can_show(real_redis):
    """For a job that is not there, one that is another's, and without a session; after one try to renew."""
    async with live_hub(real_redis) as live:
        foreign = await producers.job(live, user="eve")
        ask = "([job, options]) => hub.watch(job, options).done.then(() => 'done', (error) => [error.name, error.code])"
        async with page_on(live, live.port) as page:
            for job in ("nowhere", foreign):
                for transport in ("websocket", "sse", "poll", "auto"):
                    assert await page.evaluate(ask, [job, {"transport": transport}]) == [
                        "WatchError",
                        "not_found",
                    ]
        async with page_on(live, live.port, __session="") as page:
            for transport in ("websocket", "sse", "poll"):
                assert await page.evaluate(ask, [foreign, {"transport": transport}]) == [
                    "WatchError",
                    "unauthorized",
                ]
            calls = "async ([job]) => { let n = 0; const w = hub.watch(job, {renew: () => { n += 1; }}); await w.done.catch(() => 0); return [n, w.error.code, w.status]; }"
            assert await page.evaluate(calls, [foreign]) == [1, "unauthorized", "failed"]


async def test_it_renews_a_session_that_has_expired(real_redis):
    """And goes on where it was; a token by a function is asked for at each connect."""
    async with live_hub(real_redis, stream_age=20, jwt_leeway=0) as live:
        job = await producers.job(live, events=2)
        async with page_on(live, live.port, __session=token(exp=int(time.time()) + 2)) as page:
            await page.evaluate(
                "([job, fresh]) => { window.n = []; window.renewed = 0; window.w = hub.watch(job, {renew() { window.renewed += 1; document.cookie = `__session=${fresh};path=/`; }});"
                " w.addEventListener('event', (e) => n.push(e.detail.n)); }",
                [job, token()],
            )
            await page.wait_for_function("n.length === 2")
            await page.wait_for_function("renewed === 1", timeout=15_000)
            await producers.publish(live, job, 1, start=2)
            await page.wait_for_function("n.length === 3", timeout=15_000)
            assert await page.evaluate("n") == [0, 1, 2]
            await page.evaluate("w.close()")
        async with page_on(live, live.port, __session="") as page:
            await page.evaluate(
                "([job, token]) => { window.asked = 0; window.n = []; window.w = hub.watch(job, {token: async () => { asked += 1; return token; }});"
                " w.addEventListener('event', (e) => n.push(e.detail.n)); }",
                [job, token()],
            )
            await page.wait_for_function("n.length === 3")
            assert await page.evaluate("[asked, w.transport, w.status]") == [1, "sse", "live"]
            await page.evaluate("w.close()")


async def test_it_falls_back_when_a_proxy_eats_the_upgrade(real_redis):
    """To SSE; where that shows nothing either, to the long poll."""
    async with live_hub(real_redis, retry=0.1) as live:
        job = await producers.job(live, events=1)
        async with page_on(live, live.port) as page:
            await page.route("**/events/ws*", lambda route: route.abort())
            await page.evaluate(
                "() => { window.WebSocket = class { constructor() { setTimeout(() => this.onclose({code: 1006}), 10); } close() {} }; }"
            )
            await page.evaluate(
                "([job]) => { window.w = hub.watch(job); w.addEventListener('event', (e) => window.got = e.detail.n); }",
                [job],
            )
            await page.wait_for_function("window.got === 0", timeout=15_000)
            assert await page.evaluate("w.transport") == "sse"
            await page.evaluate("w.close()")
            await page.route("**/events/stream*", lambda route: route.abort())
            await page.evaluate(
                "([job]) => { window.got = null; window.w = hub.watch(job); w.addEventListener('event', (e) => window.got = e.detail.n); }",
                [job],
            )
            await page.wait_for_function("window.got === 0", timeout=15_000)
            assert await page.evaluate("w.transport") == "poll"
            await page.evaluate("w.close()")


async def test_it_is_a_store_for_react(real_redis):
    """A new object for each change, the same one otherwise; listeners may leave."""
    async with live_hub(real_redis) as live:
        job = await producers.job(live)
        async with page_on(live, live.port) as page:
            await page.evaluate(
                "([job]) => { window.w = hub.watch(job); window.seen = []; window.leave = w.subscribe(() => seen.push(w.getSnapshot())); }",
                [job],
            )
            await live.publisher.stage_started(job, "code", "go")
            await live.publisher.stage_completed(job, "code", 1.5)
            await page.wait_for_function("w.state.stages[0]?.done")
            assert await page.evaluate("new Set(seen).size > 2 && w.getSnapshot() === w.getSnapshot()")
            assert await page.evaluate("w.state.stages") == [
                {"name": "code", "done": True, "narration": "go", "duration": 1.5}
            ]
            before = await page.evaluate("leave() && seen.length")
            await live.publisher.ready(job)
            await page.wait_for_function("w.status === 'ended'")
            assert await page.evaluate("seen.length") == before


async def test_the_hub_serves_it_with_an_etag(real_redis):
    async with live_hub(real_redis) as live, httpx.AsyncClient(base_url=live.url) as client:
        first = await client.get("/hub.js")
        assert (first.status_code, first.text) == (200, hub_js())
        assert first.headers["content-type"].startswith("text/javascript")
        again = await client.get("/hub.js", headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_the_package_is_one_that_npm_packs(tmp_path):
    where = HERE.parents[1] / "hub/static/client"
    (packed,) = json.loads(npm(tmp_path, "pack", "--json", str(where)))
    assert {one["path"] for one in packed["files"]} == {
        "hub.js",
        "hub.d.ts",
        "react.js",
        "react.d.ts",
        "package.json",
    }


async def test_eight_tabs_have_one_connection(real_redis):
    """Over HTTP/1.1, where a browser opens six. When the leader is closed another one leads, and nothing is lost."""
    async with live_hub(real_redis, heartbeat=1) as live:
        job = await producers.job(live, events=3)
        async with tabs_on(live, live.port, 8) as tabs:
            for tab in tabs:
                await tab.evaluate(
                    "([job]) => { window.n = []; window.w = hub.watch(job); w.addEventListener('event', (e) => n.push(e.detail.n)); }",
                    [job],
                )
                await tab.wait_for_function("n.length === 3")
            await live.until(lambda: live.hub.statistics().viewers == 1)
            await producers.publish(live, job, 5, start=3)
            for tab in tabs:
                await tab.wait_for_function("n.length === 8")
            for closed in range(2):
                await tabs[closed].close()
                await producers.publish(live, job, 5, start=8 + 5 * closed)
                for tab in tabs[closed + 1 :]:
                    await tab.wait_for_function(f"n.length === {13 + 5 * closed}", timeout=15_000)
                    assert await tab.evaluate("n") == list(range(13 + 5 * closed))
                await live.until(lambda: live.hub.statistics().viewers == 1)
            late = tabs[2]
            await late.evaluate("w.close()")
            await producers.publish(live, job, 2, start=18)
            await live.publisher.ready(job)
            for tab in tabs[3:]:
                await tab.wait_for_function("w.status === 'ended'", timeout=15_000)
                assert await tab.evaluate("n.filter((one) => one !== undefined)") == list(range(20))
                assert await tab.evaluate("w.state.status") == "ready"
            await live.until(lambda: live.hub.statistics().viewers == 0)


async def test_a_dashboard_sees_every_event_of_every_job_once_through_chaos(real_redis):
    """Three jobs on one WebSocket; a job that is watched later; one that is somebody else's; one that is left."""
    async with (
        live_hub(real_redis, heartbeat=1, retry=0.2, max_viewers_per_user_and_job=100) as live,
        Chaos(live.port, 3) as chaos,
    ):
        jobs = [await producers.job(live, events=1) for _ in range(3)]
        foreign = await producers.job(live, user="eve")
        async with page_on(live, chaos.port) as page:
            await page.evaluate(
                """(ids) => { window.board = hub.dashboard(); window.seen = {}; window.jobs = {};
                window.follow = (id) => { const job = jobs[id] = board.watch(id); seen[id] = [];
                  (async () => { for await (const event of job) seen[id].push(event.n ?? event.type); })().catch(() => {}); };
                ids.forEach(follow); }""",
                jobs[:2],
            )
            await page.wait_for_function(
                "board.status === 'live' && Object.values(seen).every((one) => one.length)"
            )
            assert await page.evaluate("(id) => board.watch(id) === jobs[id]", jobs[0])
            await page.evaluate("(id) => follow(id)", foreign)
            await page.wait_for_function("(id) => jobs[id].error?.code === 'not_found'", arg=foreign)
            chaos.begin()
            await page.evaluate("(id) => follow(id)", jobs[2])
            for n in range(1, 60):
                for job in jobs:
                    await live.publisher.emit(job, "step", {"n": n})
                await asyncio.sleep(0.05)
            chaos.on = False
            await live.publisher.ready(jobs[0])
            for job in jobs:
                await page.wait_for_function("(id) => seen[id].includes(59)", arg=job, timeout=60_000)
            await page.wait_for_function("(id) => jobs[id].status === 'ended'", arg=jobs[0])
            ends = {job: ["build.stage.started"] if job == jobs[0] else [] for job in jobs}
            for job in jobs:
                assert await page.evaluate("(id) => seen[id]", job) == [*range(60), *ends[job]]
            assert await page.evaluate("(id) => jobs[id].state.status", jobs[0]) == "ready"
            await page.evaluate("(id) => jobs[id].close()", jobs[1])
            await live.until(lambda: live.hub.statistics().viewers == 1)
            await page.evaluate("board.close()")
            assert await page.evaluate("(id) => jobs[id].status", jobs[2]) == "closed"
            await live.until(lambda: live.hub.statistics().viewers == 0)
            assert await page.evaluate("board.status") == "closed"


async def test_a_dashboard_without_a_session_fails_with_an_error_that_a_page_can_show(real_redis):
    async with live_hub(real_redis) as live, page_on(live, live.port, __session="") as page:
        await page.evaluate("window.board = hub.dashboard(); window.job = board.watch('a');")
        await page.wait_for_function("board.status === 'failed'", timeout=20_000)
        assert await page.evaluate("[board.error.code, job.status, job.error.code]") == [
            "unauthorized",
            "failed",
            "unauthorized",
        ]
