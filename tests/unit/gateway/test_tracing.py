"""A request with a `traceparent` has two spans in its client's trace, where tracing is on."""

from __future__ import annotations

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from aoti_serve.config import BatchingConfig, GatewayConfig
from tests.unit.gateway.http.gateway import NAME, VERSION, Gateway, rows_of, running

TRACE, CLIENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = {"traceparent": f"00-{TRACE}-{CLIENT}-01"}


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Where spans go while tracing is on."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return exporter


async def ask(headers: dict[str, str], rows: int = 1, largest: int = 64) -> None:
    async with running(GatewayConfig(), BatchingConfig(max_batch_size=largest)) as gateway:
        await answered(gateway, headers, rows)


async def answered(gateway: Gateway, headers: dict[str, str], rows: int) -> None:
    assert len(rows_of(await gateway.infer(*range(1, rows + 1), headers=headers))) == rows


@pytest.mark.parametrize("largest", [64, 2], ids=["in one batch", "in pieces"])
async def test_a_request_has_a_span_while_it_waits_and_one_while_it_runs(
    spans: InMemorySpanExporter, largest: int
) -> None:
    await ask(PARENT, rows=7, largest=largest)
    queue, run = spans.get_finished_spans()
    assert [queue.name, run.name] == ["queue", "run"]
    for span in (queue, run):
        assert trace_of(span) == (TRACE, CLIENT)
        assert span.attributes == {"model": NAME, "weights_version": VERSION}
    assert 0 <= times(queue)[0] <= times(queue)[1] == times(run)[0] <= times(run)[1]


@pytest.mark.parametrize("headers", [{}, {"traceparent": "nonsense"}, {"traceparent": f"00-{TRACE}-{CLIENT}-00"}])
async def test_a_client_without_a_trace_gets_none(spans: InMemorySpanExporter, headers: dict[str, str]) -> None:
    await ask(headers)
    assert not spans.get_finished_spans()


async def test_one_request_is_not_taken_for_part_of_the_trace_of_another(spans: InMemorySpanExporter) -> None:
    async with running(GatewayConfig(), BatchingConfig()) as gateway:
        await answered(gateway, PARENT, 1)
        await answered(gateway, {}, 1)
    assert len(spans.get_finished_spans()) == 2


async def test_where_tracing_is_off_nothing_is_made() -> None:
    await ask(PARENT)


def trace_of(span: ReadableSpan) -> tuple[str, str]:
    assert span.context is not None
    assert span.parent is not None
    return trace.format_trace_id(span.context.trace_id), trace.format_span_id(span.parent.span_id)


def times(span: ReadableSpan) -> tuple[int, int]:
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time, span.end_time
