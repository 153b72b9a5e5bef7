"""OpenTelemetry, where an application has set it up (extra `otel`): a span per publish, and per join.

Invariant: no span lives as long as a stream. Without a tracer of the application's nothing is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

try:
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    trace = None  # type: ignore[assignment]

_NOTHING = nullcontext()


def is_on() -> bool:
    """Returns True if the application has a tracer."""
    return trace is not None and not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def span(name: str, attributes: Mapping[str, str], *, parent: str = "") -> AbstractContextManager[Any]:
    """A span for a `with` block; `parent` is a W3C `traceparent`, without which it is the current span. An
    exception is recorded.
    """
    if not is_on():
        return _NOTHING
    context = TraceContextTextMapPropagator().extract({"traceparent": parent}) if parent else None
    tracer = trace.get_tracer("push-hub")
    return tracer.start_as_current_span(name, context=context, attributes=dict(attributes))


def traceparent() -> str:
    """The current span as a W3C `traceparent`; "" without one."""
    if not is_on():
        return ""
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent", "")
