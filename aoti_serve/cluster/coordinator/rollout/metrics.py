"""Metrics of a model's rollouts, and of the trial that is on, kept by its coordinator."""

from __future__ import annotations

from collections import Counter

from aoti_serve.cluster.metrics.definitions import (
    CANDIDATE_SHARE,
    ROLLOUTS,
    SHADOW_COSINE,
    SHADOW_PAIRS,
    SHADOW_TOP1,
    TRIAL_FAILURES,
    TRIAL_NON_FINITE,
    TRIAL_P99,
    TRIAL_REQUESTS,
)
from aoti_serve.cluster.metrics.export import MetricExport
from aoti_serve.weights.rollout.decisions import RolloutOutcome
from aoti_serve.weights.rollout.figures import ArmFigures, ShadowFigures, TrialFigures


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
        gauge(TRIAL_NON_FINITE, figures.estimated_non_finite, *labels)
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
