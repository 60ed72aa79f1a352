"""What gateways count of a trial: totals, which are summed over gateways and subtracted over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aoti_serve.signature.tensors import Frozen
from aoti_serve.weights.rollout.latency import LatencyCounts
from aoti_serve.weights.rollout.outputs import (
    OutputAgreement,
    OutputMoments,
    four_digits,
    output_summaries,
    ratio,
    subtracted_outputs,
    summed_outputs,
)


class ArmFigures(Frozen):
    """One version's requests: those that it has answered, or should have.

    `failures` are by the server's fault; they are among `requests`. Of the answers that held a NaN or an infinity
    `doubts` were looked into, of which `non_finite` were the version's doing; the others were `passed_over`.
    """

    requests: int = 0
    failures: int = 0
    non_finite: int = 0
    doubts: int = 0
    passed_over: int = 0
    latency: LatencyCounts = LatencyCounts()
    outputs: Mapping[str, OutputMoments] = {}

    def __add__(self, other: ArmFigures) -> ArmFigures:
        return ArmFigures(
            requests=self.requests + other.requests,
            failures=self.failures + other.failures,
            non_finite=self.non_finite + other.non_finite,
            doubts=self.doubts + other.doubts,
            passed_over=self.passed_over + other.passed_over,
            latency=self.latency + other.latency,
            outputs=summed_outputs(self.outputs, other.outputs),
        )

    def __sub__(self, other: ArmFigures) -> ArmFigures:
        return ArmFigures(
            requests=max(0, self.requests - other.requests),
            failures=max(0, self.failures - other.failures),
            non_finite=max(0, self.non_finite - other.non_finite),
            doubts=max(0, self.doubts - other.doubts),
            passed_over=max(0, self.passed_over - other.passed_over),
            latency=self.latency - other.latency,
            outputs=subtracted_outputs(self.outputs, other.outputs),
        )

    @property
    def looked_into(self) -> int:
        """The requests of which `non_finite` are: as large a part of all as was looked into of the doubtful ones.

        A sample, whose share of `non_finite` is that of all requests.
        """
        if not self.passed_over:
            return self.requests
        return max(self.non_finite, self.requests * self.doubts // (self.doubts + self.passed_over))

    @property
    def estimated_non_finite(self) -> int:
        """Of all requests, as many as there are of those that were looked into."""
        return (
            self.non_finite * self.requests // self.looked_into
            if self.passed_over and self.looked_into
            else self.non_finite
        )

    def has_fallen(self, earlier: ArmFigures) -> bool:
        counts = (self.requests, self.failures, self.non_finite, self.doubts, self.passed_over)
        before = (earlier.requests, earlier.failures, earlier.non_finite, earlier.doubts, earlier.passed_over)
        return _any_less(counts, before) or self.latency.has_fallen(earlier.latency)

    def summary(self) -> dict[str, Any]:
        """Rates from 0 to 1, latencies in seconds, mean and spread of each output."""
        found: dict[str, Any] = {
            "requests": self.requests,
            "error_rate": ratio(self.failures, self.requests),
            "non_finite_rate": ratio(self.non_finite, self.looked_into),
        }
        for name, q in (("p50_s", 0.5), ("p99_s", 0.99)):
            seconds = self.latency.quantile(q)
            if seconds is not None:
                found[name] = four_digits(seconds)
        return found | output_summaries(self.outputs)


class ShadowFigures(Frozen):
    """The requests that ran on both versions: `pairs` of answers were compared, the candidate `failed` on others.

    `dropped` were not run for want of room. In `non_finite` pairs only the candidate's answer has a NaN or an infinity.
    """

    pairs: int = 0
    dropped: int = 0
    failed: int = 0
    non_finite: int = 0
    outputs: Mapping[str, OutputAgreement] = {}

    def __add__(self, other: ShadowFigures) -> ShadowFigures:
        return ShadowFigures(
            pairs=self.pairs + other.pairs,
            dropped=self.dropped + other.dropped,
            failed=self.failed + other.failed,
            non_finite=self.non_finite + other.non_finite,
            outputs=summed_outputs(self.outputs, other.outputs),
        )

    def __sub__(self, other: ShadowFigures) -> ShadowFigures:
        return ShadowFigures(
            pairs=max(0, self.pairs - other.pairs),
            dropped=max(0, self.dropped - other.dropped),
            failed=max(0, self.failed - other.failed),
            non_finite=max(0, self.non_finite - other.non_finite),
            outputs=subtracted_outputs(self.outputs, other.outputs),
        )

    def has_fallen(self, earlier: ShadowFigures) -> bool:
        counts = (self.pairs, self.dropped, self.failed, self.non_finite)
        return _any_less(counts, (earlier.pairs, earlier.dropped, earlier.failed, earlier.non_finite))

    def summary(self) -> dict[str, Any]:
        """How many there were of each kind, and the agreement of each output."""
        counts = {name: getattr(self, name) for name in ("pairs", "dropped", "failed", "non_finite")}
        return counts | output_summaries(self.outputs)


class TrialFigures(Frozen):
    """A trial's totals. The arms are versions, not roles: `candidate` is the one on trial also after its commit.

    `active` is the one that answered when the trial began.
    """

    active: ArmFigures = ArmFigures()
    candidate: ArmFigures = ArmFigures()
    shadow: ShadowFigures = ShadowFigures()

    def __add__(self, other: TrialFigures) -> TrialFigures:
        return TrialFigures(
            active=self.active + other.active,
            candidate=self.candidate + other.candidate,
            shadow=self.shadow + other.shadow,
        )

    def __sub__(self, other: TrialFigures) -> TrialFigures:
        """The difference of each total, or zero where it has fallen."""
        return TrialFigures(
            active=self.active - other.active,
            candidate=self.candidate - other.candidate,
            shadow=self.shadow - other.shadow,
        )

    def since(self, earlier: TrialFigures) -> TrialFigures:
        """What has come since; nothing at all if any total has fallen.

        Then a gateway has ended with what it had counted, and no part of the difference can be relied upon: failures
        might still have grown while requests have not.
        """
        fallen = (
            self.active.has_fallen(earlier.active)
            or self.candidate.has_fallen(earlier.candidate)
            or self.shadow.has_fallen(earlier.shadow)
        )
        return TrialFigures() if fallen else self - earlier

    def summary(self) -> dict[str, Any]:
        """For people: rates from 0 to 1, latencies in seconds; without shadows if there were none."""
        found = {"active": self.active.summary(), "candidate": self.candidate.summary()}
        return found | ({"shadow": self.shadow.summary()} if self.shadow != ShadowFigures() else {})


def _any_less(counts: tuple[int, ...], before: tuple[int, ...]) -> bool:
    return any(now < then for now, then in zip(counts, before, strict=True))
