"""Rules that could not have been breached, however bad the answers: a step, or the watch, has seen too few of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from aoti_serve.signature.tensors import Frozen
from aoti_serve.weights.rollout.judging.evidence import DEVIATIONS, fewest, upper_bound
from aoti_serve.weights.rollout.judging.rules import STEADY_CALLS, TAIL, UNSTEADY, Observed, active_p99
from aoti_serve.weights.rollout.plan import RolloutPlan
from aoti_serve.weights.rollout.quantities import LeastAgreement

OF_ACTIVE, OF_CANDIDATE, COMPARED = "requests of the active version", "requests of the candidate", "compared requests"
BUSY_SECONDS = "seconds with requests of the candidate"
# Of the active version, before its 99th percentile has an upper bound: 619.
LEAST_FOR_P99 = math.ceil(DEVIATIONS**2 * (1 - TAIL) / TAIL)


class Shortage(Frozen):
    """What was counted, how many there `had` been, and how many it takes at the least."""

    counted: str
    had: int
    needed: int

    def __str__(self) -> str:
        return f"{self.had} of {self.needed} {self.counted}"


class Unjudged(Frozen):
    """A `rule` that the step, or the watch, named in `during` has not judged for such a shortage."""

    rule: str
    during: str
    shortage: Shortage

    def __str__(self) -> str:
        return f"{self.rule} in {self.during} ({self.shortage})"


def unjudged(plan: RolloutPlan, observed: Observed, during: str, calls: int) -> Iterator[Unjudged]:
    """The rules that have not judged what was observed, which was `during`.

    Where the candidate answers everything, `calls` of it have brought requests; nothing is compared there, and that
    the rules on agreement rest is no news.
    """
    seconds = Shortage(counted=BUSY_SECONDS, had=calls, needed=STEADY_CALLS)
    for rule, of_requests in _needs(plan, observed):
        also = [seconds] if observed.alone and rule in UNSTEADY else []
        short = next((each for each in [of_requests, *also] if each.had < each.needed), None)
        if short is not None:
            yield Unjudged(rule=rule, during=during, shortage=short)


def _needs(plan: RolloutPlan, observed: Observed) -> Iterator[tuple[str, Shortage]]:
    """The rules that are on, each with what it was shortest of."""
    rules, shadow = plan.abort_if, observed.window.shadow
    if rules.error_rate is not None:
        yield "error_rate", _error_rate(rules.error_rate, observed)
    if rules.p99 is not None:
        yield "p99", _p99(observed)
    if rules.non_finite is not None:
        yield "non_finite", _non_finite(rules.non_finite, observed, plan.min_requests)
    if rules.top1_agreement is not None and not observed.alone:
        pairs = {name: output.top1_pairs for name, output in shadow.outputs.items()}
        yield "top1_agreement", _agreement(rules.top1_agreement, pairs, 1)
    if rules.cosine is not None and not observed.alone:
        pairs = {name: output.cosine_pairs for name, output in shadow.outputs.items()}
        yield "cosine", _agreement(rules.cosine, pairs, 2)


def _error_rate(limit: float, observed: Observed) -> Shortage:
    shadow = observed.window.shadow
    trials = observed.window.candidate.requests + shadow.pairs + shadow.failed
    return _rate(limit, trials, observed, observed.reference.failures, observed.reference.requests)


def _p99(observed: Observed) -> Shortage:
    latency = observed.window.candidate.latency
    if active_p99(observed) is None:
        had = max(observed.reference.latency.total, observed.before.latency.total)
        return Shortage(counted=OF_ACTIVE, had=had, needed=LEAST_FOR_P99)
    return Shortage(counted=OF_CANDIDATE, had=latency.total, needed=fewest(TAIL, observed.alpha))


def _non_finite(limit: float, observed: Observed, enough: int) -> Shortage:
    """Where compared answers suffice, they do; those of the candidate alone need what `rules` asks of both versions."""
    compared = Shortage(counted=COMPARED, had=observed.window.shadow.pairs, needed=fewest(limit, observed.alpha))
    trials, before, reference = observed.window.candidate.looked_into, observed.before, observed.reference
    if 0 < compared.needed <= compared.had:
        return compared
    if limit == 0 and before.looked_into >= enough and not before.non_finite:
        return Shortage(counted=OF_CANDIDATE, had=trials, needed=1)
    return _rate(limit, trials, observed, reference.non_finite, reference.looked_into)


def _rate(limit: float, trials: int, observed: Observed, hits: int, others: int) -> Shortage:
    if not others and not observed.alone:
        return Shortage(counted=OF_ACTIVE, had=0, needed=1)
    bound = max(limit, upper_bound(hits, others)) if others else limit
    return Shortage(counted=OF_CANDIDATE, had=trials, needed=fewest(bound, observed.alpha))


def _agreement(limit: LeastAgreement, pairs: Mapping[str, int], scale: int) -> Shortage:
    """Of the outputs that a rule names, the one that was judged least; if it names none, one that was is enough."""
    if not isinstance(limit, Mapping):
        return _compared(max(pairs.values(), default=0), limit, scale)
    named = [_compared(pairs.get(name, 0), least, scale) for name, least in limit.items()]
    return min(named, key=lambda each: each.had - each.needed)


def _compared(pairs: int, least: float, scale: int) -> Shortage:
    return Shortage(counted=COMPARED, had=pairs, needed=fewest((1 - least) / scale))
