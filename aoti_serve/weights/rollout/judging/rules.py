"""The rules of a rollout: what each makes of the figures of a step, or of the time after the commit.

A rule has a finding if the figures are beyond its limit. It is a breach if that is no chance (`evidence`), and
else a doubt, which keeps a step from passing. What the active version does at the same time as badly is no finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aoti_serve.weights.rollout.figures import ArmFigures, TrialFigures
from aoti_serve.weights.rollout.judging.evidence import (
    ALPHA,
    DEVIATIONS,
    ROUNDING,
    differs_upward,
    exceeds,
    upper_bound,
)
from aoti_serve.weights.rollout.outputs import four_digits, ratio
from aoti_serve.weights.rollout.plan import AbortRules, RolloutPlan, least_for
from aoti_serve.weights.rollout.quantities import shown_share

# What the surroundings can do as well, for a moment, and to every request of it.
UNSTEADY = {"error_rate", "p99"}
# So many seconds must have been bad by themselves before one of those is breached where no active version answers
# beside the candidate, and shows whether everything is bad.
STEADY_CALLS = 5
TAIL = 0.01  # of the requests are slower than the 99th percentile


@dataclass(frozen=True)
class Observed:
    """The `window` is a step, or the time since the commit; `before` is the active version's since the trial began.

    `alone`: the active version answers nothing in the window, so that the candidate is compared with `before`. `alpha`
    is the chance by which a breach may be false.
    """

    window: TrialFigures
    before: ArmFigures
    alone: bool
    alpha: float = ALPHA

    @property
    def reference(self) -> ArmFigures:
        return self.before if self.alone else self.window.active


@dataclass(frozen=True)
class RuleFinding:
    """Figures beyond the limit of `rule`; `breached` if they are no chance."""

    rule: str
    breached: bool
    text: str
    figures: Mapping[str, Any]


def findings(plan: RolloutPlan, observed: Observed) -> list[RuleFinding]:
    """What is beyond its limit; breaches first."""
    rules = plan.abort_if
    found = [
        *_error_rate(rules, observed),
        *_p99(rules, observed),
        *_non_finite(rules, observed, plan.min_requests),
        *_shadow_non_finite(rules, observed),
        *_top1_agreement(rules, observed),
        *_cosine(rules, observed),
    ]
    return sorted(found, key=lambda finding: not finding.breached)


def shortages(plan: RolloutPlan, observed: Observed, canary: float) -> list[str]:
    """Of what the window has not seen enough to pass, in words."""
    window = observed.window
    seen = {}
    if canary > 0:
        seen["requests of the candidate"] = window.candidate.requests
    if canary < 1:
        seen["requests of the active version"] = window.active.requests
    if canary == 0 or plan.abort_if.compares_answers:
        seen["compared requests"] = window.shadow.pairs
    return [f"{count} {what} of {plan.min_requests}" for what, count in seen.items() if count < plan.min_requests]


def _error_rate(rules: AbortRules, observed: Observed) -> Iterator[RuleFinding]:
    """Shadows that fail count as requests of the candidate that fail."""
    candidate, shadow = observed.window.candidate, observed.window.shadow
    hits = candidate.failures + shadow.failed
    trials = candidate.requests + shadow.pairs + shadow.failed
    if rules.error_rate is not None:
        yield from _rate("error_rate", "failed", hits, trials, rules.error_rate, observed, _failures)


def _non_finite(rules: AbortRules, observed: Observed, enough: int) -> Iterator[RuleFinding]:
    """One is enough where none is allowed, if the active version has answered enough requests without any.

    Where both have them rarely, the first is the candidate's by chance as often as its share of the requests says.
    Only what was looked into counts, of both.
    """
    hits, trials, limit = observed.window.candidate.non_finite, observed.window.candidate.looked_into, rules.non_finite
    if limit is None:
        return
    clean = observed.before.looked_into >= enough and not observed.before.non_finite
    if limit == 0 and clean and hits:
        text = f"{hits} of {trials} answers held a NaN or an infinity; none of the active version's did"
        yield RuleFinding("non_finite", True, text, {"non_finite": hits, "of": trials})
        return
    words = "held a NaN or an infinity"
    yield from _rate("non_finite", words, hits, trials, limit, observed, _spoilt)


def _shadow_non_finite(rules: AbortRules, observed: Observed) -> Iterator[RuleFinding]:
    """The active version's answers to the same requests are finite, so there is nothing to compare with."""
    hits, pairs, limit = observed.window.shadow.non_finite, observed.window.shadow.pairs, rules.non_finite
    if limit is not None and pairs and hits / pairs > limit:
        text = f"{hits} of {pairs} shadow answers held a NaN or an infinity where the active version's did not"
        yield RuleFinding(
            "non_finite", exceeds(hits, pairs, limit, observed.alpha), text, {"non_finite": hits, "of": pairs}
        )


def _failures(arm: ArmFigures) -> tuple[int, int]:
    return arm.failures, arm.requests


def _spoilt(arm: ArmFigures) -> tuple[int, int]:
    return arm.non_finite, arm.looked_into


def _rate(
    rule: str,
    words: str,
    hits: int,
    trials: int,
    limit: float,
    observed: Observed,
    counts_of: Callable[[ArmFigures], tuple[int, int]],
) -> Iterator[RuleFinding]:
    """A rate beyond the limit, and beyond what the active version's may be.

    That is an upper bound from its requests, so a false alarm needs two rare things at once: too low a bound, and too
    many hits. What fails for both is no breach. While the active version has few requests the rule is slow.
    """
    other_hits, others = counts_of(observed.reference)
    if not trials or hits / trials <= limit or not differs_upward(hits, trials, other_hits, others):
        return
    bound = limit if observed.alone and not others else max(limit, upper_bound(other_hits, others))
    text = (
        f"{hits} of {trials} requests {words} ({shown_share(hits / trials)}); the limit is "
        f"{shown_share(limit)}, the active version's rate {shown_share(ratio(other_hits, others))}"
    )
    figures = {"rate": ratio(hits, trials), "of": trials, "active_rate": ratio(other_hits, others), "limit": limit}
    yield RuleFinding(rule, exceeds(hits, trials, bound, observed.alpha), text, figures)


def _p99(rules: AbortRules, observed: Observed) -> Iterator[RuleFinding]:
    """Too many of the candidate's requests are slower than so many times the active version's 99th percentile.

    If the candidate's percentile keeps the limit, at most one request in a hundred is that slow. The active version's
    percentile is taken at its upper bound, which takes 619 of its requests; with fewer, also before, this rule is mute.
    """
    if rules.p99 is None:
        return
    percentile = active_p99(observed)
    latency = observed.window.candidate.latency
    slow, total = latency.above(rules.p99 * percentile) if percentile else 0, latency.total
    if percentile is None or slow <= TAIL * total:
        return
    text = (
        f"{slow} of {total} requests took more than {rules.p99 * percentile:.3g} s ({shown_share(slow / total)}), "
        f"{rules.p99:g}x the 99th percentile of the active version; {shown_share(TAIL)} may"
    )
    figures = {"slow": slow, "of": total, "p99_s": latency.quantile(1 - TAIL), "active_p99_s": four_digits(percentile)}
    yield RuleFinding("p99", exceeds(slow, total, TAIL, observed.alpha), text, figures)


def active_p99(observed: Observed) -> float | None:
    """The upper bound of the active version's 99th percentile, in seconds; None if it has too few requests.

    At the beginning of a step the bound from before, unless it is slower now.
    """
    latency = observed.reference.latency
    bound = latency.quantile_bound(1 - TAIL, DEVIATIONS)
    before = observed.before.latency.quantile_bound(1 - TAIL, DEVIATIONS)
    return bound or (before and max(before, latency.quantile(1 - TAIL) or 0.0))


def _top1_agreement(rules: AbortRules, observed: Observed) -> Iterator[RuleFinding]:
    """The share of rows that differ, request by request: rows of one request may depend on each other."""
    for name, output in observed.window.shadow.outputs.items():
        if rules.top1_agreement is not None and (least := least_for(rules.top1_agreement, name)) is not None:
            different, pairs = output.top1_pairs - output.top1, output.top1_pairs
            yield from _agreement("top1_agreement", name, different, pairs, least, 1.0)


def _cosine(rules: AbortRules, observed: Observed) -> Iterator[RuleFinding]:
    """Half the distance of the cosine from 1, which is 0 to 1."""
    for name, output in observed.window.shadow.outputs.items():
        if rules.cosine is not None and (least := least_for(rules.cosine, name)) is not None:
            distance, pairs = output.cosine_pairs - output.cosine, output.cosine_pairs
            yield from _agreement("cosine", name, distance, pairs, least, 2.0)


def _agreement(rule: str, output: str, lost: float, pairs: int, least: float, scale: float) -> Iterator[RuleFinding]:
    allowed = 1 - least
    if pairs and lost / pairs > allowed + ROUNDING:
        mean = four_digits(1 - lost / pairs)
        text = f"output '{output}': {rule} is {mean:g} in {pairs} compared requests; the limit is {least:g}"
        breached = exceeds(lost / scale, pairs, allowed / scale)
        yield RuleFinding(rule, breached, text, {"output": output, rule: mean, "of": pairs, "limit": least})
