"""The metrics of a trial."""

from __future__ import annotations

from aoti_serve.cluster.coordinator.rollout.metrics import RolloutMetrics
from aoti_serve.cluster.metrics.definitions import (
    ROLLOUT_METRICS,
    SHADOW_COSINE,
    SHADOW_PAIRS,
    SHADOW_TOP1,
    TRIAL_FAILURES,
    TRIAL_NON_FINITE,
    TRIAL_P99,
    TRIAL_REQUESTS,
)
from aoti_serve.weights.rollout.figures import ArmFigures, ShadowFigures, TrialFigures
from aoti_serve.weights.rollout.latency import LAST_BUCKET, LatencyCounts
from aoti_serve.weights.rollout.outputs import OutputAgreement
from tests.unit.cluster.metrics.recorded import RecordedExport


def test_a_trial_is_told_by_arm_and_shadows_by_output() -> None:
    export = RecordedExport(ROLLOUT_METRICS)
    latency = LatencyCounts(counts=(0, 50, *[0] * (LAST_BUCKET - 1)))
    active = ArmFigures(requests=50, latency=latency)
    outputs = {
        "logits": OutputAgreement(top1_pairs=10, top1=9.0, cosine_pairs=10, cosine=9.9),
        "labels": OutputAgreement(top1_pairs=10, top1=8.0),
    }
    shadow = ShadowFigures(pairs=10, outputs=outputs)
    candidate = ArmFigures(requests=3, failures=2, non_finite=1)
    RolloutMetrics("m", export).export_trial(TrialFigures(active=active, candidate=candidate, shadow=shadow), 0.05)
    counts = [export.gauges[each.name, "m", "candidate"] for each in (TRIAL_REQUESTS, TRIAL_FAILURES, TRIAL_NON_FINITE)]
    assert counts == [3, 2, 1]
    assert export.gauges[TRIAL_P99.name, "m", "active"] == latency.quantile(0.99)
    assert (TRIAL_P99.name, "m", "candidate") not in export.gauges
    assert export.gauges[SHADOW_PAIRS.name, "m"] == 10
    assert export.gauges[SHADOW_TOP1.name, "m", "logits"] == 0.9
    assert export.gauges[SHADOW_COSINE.name, "m", "logits"] == 0.99
    assert (SHADOW_COSINE.name, "m", "labels") not in export.gauges
