"""OpenTelemetry: a span per publish and per join, and a trace that goes from the worker to the viewer's page."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from hub import SyncPublisher, tracing
from hub.errors import JobEnded
from hub.produce.publisher import Publisher
from tests.support import producers
from tests.support.live import live_hub, token
from tests.support.sse import SseViewer

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture
def spans(monkeypatch):
    """The spans that have ended. A process can set its provider only once, so the tests have one of their own."""
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    own = SimpleNamespace(
        get_tracer_provider=lambda: provider,
        get_tracer=provider.get_tracer,
        ProxyTracerProvider=trace.ProxyTracerProvider,
    )
    monkeypatch.setattr(tracing, "trace", own)
    yield lambda: list(kept.get_finished_spans())
    provider.shutdown()


async def last_event(live, job) -> dict:
    async with live.sse(job, "?from=-1") as viewer:
        return (await viewer.next()).json


async def test_an_event_carries_the_trace_of_its_publish(real_redis, redis_server, spans):
    async with live_hub(real_redis) as live:
        job = await producers.job(live)
        await Publisher(live.client, strict=True).emit(job, "step", {"n": 1})
        event = await last_event(live, job)
        (publish,) = [one for one in spans() if one.name == "push_hub.publish"]
        assert publish.attributes == {"push_hub.job": job, "push_hub.event": "step"}
        context = publish.get_span_context()
        assert event["traceparent"].startswith(f"00-{context.trace_id:032x}-{context.span_id:016x}-")
        with SyncPublisher.from_url(redis_server.url, strict=True) as blocking:
            blocking.emit(job, "step", {"traceparent": PARENT})
            assert (await last_event(live, job))["traceparent"] == PARENT, "the producer's own goes first"
            blocking.ready(job)
            with pytest.raises(JobEnded):
                blocking.emit(job, "step", {})
        failed = [one for one in spans() if one.name == "push_hub.publish"][-1]
        assert failed.status.status_code is trace.StatusCode.ERROR


@pytest.mark.parametrize("wire", ["door", "fast", "portable"])
async def test_a_join_is_a_span_of_the_requests_trace_and_ends_with_the_join(real_redis, spans, wire):
    async with live_hub(real_redis, wire=wire) as live:
        job = await producers.job(live, events=1)
        url = f"{live.url}/api/jobs/{job}/events/stream"
        async with SseViewer(url, token(), headers={"traceparent": PARENT}) as viewer:
            await viewer.next()
            (join,) = [one for one in spans() if one.name == "push_hub.join"]
            assert f"{join.get_span_context().trace_id:032x}" == TRACE
            assert f"{join.parent.span_id:016x}" == "b7ad6b7169203331"
            assert join.attributes == {"push_hub.job": job}
        async with SseViewer(f"{live.url}/api/jobs/nobodys/events/stream", token()) as viewer:
            assert viewer.status == 404
        (refused,) = [one for one in spans() if one.attributes.get("push_hub.job") == "nobodys"]
        assert refused.status.status_code is trace.StatusCode.ERROR


async def test_without_a_tracer_of_the_applications_nothing_is_added(real_redis):
    assert not tracing.is_on()
    async with live_hub(real_redis) as live:
        job = await producers.job(live, events=1)
        assert "traceparent" not in await last_event(live, job)


def test_a_real_provider_is_found(redis_server):
    code = f"""
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from hub import JobStateMachine, SyncPublisher, tracing
assert not tracing.is_on()
trace.set_tracer_provider(TracerProvider())
assert tracing.is_on()
with SyncPublisher.from_url({redis_server.url!r}, strict=True) as publish, trace.get_tracer("app").start_as_current_span("build") as span:
    publish.emit("traced", "step", {{}})
    print(f"{{span.get_span_context().trace_id:032x}}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    import redis

    with redis.Redis.from_url(redis_server.url) as client:
        ((_, entry),) = client.xrange("push-hub:{job:traced}:log")
    assert f'"traceparent":"00-{done.stdout.strip()}-'.encode() in entry[b"data"]
