"""The metrics of a model's weights and members."""

from __future__ import annotations

from aoti_serve.cluster.coordinator.metrics import RolloutMetrics, SwapMetrics
from aoti_serve.cluster.metrics.definitions import (
    COORDINATOR_METRICS,
    MEMBERS,
    REPLICA_STARTS,
    REPLICAS,
    ROLLOUT_METRICS,
    SHADOW_COSINE,
    SHADOW_PAIRS,
    SHADOW_TOP1,
    SWAPS,
    TRIAL_FAILURES,
    TRIAL_NON_FINITE,
    TRIAL_P99,
    TRIAL_REQUESTS,
    WEIGHTS_INFO,
)
from aoti_serve.cluster.status import Outcome
from aoti_serve.weights.rollout.figures import ArmFigures, ShadowFigures, TrialFigures
from aoti_serve.weights.rollout.latency import LAST_BUCKET, LatencyCounts
from aoti_serve.weights.rollout.outputs import OutputAgreement
from aoti_serve.weights.swap.target import Report
from aoti_serve.weights.version import Committed, Version
from tests.unit.cluster.metrics.recorded import RecordedExport

COMMITTED = Committed(epoch=2, version=Version(number=7, digest="ab"))


def test_members_are_told_apart_and_starts_are_counted() -> None:
    export = RecordedExport(COORDINATOR_METRICS)
    metrics = SwapMetrics("m", export)
    metrics.export(
        COMMITTED, [Report("r1", runners=1, epoch=2), Report("r2", runners=1, epoch=1), Report("g", epoch=2)]
    )
    assert export.gauges[MEMBERS.name, "m", "replica"] == 2
    assert export.gauges[MEMBERS.name, "m", "gateway"] == 1
    assert export.gauges[REPLICAS.name, "m"] == 1
    assert export.gauges[WEIGHTS_INFO.name, "m", "7", "ab"] == 1
    metrics.export(COMMITTED, [Report("r1", runners=1, epoch=2), Report("r3", runners=1, epoch=2)])
    assert export.totals[REPLICA_STARTS.name, "m"] == 3
    assert export.gauges[MEMBERS.name, "m", "gateway"] == 0


def test_attempts_are_counted_by_their_outcome() -> None:
    export = RecordedExport(COORDINATOR_METRICS)
    metrics = SwapMetrics("m", export)
    facts = {"id": "a", "version": 7, "error": None, "seconds": 1.0, "phases": {"staging": 0.5}, "ended": 0.0}
    for outcome in ("committed", "committed", "failed"):
        metrics.ended(Outcome.model_validate({"action": "swap", "outcome": outcome, **facts}))
    metrics.export(COMMITTED, [])
    assert export.totals[SWAPS.name, "m", "swap", "committed"] == 2
    assert export.totals[SWAPS.name, "m", "swap", "failed"] == 1


def test_a_trial_is_told_by_arm_and_shadows_by_output() -> None:
    export = RecordedExport(ROLLOUT_METRICS)
    latency = LatencyCounts(counts=(0, 50, *[0] * LAST_BUCKET)[: LAST_BUCKET + 1])
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
