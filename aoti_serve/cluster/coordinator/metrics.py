"""Metrics of a model's weights, members and rollouts, kept by its coordinator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from aoti_serve.cluster.metrics.definitions import (
    CANDIDATE_SHARE,
    MEMBERS,
    REPLICA_STARTS,
    REPLICAS,
    ROLLOUTS,
    SHADOW_COSINE,
    SHADOW_PAIRS,
    SHADOW_TOP1,
    SWAP_BYTES,
    SWAP_PHASES,
    SWAPS,
    TRIAL_FAILURES,
    TRIAL_NON_FINITE,
    TRIAL_P99,
    TRIAL_REQUESTS,
    WEIGHTS_EPOCH,
    WEIGHTS_INFO,
    WEIGHTS_VERSION,
)
from aoti_serve.cluster.metrics.export import MetricExport
from aoti_serve.cluster.metrics.histogram import BucketCounts
from aoti_serve.cluster.status import Outcome
from aoti_serve.weights.rollout.decisions import RolloutOutcome
from aoti_serve.weights.rollout.figures import ArmFigures, ShadowFigures, TrialFigures
from aoti_serve.weights.swap.target import Report
from aoti_serve.weights.version import Committed


class SwapMetrics:
    """The metrics of one model. What is noted is exported by the next `export`."""

    def __init__(self, model: str, exported: MetricExport) -> None:
        self._model = model
        self._exported = exported
        self._attempts: Counter[tuple[str, str]] = Counter()
        self._phases: dict[str, BucketCounts] = {}
        self._nbytes = 0
        self._started: set[str] = set()

    def ended(self, outcome: Outcome) -> None:
        """An attempt has ended."""
        self._attempts[outcome.action, outcome.outcome] += 1
        for phase, seconds in outcome.phases.items():
            self._phases.setdefault(phase, BucketCounts(SWAP_PHASES.bounds)).note(seconds)

    def moved(self, nbytes: int) -> None:
        """Bytes have arrived at replicas."""
        self._nbytes += nbytes

    def export(self, committed: Committed, joined: Sequence[Report]) -> None:
        """Say what is committed, and who the members are, by the last reports of those that have joined."""
        replicas = [report for report in joined if report.runners]
        self._started |= {report.member for report in replicas}
        gauge, version = self._exported.gauge, committed.version
        gauge(WEIGHTS_VERSION, version.number, self._model)
        gauge(WEIGHTS_EPOCH, committed.epoch, self._model)
        gauge(WEIGHTS_INFO, 1, self._model, str(version.number), version.digest)
        gauge(REPLICAS, sum(report.holds(committed) for report in replicas), self._model)
        gauge(MEMBERS, len(replicas), self._model, "replica")
        gauge(MEMBERS, len(joined) - len(replicas), self._model, "gateway")
        self._export_changes()

    def _export_changes(self) -> None:
        exported, model = self._exported, self._model
        exported.total(REPLICA_STARTS, len(self._started), model)
        exported.total(SWAP_BYTES, self._nbytes, model)
        for (action, outcome), count in self._attempts.items():
            exported.total(SWAPS, count, model, action, outcome)
        for phase, counts in self._phases.items():
            exported.histogram(SWAP_PHASES, counts, model, phase)


class RolloutMetrics:
    """The metrics of one model's rollouts, and of the trial that is on, by arm: versions are too many for a label."""

    def __init__(self, model: str, exported: MetricExport) -> None:
        self._model = model
        self._exported = exported
        self._ended: Counter[str] = Counter()

    def ended(self, outcome: RolloutOutcome | None) -> None:
        """A rollout has ended; None: somebody has overtaken it."""
        self._ended[str(outcome or "overtaken")] += 1

    def export(self) -> None:
        """Say how rollouts have ended."""
        for outcome, count in self._ended.items():
            self._exported.total(ROLLOUTS, count, self._model, outcome)

    def export_trial(self, figures: TrialFigures, share: float) -> None:
        """Say what was counted of the trial that is on, and the share of the requests that its candidate answers."""
        self._exported.gauge(CANDIDATE_SHARE, share, self._model)
        self._export_arm("active", figures.active)
        self._export_arm("candidate", figures.candidate)
        self._export_shadow(figures.shadow)

    def _export_arm(self, arm: str, figures: ArmFigures) -> None:
        gauge, labels = self._exported.gauge, (self._model, arm)
        gauge(TRIAL_REQUESTS, figures.requests, *labels)
        gauge(TRIAL_FAILURES, figures.failures, *labels)
        gauge(TRIAL_NON_FINITE, figures.non_finite, *labels)
        if (seconds := figures.latency.quantile(0.99)) is not None:
            gauge(TRIAL_P99, seconds, *labels)

    def _export_shadow(self, figures: ShadowFigures) -> None:
        gauge, model = self._exported.gauge, self._model
        gauge(SHADOW_PAIRS, figures.pairs, model)
        for name, output in figures.outputs.items():
            if output.top1_pairs:
                gauge(SHADOW_TOP1, output.top1 / output.top1_pairs, model, name)
            if output.cosine_pairs:
                gauge(SHADOW_COSINE, output.cosine / output.cosine_pairs, model, name)
