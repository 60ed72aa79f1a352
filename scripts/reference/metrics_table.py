"""The table of all metrics."""

from __future__ import annotations

from aoti_serve.cluster.metrics.definitions import (
    COORDINATOR_METRICS,
    GATEWAY_METRICS,
    REPLICA_METRICS,
    ROLLOUT_METRICS,
    MetricDefinition,
)
from reference.markdown import table

OWNERS = {
    "gateway": GATEWAY_METRICS,
    "replica": REPLICA_METRICS,
    "coordinator": (*COORDINATOR_METRICS, *ROLLOUT_METRICS),
}


def text() -> str:
    rows = [_row(owner, each) for owner, metrics in OWNERS.items() for each in metrics]
    return table(("name", "of a", "kind", "labels", "unit", "meaning"), rows)


def _row(owner: str, metric: MetricDefinition) -> tuple[str, ...]:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"`{metric.exported}`", owner, metric.kind, labels, metric.unit, metric.meaning
