"""Tests of an application that builds on the hub: `pytest examples/test_example.py`.

`pip install 'push-hub[testing]'` brings the fixtures `push_hub`, `job`, `publisher` and `viewer`
(docs/testing.md).
"""

import pytest


async def build(publisher, job):
    """A worker of yours."""
    for stage in ("scaffold", "code"):
        await publisher.stage_started(job, stage)
        await publisher.stage_completed(job, stage, duration=1.0)
    await publisher.ready(job)


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_a_user_sees_the_build(viewer, publisher, job, transport):
    watching = viewer(transport)
    await build(publisher, job)
    await watching.saw("build.stage.started", stage="code")
    await watching.saw_exactly(5)
    await watching.ended("ready")


async def test_nothing_is_missed_through_a_cut_a_lost_message_and_a_deploy(push_hub, viewer, publisher, job):
    watching = viewer("sse")
    await watching.connected()
    await publisher.emit(job, "step", {"n": 1})
    await push_hub.cut()
    push_hub.lose(1)
    await publisher.emit(job, "step", {"n": 2})
    await push_hub.drain()
    await publisher.ready(job)
    await watching.saw_exactly(3)
    await watching.ended("ready")


async def test_another_user_is_told_nothing(viewer):
    await viewer("websocket", user="grace").was_refused()


async def test_an_idle_stream_has_a_heartbeat(push_hub, viewer):
    watching = viewer("sse")
    await watching.connected()
    await push_hub.advance(16)
    await watching.saw("heartbeat")
