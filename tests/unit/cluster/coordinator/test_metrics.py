"""The metrics of a model's weights and members."""

from __future__ import annotations

from aoti_serve.cluster.coordinator.metrics import KEPT_GONE, SwapMetrics
from aoti_serve.cluster.metrics.definitions import (
    COORDINATOR_METRICS,
    MEMBERS,
    REPLICA_STARTS,
    REPLICAS,
    SWAPS,
    WEIGHTS_INFO,
)
from aoti_serve.cluster.status import Outcome
from aoti_serve.weights.swap.target import Report
from aoti_serve.weights.version import Committed, Version
from tests.unit.cluster.metrics.recorded import RecordedExport

COMMITTED = Committed(epoch=2, version=Version(number=7, digest="ab"))


def test_members_are_told_apart_and_starts_are_counted() -> None:
    export = RecordedExport(COORDINATOR_METRICS)
    metrics = SwapMetrics("m", export)
    reports = [Report("r1", runners=1, epoch=2), Report("r2", runners=1, epoch=1), Report("g", epoch=2)]
    metrics.export(COMMITTED, reports, superseded=False)
    assert export.gauges[MEMBERS.name, "m", "replica"] == 2
    assert export.gauges[MEMBERS.name, "m", "gateway"] == 1
    assert export.gauges[REPLICAS.name, "m"] == 1
    assert export.gauges[WEIGHTS_INFO.name, "m", "7", "ab"] == 1
    metrics.export(COMMITTED, [Report("r1", runners=1, epoch=2), Report("r3", runners=1, epoch=2)], superseded=False)
    assert export.totals[REPLICA_STARTS.name, "m"] == 3
    assert export.gauges[MEMBERS.name, "m", "gateway"] == 0


def test_replicas_that_come_and_go_for_years_are_counted_and_forgotten() -> None:
    export = RecordedExport(COORDINATOR_METRICS)
    metrics = SwapMetrics("m", export)
    for number in range(2 * KEPT_GONE):
        metrics.export(COMMITTED, [Report("stays", runners=1), Report(f"r{number}", runners=1)], superseded=False)
        metrics.export(COMMITTED, [Report("stays", runners=1)], superseded=False)
    metrics.export(COMMITTED, [Report(f"r{number}", runners=1)], superseded=False)
    assert export.totals[REPLICA_STARTS.name, "m"] == 2 * KEPT_GONE + 1
    assert len(metrics._started) <= KEPT_GONE + 2


def test_attempts_are_counted_by_their_outcome() -> None:
    export = RecordedExport(COORDINATOR_METRICS)
    metrics = SwapMetrics("m", export)
    facts = {"id": "a", "version": 7, "error": None, "seconds": 1.0, "phases": {"staging": 0.5}, "ended": 0.0}
    for outcome in ("committed", "committed", "failed"):
        metrics.ended(Outcome.model_validate({"action": "swap", "outcome": outcome, **facts}))
    metrics.export(COMMITTED, [], superseded=False)
    assert export.totals[SWAPS.name, "m", "swap", "committed"] == 2
    assert export.totals[SWAPS.name, "m", "swap", "failed"] == 1
