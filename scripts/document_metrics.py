"""Write the table of docs/reference/metrics.md from the definitions of the metrics.

.venv/bin/python scripts/document_metrics.py
"""

from __future__ import annotations

import re
from pathlib import Path

from aoti_serve.cluster.metrics.definitions import (
    COORDINATOR_METRICS,
    GATEWAY_METRICS,
    REPLICA_METRICS,
    ROLLOUT_METRICS,
    MetricDefinition,
)

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "metrics.md"
TABLE = re.compile(r"(?<=<!-- metrics -->\n).*(?=<!-- /metrics -->)", re.S)
OWNERS = {
    "gateway": GATEWAY_METRICS,
    "replica": REPLICA_METRICS,
    "coordinator": (*COORDINATOR_METRICS, *ROLLOUT_METRICS),
}


def documented(page: str) -> str:
    """The page with the table as it should be."""
    rows = [_row(owner, each) for owner, metrics in OWNERS.items() for each in metrics]
    head = ["| name | of a | kind | labels | unit | meaning |", "|---|---|---|---|---|---|"]
    return TABLE.sub("\n".join([*head, *rows, ""]), page)


def _row(owner: str, metric: MetricDefinition) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.exported}` | {owner} | {metric.kind} | {labels} | {metric.unit} | {metric.meaning} |"


if __name__ == "__main__":
    PAGE.write_text(documented(PAGE.read_text()))
