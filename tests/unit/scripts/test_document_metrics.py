"""docs/reference/metrics.md has every metric, and what is written for Prometheus asks for no other."""

from __future__ import annotations

import json
import re

import document_metrics
import pytest
import yaml

from aoti_serve.cluster.metrics.definitions import ROLLOUT_METRICS, ROLLOUTS, MetricDefinition, MetricKind
from aoti_serve.weights.rollout.decisions import RolloutOutcome

ROOT = document_metrics.PAGE.parent.parent
HISTOGRAM_SERIES = ("_bucket", "_sum", "_count")
ASKING = ["docs/reference/metrics.md", *(f"examples/prometheus/{name}" for name in ("alerts.yaml", "dashboard.json"))]


def test_the_table_is_that_of_the_definitions() -> None:
    page = document_metrics.PAGE.read_text()
    assert document_metrics.documented(page) == page, "run scripts/document_metrics.py"


@pytest.mark.parametrize("metric", ROLLOUT_METRICS, ids=lambda metric: metric.exported)
def test_the_dashboard_shows_everything_that_is_measured_of_a_trial(metric: MetricDefinition) -> None:
    panels = json.loads((ROOT / "examples" / "prometheus" / "dashboard.json").read_text())["panels"]
    asked = " ".join(target["expr"] for panel in panels for target in panel["targets"])
    assert re.search(rf"\b{metric.exported}\b", asked)


@pytest.mark.parametrize("outcome", RolloutOutcome)
def test_an_alert_asks_for_each_bad_end_of_a_rollout_and_for_no_good_one(outcome: RolloutOutcome) -> None:
    (group,) = yaml.safe_load((ROOT / "examples" / "prometheus" / "alerts.yaml").read_text())["groups"]
    of_rollouts = [rule["expr"] for rule in group["rules"] if ROLLOUTS.exported in rule["expr"]]
    asked = {each for expr in of_rollouts for each in re.findall(r'outcome=~?"([^"]+)"', expr)}
    found = {name for each in asked for name in each.split("|")}
    assert (str(outcome) in found) == (outcome is not RolloutOutcome.PROMOTED)


@pytest.mark.parametrize("name", ASKING)
def test_what_is_asked_for_is_there(name: str) -> None:
    series = set[str]()
    for metric in [metric for metrics in document_metrics.OWNERS.values() for metric in metrics]:
        ends = HISTOGRAM_SERIES if metric.kind is MetricKind.HISTOGRAM else ("",)
        series |= {metric.exported, *(f"{metric.exported}{end}" for end in ends)}
    asked = set(re.findall(r"\bray_aoti_serve_\w*\w\b", (ROOT / name).read_text())) - {"ray_aoti_serve_"}
    assert asked - series == set()
