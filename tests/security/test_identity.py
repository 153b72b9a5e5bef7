"""Who is who, on a real hub: no key known yet, the session endpoint, and why somebody was refused."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time

import httpx
import pytest

from tests.support import producers
from tests.support.browser import ROOT
from tests.support.live import SECRET, live_hub, operator, token
from tests.support.viewer import bearer, dashboard, view, with_headers

DEAD = {"jwt_secret": None, "jwks_url": "http://127.0.0.1:9/keys"}


@pytest.mark.parametrize("wire", ["fast", "portable"])
@pytest.mark.parametrize("overridden", [False, True])
async def test_while_no_key_is_known_a_browser_is_told_to_come_back(real_redis, wire, overridden):
    """An EventSource never returns from a 404, nor from a 503."""
    async with live_hub(real_redis, wire=wire, overridden=overridden, **DEAD) as live:
        job = await producers.job(live)
        async with view(live, "sse", job) as viewer:
            assert viewer.status == 200
            assert [seen.name for seen in await viewer.all()] == ["reconnect"]
        for socket in (view(live, "websocket", job), dashboard(live)):
            async with socket as viewer:
                await viewer.all()
                assert viewer.code == 4013


async def test_while_no_key_is_known_a_program_gets_503(real_redis):
    """On every endpoint, for a job that exists and for one that does not."""
    async with live_hub(real_redis, **DEAD) as live:
        job = await producers.job(live)
        for name in (job, "nowhere"):
            for path in ("", "/events", "/events/stream", "/stream", "/events/ws"):
                async with with_headers(live, f"/api/jobs/{name}{path}", bearer()) as viewer:
                    assert (viewer.status, viewer.headers["retry-after"]) == (503, "3"), path
        async with httpx.AsyncClient(base_url=live.url) as client:
            assert (await client.get("/api/session", headers=bearer())).status_code == 503


async def test_the_session_says_who_asks_and_until_when(real_redis):
    """And nothing else, to nobody else."""
    async with live_hub(real_redis) as live, httpx.AsyncClient(base_url=live.url) as client:
        until = int(time.time()) + 100
        answer = await client.get(
            "/api/session", headers={"Authorization": f"Bearer {token('ada', exp=until)}"}
        )
        assert (answer.status_code, answer.json()) == (200, {"user": "ada", "expires": until})
        assert answer.headers["cache-control"] == "no-store"
        for headers in (
            {},
            {"Authorization": "Bearer x"},
            {"Authorization": f"Bearer {token('ada', exp=1)}"},
        ):
            answer = await client.get("/api/session", headers=headers)
            assert (answer.status_code, answer.json()) == (401, {"detail": "Not signed in"})
            assert answer.headers["cache-control"] == "no-store"


async def test_the_operator_sees_why(real_redis):
    """The client sees 404 each time."""
    async with live_hub(real_redis) as live, httpx.AsyncClient(base_url=live.url) as client:
        job = await producers.job(live)
        expired = {"Authorization": f"Bearer {token('ada', exp=1)}"}
        foreign = {"Cookie": f"__session={token('ada')}", "Origin": "https://evil.example"}
        for name, headers in (
            (job, {}),
            (job, expired),
            (job, bearer("eve")),
            ("nowhere", bearer()),
            (job, foreign),
        ):
            assert (await client.get(f"/api/jobs/{name}", headers=headers)).status_code == 404
        metrics = (await client.get("/metrics", headers=operator())).text
        for reason in ("missing", "expired", "owner", "unknown", "origin"):
            assert f'hub_auth_refused_total{{reason="{reason}"}} 1.0' in metrics
        assert 'hub_auth_refused_total{reason="signature"} 0.0' in metrics


def inspect(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hub", "token", "--inspect"],
        input=text,
        cwd=ROOT,
        env=os.environ | {"HUB_JWT_SECRET": SECRET},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_a_token_can_be_inspected():
    """It is read from stdin, so that it is in no list of processes; and is not printed."""
    good, expired = token("ada"), token("ada", exp=5)
    result = await asyncio.to_thread(inspect, good + "\n")
    assert result.returncode == 0
    assert "signs in 'ada'" in result.stdout
    result = await asyncio.to_thread(inspect, expired)
    assert result.returncode == 1
    assert "sub 'ada'" in result.stdout
    assert result.stderr.startswith("push-hub: this token is refused: expired")
    assert expired not in result.stdout + result.stderr
    result = await asyncio.to_thread(inspect, "nonsense")
    assert (result.returncode, "malformed" in result.stderr) == (1, True)
    assert "Traceback" not in result.stderr
