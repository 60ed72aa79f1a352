"""docs/reference is what the code says, and what is written for Prometheus asks for no other metrics."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from reference.configuration import described, sections
from reference.markdown import named_outside
from reference.metrics_table import OWNERS
from reference.pages import FOLDER, PAGES, Page, written

from aoti_serve.cluster.metrics.definitions import ROLLOUT_METRICS, ROLLOUTS, MetricDefinition, MetricKind
from aoti_serve.config import AppConfig
from aoti_serve.weights.rollout.decisions import RolloutOutcome

ROOT = FOLDER.parents[1]
HISTOGRAM_SERIES = ("_bucket", "_sum", "_count")
ASKING = ["docs/reference/metrics.md", *(f"examples/prometheus/{name}" for name in ("alerts.yaml", "dashboard.json"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_what_the_code_says(page: Page) -> None:
    assert written(page) == page.path.read_text(), "run scripts/docs"


def test_every_key_of_the_configuration_says_what_it_means() -> None:
    silent = {
        f"{kind.__name__}.{name}"
        for kind in sections(AppConfig)
        for name in kind.model_fields
        if kind.__module__.startswith("aoti_serve.config") and name not in described(kind)
    }
    assert silent == set()


@pytest.mark.parametrize(
    ("room", "text", "shown"),
    [
        ("guides", "[Disk](disk.md#what)", "[Disk](disk.md#what)"),
        ("guides", "[Words](../concepts/words.md)", "[Words](../concepts/words.md)"),
        ("guides", "[model.yaml](../../configs/model.yaml)", "`model.yaml`"),
        ("guides", "[a plan](../../configs/rollout.yaml)", "a plan (`configs/rollout.yaml`)"),
        ("", "[words](concepts/words.md)", "[words](concepts/words.md)"),
        ("", "[SECURITY.md](../SECURITY.md)", "`SECURITY.md`"),
    ],
)
def test_the_site_names_what_lies_outside_of_it(room: str, text: str, shown: str) -> None:
    assert named_outside(text, room) == shown


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
    for metric in [metric for metrics in OWNERS.values() for metric in metrics]:
        ends = HISTOGRAM_SERIES if metric.kind is MetricKind.HISTOGRAM else ("",)
        series |= {metric.exported, *(f"{metric.exported}{end}" for end in ends)}
    asked = set(re.findall(r"\bray_aoti_serve_\w*\w\b", (ROOT / name).read_text())) - {"ray_aoti_serve_"}
    assert asked - series == set()
