"""The operator's endpoints do not exist for anybody else."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from hub.serve.server import listen
from tests.live.test_cli import environment, running
from tests.support import producers
from tests.support.browser import chromium
from tests.support.live import ADMIN, SECRET, live_hub, operator, token
from tests.support.viewer import view

PATHS = (
    "/metrics",
    "/docs",
    "/docs/assets/swagger-ui.css",
    "/openapi.json",
    "/asyncapi.json",
    "/admin/revoke",
    "/admin/log",
    "/admin/drain",
    "/admin",
    "/admin/static/inspector.js",
    "/admin/api/overview",
    "/admin/api/jobs/a",
    "/admin/api/jobs/a/stream",
    "/admin/api/away",
)
FREE = [
    {},
    {"Authorization": "Bearer x"},
    {"Authorization": "Bearer"},
    {"Authorization": f"Basic {ADMIN}"},
    {"Authorization": f"Bearer {token()}"},
    {"Cookie": f"__session={ADMIN}"},
    {"Host": "127.0.0.1:8001"},
    {"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Port": "8001"},
]


@pytest.mark.parametrize("headers", FREE)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS"])
async def test_a_stranger_gets_the_answer_of_a_path_that_does_not_exist(real_redis, headers, method):
    """Whatever the method, so that nobody learns what is there."""
    async with live_hub(real_redis) as live, httpx.AsyncClient(base_url=live.url, headers=headers) as client:
        expected = await client.request(method, "/nothing")
        for path in (*PATHS, "/redoc", "/docs/oauth2-redirect"):
            answer = await client.request(method, path)
            assert (answer.status_code, answer.content) == (404, expected.content), path
            got = {name: value for name, value in answer.headers.items() if name != "date"}
            assert got == {name: value for name, value in expected.headers.items() if name != "date"}


async def test_without_a_token_in_the_settings_none_is_right(real_redis):
    async with live_hub(real_redis, admin_token=None) as live:
        for headers in (*FREE, {"Authorization": "Bearer None"}):
            async with httpx.AsyncClient(base_url=live.url, headers=headers) as client:
                assert (await client.get("/metrics")).status_code == 404


async def test_on_the_admin_port_they_are_there(redis_server, real_redis):
    """And on no other, also with several workers, all of which answer there."""
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    env = environment(HUB_JWT_SECRET=SECRET, HUB_REDIS_URL=redis_server.url, HUB_ADMIN_PORT=str(port))
    admin = f"http://127.0.0.1:{port}"
    async with running("serve", "--port", "0", "--workers", "2", env=env) as command:
        url = (await command.error_line(r"listening on (http://127\.0\.0\.1:\d+)"))[1]
        assert (await command.error_line(r"metrics on (\S+)"))[1] == f"{admin}/metrics"
        async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(retries=5)) as client:
            for _ in range(8):
                async with httpx.AsyncClient() as other:
                    assert "hub_viewers" in (await client.get(f"{admin}/metrics")).text
                    assert (await other.get(f"{url}/metrics")).status_code == 404
            assert (await client.get(f"{admin}/docs")).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 404),
        ({"Sec-Fetch-Site": "cross-site"}, 404),
        ({"Sec-Fetch-Site": "same-site"}, 404),
        ({"Host": "rebound.example", "Sec-Fetch-Site": "same-origin"}, 404),
        ({"Host": "rebound.example", "Origin": "http://rebound.example"}, 404),
        ({"Origin": "null"}, 404),
        ({"Sec-Fetch-Site": "same-origin"}, 204),
        ({"Host": "prometheus.internal"}, 204),
        ({}, 204),
    ],
)
async def test_no_page_of_another_site_reaches_the_admin_port(real_redis, headers, status):
    """In the operator's browser: it may be on the machine of the hub."""
    async with live_hub(real_redis, admin_token=None) as live:
        live.context.admin_ports.add(live.port)
        async with httpx.AsyncClient(base_url=live.url, headers=headers) as client:
            answer = await client.post("/admin/revoke", json={"user": "nobody"})
            assert answer.status_code == status


async def test_the_operator_revokes(real_redis):
    async with (
        live_hub(real_redis) as live,
        httpx.AsyncClient(base_url=live.url, headers=operator()) as client,
    ):
        job = await producers.job(live, events=1)
        async with view(live, "websocket", job) as viewer:
            await viewer.until("step")
            assert (await client.post("/admin/revoke", json={"user": "ada"})).status_code == 204
            await viewer.all()
            assert viewer.code == 4401
        for body in ({}, {"user": ""}, {"user": "ada", "job": "a b"}, {"user": "ada", "more": 1}):
            assert (await client.post("/admin/revoke", json=body)).status_code == 422


async def test_readiness_asks_redis_once_a_second_for_all(real_redis, monkeypatch):
    """A stranger's thousand questions are one of ours."""
    async with live_hub(real_redis) as live, httpx.AsyncClient(base_url=live.url) as client:
        await live.until(lambda: live.hub.broker.subscriber.connected)
        asked = 0
        ping = live.hub.broker.ping

        async def counted():
            nonlocal asked
            asked += 1
            await ping()

        monkeypatch.setattr(live.hub.broker, "ping", counted)
        answers = await asyncio.gather(*(client.get("/readyz") for _ in range(50)))
        assert {answer.status_code for answer in answers} == {200}
        assert asked == 1


async def test_the_interactive_documentation_loads_nothing_from_elsewhere(real_redis):
    """And works, under a policy without `unsafe-inline`."""
    async with live_hub(real_redis, admin_token=None) as live, chromium() as browser:
        live.context.admin_ports.add(live.port)
        page = await browser.new_page()
        loaded, said = [], []
        page.on("request", lambda request: loaded.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        await page.goto(f"{live.url}/docs")
        await page.wait_for_selector(".opblock-summary-path")
        paths = await page.locator(".opblock-summary-path").all_inner_texts()
        assert any("tickets" in path for path in paths)
        assert all(url.startswith((live.url, "data:")) for url in loaded), loaded
        assert not [text for text in said if "Content Security" in text and "style" not in text], said


async def test_every_answer_has_the_headers_that_keep_it_from_other_pages(real_redis):
    """Also those of FastAPI and Starlette; what is one user's is stored by nobody."""
    async with live_hub(real_redis) as live:
        job = await producers.job(live, events=1)
        mine = {"Authorization": f"Bearer {token()}"}
        async with httpx.AsyncClient(base_url=live.url, headers=mine) as client:
            private = [
                await client.get(f"/api/jobs/{job}"),
                await client.get(f"/api/jobs/{job}/events"),
                await client.get("/api/jobs/unknown"),
                await client.get("/api/jobs/unknown/events/stream"),
                await client.get("/api/session"),
                await client.post(f"/api/jobs/{job}/tickets", json={}),
            ]
            async with client.stream("GET", f"/api/jobs/{job}/events/stream") as stream:
                private.append(stream)
            other = [
                await client.get("/nothing"),
                await client.post(f"/api/jobs/{job}"),
                await client.get(f"/api/jobs/{job}/events?limit=x"),
                await client.get("/healthz"),
                await client.get("/readyz"),
                await client.get("/metrics", headers=operator()),
                await client.get("/docs", headers=operator()),
                await client.get(f"/api/jobs/{job}/events/ws"),
            ]
    for answer in private:
        assert "no-store" in answer.headers["cache-control"], answer.request.url
        assert answer.headers["vary"] == "Authorization, Cookie, Origin"
    for answer in (*private, *other):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["referrer-policy"] == "no-referrer"
    pages = [answer for answer in other if answer.headers["content-type"].startswith("text/html")]
    assert len(pages) == 1
    for page in pages:
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
        assert "unsafe" not in page.headers["content-security-policy"]
    assert json.loads(private[2].content) == {"detail": "Job not found"}
