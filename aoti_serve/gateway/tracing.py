"""Spans of inference requests, `queue` and `run`, in the traces that their clients have begun.

They are made where Serve's own tracing is on in this process (its `tracing_config`), and go where it sends spans.
"""

from __future__ import annotations

import time
from contextvars import ContextVar

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import ProxyTracerProvider, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes

_W3C = TraceContextTextMapPropagator()
_parent: ContextVar[Context | None] = ContextVar("aoti_serve.trace", default=None)


def adopt_trace(parent: bytes | str | None, state: bytes | str | None) -> None:
    """Let the request that this task answers belong to the trace of these headers, `traceparent` and `tracestate`."""
    _parent.set(None if parent is None or not _on() else _context_of(_text(parent), _text(state or "")))


def trace_run(model: str, version: int, arrived: float, left: float) -> None:
    """Add the spans of a request that has just been answered: until its rows left, and from then on.

    Times are those of `time.monotonic`.
    """
    parent = _parent.get()
    if parent is None:
        return
    now = time.monotonic()
    began = time.time_ns() - int((now - arrived) * 1e9)
    at_runner, ended = began + int((left - arrived) * 1e9), began + int((now - arrived) * 1e9)
    tracer = trace.get_tracer("aoti_serve")
    attributes: Attributes = {"model": model, "weights_version": version}
    for name, start, end in (("queue", began, at_runner), ("run", at_runner, ended)):
        tracer.start_span(name, parent, SpanKind.INTERNAL, attributes, start_time=start).end(end)


def _on() -> bool:
    return not isinstance(trace.get_tracer_provider(), ProxyTracerProvider)


def _context_of(parent: str, state: str) -> Context | None:
    """None for headers that are none: a client that has not begun a trace gets none of ours."""
    context = _W3C.extract({"traceparent": parent, "tracestate": state})
    return context if trace.get_current_span(context).get_span_context().is_valid else None


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
