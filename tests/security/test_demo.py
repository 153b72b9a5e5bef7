"""The demo on a network: its session goes to loopback hosts, or to who has the key; its Redis has a password."""

from __future__ import annotations

import re

import httpx
import pytest
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError

from tests.live.test_cli import environment, running


async def test_the_demo_gives_its_session_to_nobody_else():
    """A page of another name (DNS rebinding), and a stranger on the network, get no cookie."""
    words = ("demo", "--no-browser", "--host", "0.0.0.0", "--port", "0", "--pace", "0.2")
    async with running(*words, env=environment()) as demo:
        redis_port = int((await demo.error_line(r"Redis .* on port (\d+)"))[1])
        url, key = (await demo.error_line(r"Watch +(http://\S+?)/\?key=(\S+)")).groups()
        port = url.rpartition(":")[2]
        async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(retries=5)) as client:
            for host, query, status in (
                ("127.0.0.1", "", 200),
                ("localhost", "", 200),
                ("evil.example", "", 404),
                ("192.0.2.7", "", 404),
                ("192.0.2.7", "?key=wrong", 404),
                ("192.0.2.7", f"?key={key}", 200),
            ):
                for path in ("", "dashboard"):
                    where = f"http://127.0.0.1:{port}/{path}{query}"
                    answer = await client.get(where, headers={"Host": f"{host}:{port}"})
                    assert answer.status_code == status, (host, query)
                    assert ("set-cookie" in answer.headers) is (status == 200)
                    if status == 200:
                        assert re.search(r"script-src 'self'[;\s]", answer.headers["content-security-policy"])
        async with Redis(port=redis_port) as redis:
            with pytest.raises(AuthenticationError):
                await redis.ping()
