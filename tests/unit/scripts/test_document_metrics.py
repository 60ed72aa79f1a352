"""docs/metrics.md has every metric, and what is written for Prometheus asks for no other."""

from __future__ import annotations

import re

import document_metrics
import pytest

from aoti_serve.cluster.metrics.definitions import MetricKind

ROOT = document_metrics.PAGE.parent.parent
HISTOGRAM_SERIES = ("_bucket", "_sum", "_count")
ASKING = ["docs/metrics.md", *(f"examples/prometheus/{name}" for name in ("alerts.yaml", "dashboard.json"))]


def test_the_table_is_that_of_the_definitions() -> None:
    page = document_metrics.PAGE.read_text()
    assert document_metrics.documented(page) == page, "run scripts/document_metrics.py"


@pytest.mark.parametrize("name", ASKING)
def test_what_is_asked_for_is_there(name: str) -> None:
    series = set[str]()
    for metric in [metric for metrics in document_metrics.OWNERS.values() for metric in metrics]:
        ends = HISTOGRAM_SERIES if metric.kind is MetricKind.HISTOGRAM else ("",)
        series |= {metric.exported, *(f"{metric.exported}{end}" for end in ends)}
    asked = set(re.findall(r"\bray_aoti_serve_\w*\w\b", (ROOT / name).read_text())) - {"ray_aoti_serve_"}
    assert asked - series == set()
