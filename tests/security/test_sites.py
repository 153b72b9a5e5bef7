"""Pages of every kind of site in a real Chromium, over TLS: only the hub's own origin learns anything."""

from __future__ import annotations

import asyncio
import json
import subprocess
from contextlib import asynccontextmanager

import pytest
import uvicorn
from playwright.async_api import Page, async_playwright
from starlette.responses import HTMLResponse

from hub import create_app
from hub.serve.server import listen
from tests.support import producers
from tests.support.browser import ARGUMENTS, find_chromium
from tests.support.live import Live, live_hub, settings, token

OWN, SIBLING, OTHER = "hub.example.test", "blog.example.test", "evil.test"

TRY = """async ([hub, job]) => {
  const once = (target, good, bad) => new Promise((done) => {
    for (const name of good) target.addEventListener(name, () => done("yes"), {once: true});
    for (const name of bad) target.addEventListener(name, () => done("no"), {once: true});
    setTimeout(() => done("silence"), 4000);
  });
  const load = (kind, name, rel) => {
    const element = document.createElement(kind);
    if (kind === "link") { element.rel = rel; element.href = hub + name; } else element.src = hub + name;
    const done = once(element, ["load"], ["error"]);
    document.head.append(element);
    return done;
  };
  const path = `/api/jobs/${job}`;
  const found = {};
  try { found.fetch = (await fetch(hub + path, {credentials: "include"})).status; } catch { found.fetch = "no"; }
  try { found.opaque = (await fetch(hub + path, {credentials: "include", mode: "no-cors"})).type; } catch { found.opaque = "no"; }
  const source = new EventSource(hub + path + "/events/stream", {withCredentials: true});
  found.stream = await once(source, ["hello"], ["error"]);
  source.close();
  const socket = new WebSocket(hub.replace("https", "wss") + path + "/events/ws");
  found.socket = await once(socket, ["open"], ["error", "close"]);
  socket.close();
  found.script = await load("script", path);
  found.style = await load("link", path, "stylesheet");
  found.image = await load("img", path);
  return found;
}"""


@asynccontextmanager
async def over_tls(client, directory):
    """The hub over TLS, on every name; each name also has an empty page."""
    names = ",".join(f"DNS:{name}" for name in (OWN, SIBLING, OTHER))
    files = directory / "key.pem", directory / "cert.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=t"
    subprocess.run(
        [*command.split(), "-addext", f"subjectAltName={names}", "-keyout", files[0], "-out", files[1]],
        check=True,
        capture_output=True,
    )
    place = client.connection_pool.connection_kwargs
    app = create_app(settings(redis_url=f"redis://{place['host']}:{place['port']}/0"))

    @app.get("/page")
    async def page() -> HTMLResponse:
        return HTMLResponse(
            "<!doctype html><title>page</title>", headers={"Content-Security-Policy": "img-src *"}
        )

    sock = listen("127.0.0.1", 0)
    config = uvicorn.Config(
        app, ssl_keyfile=files[0], ssl_certfile=files[1], log_level="error", ws="websockets-sansio"
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve([sock]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield app, sock.getsockname()[1]
    finally:
        server.should_exit = True
        await running


@asynccontextmanager
async def browser_page(port: int):
    """A page of a browser for which every name is this machine, and which is signed in for the whole site."""
    async with async_playwright() as playwright:
        path = find_chromium(playwright)
        if path is None:
            pytest.skip("no Chromium")
        rules = ["--host-resolver-rules=MAP *.test 127.0.0.1"]
        browser = await playwright.chromium.launch(executable_path=path, args=[*ARGUMENTS, *rules])
        context = await browser.new_context(ignore_https_errors=True)
        for same_site in ("Lax", "None"):
            await context.add_cookies(
                [
                    {
                        "name": "__session",
                        "value": token(),
                        "domain": ".example.test",
                        "path": "/",
                        "secure": True,
                        "httpOnly": True,
                        "sameSite": same_site,
                    }
                ]
            )
        yield await context.new_page()
        await browser.close()


async def attempts(page: Page, port: int, where: str, job: str) -> dict:
    """What a page of `where` gets of the hub at its own name."""
    hub = f"https://{OWN}:{port}"
    if where != "null":
        await page.goto(f"https://{where}:{port}/page")
        return await page.evaluate(TRY, [hub, job])
    await page.goto(f"{hub}/page")
    await page.evaluate("""() => { const frame = document.createElement("iframe"); frame.sandbox = "allow-scripts";
        frame.srcdoc = "<!doctype html>"; document.body.append(frame); }""")
    await page.wait_for_timeout(300)
    return await page.frames[1].evaluate(TRY, [hub, job])


async def test_a_page_of_another_site_cannot_tell_a_users_job_from_none(real_redis, tmp_path):
    """Nor read or open it: by a fetch, a stream, a socket, or by whether a script, a style or an image loads."""
    async with (
        live_hub(real_redis) as live,
        over_tls(real_redis, tmp_path) as (app, port),
        browser_page(port) as page,
    ):
        mine, foreign = await producers.job(live, events=1), await producers.job(live, user="eve")
        own = await attempts(page, port, OWN, mine)
        assert (own["fetch"], own["stream"], own["socket"]) == (200, "yes", "yes"), own
        for where in (SIBLING, OTHER, "null"):
            found = {json.dumps(await attempts(page, port, where, job)) for job in (mine, foreign, "nowhere")}
            assert len(found) == 1, (where, found)
            (only,) = found
            seen = json.loads(only)
            assert (seen["fetch"], seen["stream"], seen["socket"], seen["script"]) == (
                "no",
                "no",
                "no",
                "no",
            ), where
        assert isinstance(live, Live)
        refused = app.state.push_hub.statistics().auth_refused_origin
        assert refused > 0, "the cookie came, and did not count"
