"""The shortest way through everything."""


async def test_events_reach_both_transports(viewer, publisher, job):
    """SSE and WebSocket viewers get what a worker publishes, with the same ids, and then the end."""
    over = {transport: viewer(transport) for transport in ("sse", "websocket")}
    for one in over.values():
        await one.connected()
    await publisher.stage_started(job, "code", "hello")
    await publisher.ready(job)
    for one in over.values():
        await one.ended("ready")
        await one.saw_exactly(2)
        assert one.connections == 1
    assert over["sse"].events == over["websocket"].events
