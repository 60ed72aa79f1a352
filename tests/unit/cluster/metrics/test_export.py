"""The way to Ray, without Ray: it takes what is given, and throws it away."""

from __future__ import annotations

import pytest

from aoti_serve.cluster.metrics.definitions import (
    COORDINATOR_METRICS,
    GATEWAY_METRICS,
    LATENCY,
    REPLICA_METRICS,
    ROLLOUT_METRICS,
    SUCCESS,
    MetricKind,
)
from aoti_serve.cluster.metrics.export import MetricExport
from aoti_serve.cluster.metrics.histogram import BucketCounts

EVERY = (*GATEWAY_METRICS, *REPLICA_METRICS, *COORDINATOR_METRICS, *ROLLOUT_METRICS)


def test_names_are_unique_and_counters_end_in_total_once() -> None:
    names = [definition.exported for definition in EVERY]
    assert len(set(names)) == len(names)
    for definition in EVERY:
        assert definition.exported.startswith("ray_aoti_serve_")
        assert definition.exported.endswith("_total") == (definition.kind is MetricKind.COUNTER)
        assert "_total_total" not in definition.exported


def test_every_metric_of_a_model_says_which() -> None:
    without = {definition.name for definition in EVERY if "model" not in definition.labels}
    process = {"requests_in_flight", "held_body_bytes", "connections", "event_loop_lag_seconds"}
    assert without == {f"aoti_serve_{name}" for name in process}


def test_a_total_that_stands_still_exports_nothing() -> None:
    export = MetricExport(GATEWAY_METRICS)
    for total in (0, 3, 3, 5):  # Ray refuses an increment of 0
        export.total(SUCCESS, total, "m", "http")
    export.histogram(LATENCY, BucketCounts(LATENCY.bounds), "m", "http")


def test_a_label_too_few_is_a_defect() -> None:
    with pytest.raises(ValueError, match="zip"):
        MetricExport(GATEWAY_METRICS).total(SUCCESS, 1, "m")
