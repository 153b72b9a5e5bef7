"""How long things take, and why viewers went, as a scrape of a hub that serves has it."""

from __future__ import annotations

import re

import httpx
import pytest

from hub.broker import subscriber
from tests.support import producers
from tests.support.live import Live, live_hub, operator


async def scraped(live: Live, name: str) -> float:
    """The value of a series."""
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"{live.url}/metrics", headers=operator())).text
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found is not None, name
    return float(found[1])


@pytest.mark.parametrize("wire", ["door", "fast", "portable"])
async def test_each_way_in_is_timed_and_each_end_has_its_reason(real_redis, wire):
    async with live_hub(real_redis, wire=wire) as live:
        job = await producers.job(live, events=1)
        async with live.sse(job) as sse, live.websocket(job) as websocket, live.dashboard() as dashboard:
            await dashboard.send(f'{{"op":"subscribe","job":"{job}"}}')
            await live.until(lambda: live.hub.statistics().viewers == 3)
            await sse.next()
            await websocket.recv()
        await live.until(lambda: live.hub.statistics().viewers == 0)
        for transport in ("sse", "websocket", "dashboard"):
            assert await scraped(live, f'hub_join_seconds_count{{transport="{transport}"}}') == 1
            assert 0 < await scraped(live, f'hub_join_seconds_sum{{transport="{transport}"}}') < 5
        assert await scraped(live, 'hub_closed_total{reason="left"}') == 3
        async with live.sse(job) as sse:
            await sse.next()
            await live.publisher.ready(job)
            await sse.all()
        await live.until(lambda: live.hub.statistics().viewers == 0)
        assert await scraped(live, 'hub_closed_total{reason="ended"}') == 1
        assert await scraped(live, 'hub_join_seconds_count{transport="poll"}') == 0


async def test_the_hops_of_a_delivery_are_timed(real_redis, monkeypatch):
    monkeypatch.setattr(subscriber, "PING_INTERVAL", 0.02)
    async with live_hub(real_redis) as live:
        job = await producers.job(live)
        async with live.sse(job), live.websocket(job):
            await live.until(lambda: live.hub.statistics().viewers == 2)
            for number in range(16):  # one by one, or a slow machine makes one batch of several
                await producers.publish(live, job, 1, start=number)
                await live.until(lambda number=number: live.hub.totals.deliveries == 2 * (number + 1))
        turns = await scraped(live, 'hub_delivery_latency_seconds_count{hop="queue"}')
        assert turns == 16
        batches = await scraped(live, "hub_fanout_seconds_count")
        assert batches == 2, "one position in eight is timed"
        assert await scraped(live, 'hub_delivery_latency_seconds_count{hop="write"}') == batches
        write = await scraped(live, 'hub_delivery_latency_seconds_sum{hop="write"}')
        assert write == pytest.approx(await scraped(live, "hub_fanout_seconds_sum") / 2)
        await live.until(lambda: live.hub.statistics().timings.delivery["redis"].count >= 2)
        assert 0 < await scraped(live, 'hub_delivery_latency_seconds_sum{hop="redis"}') < 10
