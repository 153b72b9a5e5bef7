"""What a user does costs the user: commands by their answers, misses and joins by their number."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from contextlib import suppress

import httpx
import pytest
import pytest_asyncio
from websockets.exceptions import ConnectionClosed

from hub.engine.rates import Rate
from tests.support import producers
from tests.support.live import USER, live_hub, token
from tests.support.viewer import bearer, dashboard, view, with_headers


@pytest_asyncio.fixture(params=["fast", "portable"])
async def live(real_redis, request):
    async with live_hub(real_redis, wire=request.param) as hub:
        yield hub


async def test_states_are_charged_by_their_bytes(live):
    """Ten of a megabyte at once are a flood; a hundred small ones are not."""
    small, large = await producers.job(live, events=1), await producers.job(live, events=1)
    await live.publisher.emit(large, "big", {"x": "x" * 900_000})
    async with view(live, "websocket", small) as viewer:
        for ref in range(100):
            await viewer.say("state", ref=ref)
            await viewer.answer(ref)
    for board in (False, True):
        async with dashboard(live) if board else view(live, "websocket", large) as viewer:
            if board:
                await viewer.say("subscribe", job=large)
            await viewer.until("big")
            with suppress(ConnectionClosed):
                for ref in range(10):
                    await viewer.say("state", ref=ref, **({"job": large} if board else {}))
            seen = await viewer.all()
            assert viewer.code == 1008
            assert len([one for one in seen if one.name == "state"]) <= 5


async def test_unknown_jobs_are_slowed_down_and_others_are_not(real_redis):
    """For the user that asks for them."""
    async with live_hub(real_redis, max_misses=5) as live:
        job = await producers.job(live, events=1)

        async def ask(client, name) -> float:
            began = time.monotonic()
            assert (await client.get(f"/api/jobs/{name}")).status_code == (200 if name == job else 404)
            return time.monotonic() - began

        async with httpx.AsyncClient(base_url=live.url, headers=bearer(), timeout=20) as client:
            await asyncio.gather(*(ask(client, f"x{n}") for n in range(5)))
            held_back = asyncio.create_task(ask(client, "x6"))
            assert await ask(client, job) < 3
            async with httpx.AsyncClient(base_url=live.url, headers=bearer("bob")) as other:
                await ask(other, "x7")
            assert not held_back.done()
            held_back.cancel()
            await asyncio.gather(held_back, return_exceptions=True)
        await live.until(lambda: not live.hub.admission._waits, timeout=8)


async def test_joins_are_bounded_and_the_advice_grows(real_redis):
    """A browser gets `reconnect` with a longer wait each time, another client `Retry-After`."""
    async with live_hub(real_redis, max_viewers_per_user=20, max_viewers_per_user_and_job=20) as live:
        job = await producers.job(live, events=1)
        async with httpx.AsyncClient(base_url=live.url, headers=bearer()) as client:
            path, statuses = f"/api/jobs/{job}", []
            async with asyncio.timeout(60):  # four more come each second, and a machine may be slow
                while statuses.count(503) < 50:
                    statuses.append((await client.get(path)).status_code)
            assert statuses[:200] == [200] * 200
            ticket = await client.post(f"/api/jobs/{job}/tickets", json={})
            assert ticket.status_code == 503, "tickets are kept in Redis, so they have the same rate"
            waits = []
            for _ in range(20):
                answer = await client.get(f"/api/jobs/{job}", headers=bearer())
                assert answer.status_code == 503
                waits.append(int(answer.headers["retry-after"]))
            assert waits == sorted(waits)
            assert waits[-1] > waits[0]
        async with view(live, "sse", job) as refused:
            (seen,) = await refused.all()
            assert seen.name == "reconnect"
            assert seen.fields["after_ms"] > 8000
        async with view(live, "websocket", job) as refused:
            (seen,) = await refused.all()
            assert (seen.name, refused.code) == ("reconnect", 4013)
            assert seen.fields["after_ms"] > 8000
        other = await producers.job(live, events=1, user="bob")
        async with view(live, "sse", other, user="bob") as viewer:
            assert viewer.status == 200


async def test_a_rate_is_a_budget_of_each_user():
    """It forgets those that have all of it again."""
    rate = Rate(3, 100.0)
    assert [rate.spend("ada") for _ in range(3)] == [0, 0, 0]
    first, second = rate.spend("ada"), rate.spend("ada")
    assert 0 < first < second < 0.03
    assert rate.spend("bob") == 0
    for _ in range(100_000):
        rate.spend("eve")
    assert rate.spend("eve") <= 60.1
    rate._sweep = 2
    await asyncio.sleep(0.06)
    assert rate.spend("carl") == 0
    assert set(rate._due) == {"eve", "carl"}


async def test_an_answer_does_not_wait_for_the_past_of_a_job(real_redis):
    """A `ping` behind two megabytes waited for 13 seconds on a slow line."""
    async with live_hub(real_redis, wire="portable", window_events=5) as live:
        job = await producers.job(live)
        for n in range(40):
            await live.publisher.emit(job, "step", {"n": n, "x": "x" * 50_000})
        async with dashboard(live) as board:
            await board.say("subscribe", job=job)
            await board.say("ping", ref=1)
            seen = [await board.next()]
            while seen[-1].name != "pong":
                seen.append(await board.next())
            assert len(seen) < 20
            numbers = [one.fields["n"] for one in seen if one.name == "step"]
            while len(numbers) < 40:
                numbers.append((await board.next()).fields["n"])
            assert numbers == list(range(40)), "and no event is lost or out of order"


async def test_who_unsubscribes_while_the_past_is_sent_gets_no_more_of_it(real_redis):
    """And may subscribe again."""
    async with live_hub(real_redis, window_events=5) as live:
        job = await producers.job(live)
        for n in range(40):
            await live.publisher.emit(job, "step", {"n": n, "x": "x" * 50_000})
        async with dashboard(live) as board:
            await board.say("subscribe", job=job)
            await board.until("subscribed")
            await board.say("unsubscribe", job=job)
            await board.until("unsubscribed")
            await live.until(lambda: live.hub.statistics().viewers == 0)
            await board.say("ping")
            assert (await board.until("pong"))[-1].name == "pong"
            await board.say("subscribe", job=job, **{"from": "-1"})
            assert (await board.until("step"))[-1].fields["n"] == 39


async def test_a_dashboard_on_a_slow_line_gets_a_large_event(real_redis):
    """It was cut after ten seconds, for taking no bytes, in each of its visits."""
    async with live_hub(real_redis, send_timeout=1.0, heartbeat=0.3) as live:
        job = await producers.job(live)
        await live.publisher.emit(job, "big", {"x": "x" * 1_000_000})
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        sock.connect(("127.0.0.1", live.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=4096)
        head = (
            "GET /api/events/ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            f"Authorization: Bearer {token()}\r\n\r\n"
        )
        writer.write(head.encode())
        await reader.readuntil(b"\r\n\r\n")
        command = json.dumps({"op": "subscribe", "job": job}).encode()
        writer.write(bytes([0x81, 0x80 | len(command), 0, 0, 0, 0]) + command)
        got, began = 0, time.monotonic()
        while got < 1_000_000:
            data = await asyncio.wait_for(reader.read(16_384), 5)
            assert data, f"cut after {got} bytes"
            got += len(data)
            await asyncio.sleep(0.05)
        assert time.monotonic() - began > 2 * 1.0, "slower than the timeout"
        assert live.hub.statistics().blocked == 0
        writer.close()


@pytest.mark.parametrize("path", ["/api/jobs/{}/events/ws", "/api/events/ws"])
async def test_a_handshake_without_its_upgrade_is_the_same_for_everybody(live, path):
    """With the hint that a proxy took the header away."""
    job = await producers.job(live, events=1)
    answers = set()
    for name in (job, await producers.job(live, user="eve"), "unknown", "no id!"):
        for headers in ({}, bearer(), bearer("bob")):
            async with httpx.AsyncClient(base_url=live.url, headers=headers) as client:
                answer = await client.get(path.format(name))
                answers.add((answer.status_code, answer.headers["upgrade"], answer.content))
    ((status, upgrade, words),) = answers
    assert (status, upgrade) == (426, "websocket")
    assert b"proxy" in words


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "GET", "POST"])
@pytest.mark.parametrize(
    "path",
    [
        "/api/jobs/{}",
        "/api/jobs/{}/",
        "/api/jobs/{}/events/",
        "/api/jobs/{}/events/stream/",
        "/api/jobs/{}/tickets/",
    ],
)
async def test_whatever_is_asked_the_answer_is_that_of_an_unknown_job(live, method, path):
    """For a foreign job, whoever asks; an own one differs only where it is answered."""
    await producers.job(live, events=1)
    foreign = await producers.job(live, user="eve")
    for headers in ({}, bearer(USER)):
        async with httpx.AsyncClient(base_url=live.url, headers=headers) as client:
            found = []
            for name in (foreign, "x" * len(foreign)):
                answer = await client.request(method, path.format(name))
                kept = {
                    key: value.replace(name, "*") for key, value in answer.headers.items() if key != "date"
                }
                found.append((answer.status_code, kept, answer.content.replace(name.encode(), b"*")))
            assert found[0] == found[1]


async def test_a_socket_on_a_path_that_has_none_is_the_same_for_every_job(live):
    own, foreign = await producers.job(live, events=1), await producers.job(live, user="eve")
    statuses = set()
    for name in (own, foreign, "unknown"):
        async with with_headers(live, f"/api/jobs/{name}/nothing/ws", bearer()) as refused:
            statuses.add((refused.status, bytes(refused.body)))
    assert len(statuses) == 1
