"""Streams end by age and resume, in virtual time."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.contract.test_heartbeat import app, new_job, now, sse, websocket
from tests.support import producers

__all__ = ["app"]

pytestmark = pytest.mark.looptime

TICK = 5.0
"""Seats are checked every five seconds, dashboards every second."""


def in_the_last_fifth(seconds: float) -> bool:
    """Returns True for 80 to 100 % of an hour, plus a tick."""
    return 2880 <= seconds <= 3600 + TICK


async def test_an_event_stream_ends_after_most_of_an_hour(app):
    """The last frame is `reconnect` with a short delay; the browser resumes with its cursor."""
    job = await new_job(app)
    async with sse(app, job) as seen:
        await asyncio.sleep(4000)
        (at, last) = seen()[-1]
        assert in_the_last_fifth(at)
        assert (last.event, last.json["reason"]) == ("reconnect", "stream is old, resume")
        assert 200 <= last.json["after_ms"] <= 400
        await producers.shout(app.state.client, job, {"type": "step"})
        await asyncio.sleep(1)
        assert seen()[-1] == (at, last)


@pytest.mark.parametrize("path", ["/api/jobs/{job}/events/ws", "/api/events/ws"])
async def test_a_websocket_ends_after_most_of_an_hour(app, path):
    """A `reconnect` frame ends a socket; a dashboard gets one for all its jobs, also without jobs."""
    async with websocket(app, path.format(job=await new_job(app))) as (seen, _):
        await asyncio.sleep(4000)
        at, last = seen()[-1]
        assert in_the_last_fifth(at)
        assert last["type"] == "reconnect"
        assert [json.dumps(frame) for _, frame in seen()].count(json.dumps(last)) == 1


async def test_viewers_that_came_together_do_not_go_together(app):
    """The ends of twenty streams are spread over several minutes, and are counted."""
    job, ends, waiting = await new_job(app), [], []

    async def watch() -> None:
        async with sse(app, job) as seen:
            await asyncio.sleep(4000)
            ends.append(seen()[-1][0])

    begun = now()
    waiting = [asyncio.create_task(watch()) for _ in range(20)]
    await asyncio.gather(*waiting)
    assert all(in_the_last_fifth(at - begun) for at in ends)
    assert max(ends) - min(ends) > 120
    assert app.state.push_hub.service(app.state.client).hub.statistics().aged == 20
