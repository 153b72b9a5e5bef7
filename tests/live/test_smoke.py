"""The shortest way through everything."""

from tests.support.live import frames


async def test_events_reach_both_transports(live):
    """SSE and WebSocket viewers get what a worker publishes, with the same ids, and then the end."""
    await live.jobs.create_job("a", user_id="ada")
    async with live.sse("a") as sse, live.websocket("a") as ws:
        await live.until(lambda: live.hub.statistics().viewers == 2)
        await live.publisher.stage_started("a", "code", "hello")
        await live.publisher.ready("a")
        over_sse = await sse.all()
        over_ws = await frames(ws)
    assert sse.ended
    assert [m.event for m in over_sse] == ["message", "message", "end"]
    assert [m.id for m in over_sse[:2]] == [f["id"] for f in over_ws[:2]]
    assert over_ws[-1] == {"type": "end", "status": "ready"}
    assert ws.close_code == 1000
