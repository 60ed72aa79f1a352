"""Each rule by itself: what is a breach, what is a doubt, and what is neither."""

from __future__ import annotations

import pytest

from aoti_serve.weights.rollout.decisions import Promote, RollBack
from aoti_serve.weights.rollout.figures import ArmFigures, ShadowFigures, TrialFigures
from aoti_serve.weights.rollout.judging.rules import Observed, findings, shortages
from aoti_serve.weights.rollout.latency import LAST_BUCKET, LatencyCounts, bucket_of
from aoti_serve.weights.rollout.outputs import OutputAgreement
from aoti_serve.weights.rollout.plan import AbortRules, RolloutPlan

PLAN = RolloutPlan(shadow=0.1, abort_if=AbortRules(top1_agreement=0.9, cosine=0.99))
GOOD = ArmFigures(requests=10_000, failures=5)


def arm(
    requests: int = 1000, failures: int = 0, non_finite: int = 0, doubts: int = 0, passed_over: int = 0, **seconds: int
) -> ArmFigures:
    """`ms10=5`: five requests took 10 ms."""
    counts = [0] * (LAST_BUCKET + 1)
    for name, count in seconds.items():
        counts[bucket_of(int(name.removeprefix("ms")) / 1000)] += count
    latency = LatencyCounts(counts=tuple(counts))
    counted = {"failures": failures, "non_finite": non_finite, "doubts": doubts, "passed_over": passed_over}
    return ArmFigures(requests=requests, latency=latency, **counted)


def judged(
    candidate: ArmFigures,
    active: ArmFigures = GOOD,
    shadow: ShadowFigures | None = None,
    before: ArmFigures | None = None,
    alone: bool = False,
    plan: RolloutPlan = PLAN,
) -> dict[str, bool]:
    """The rules that have a finding, and whether it is a breach."""
    window = TrialFigures(active=active, candidate=candidate, shadow=shadow or ShadowFigures())
    found = findings(plan, Observed(window, active if before is None else before, alone))
    return {finding.rule: finding.breached for finding in found}


def shadowed(pairs: int, top1: float, cosine: float) -> ShadowFigures:
    output = OutputAgreement(rows=pairs, top1_pairs=pairs, top1=top1, cosine_pairs=pairs, cosine=cosine)
    return ShadowFigures(pairs=pairs, outputs={"scores": output})


@pytest.mark.parametrize(
    ("failures", "expected"),
    [(5, {}), (10, {}), (15, {"error_rate": False}), (100, {"error_rate": True})],
)
def test_failures(failures: int, expected: dict[str, bool]) -> None:
    assert judged(arm(1000, failures)) == expected


def test_what_fails_for_both_is_no_finding() -> None:
    assert judged(arm(1000, 100), active=arm(10_000, 900)) == {}


def test_a_candidate_that_is_worse_than_a_bad_one_is_found() -> None:
    assert judged(arm(1000, 300), active=arm(10_000, 900)) == {"error_rate": True}


def test_failures_wait_for_the_active_version() -> None:
    assert judged(arm(10, 10), active=arm(0)) == {"error_rate": False}
    assert judged(arm(10, 10), active=arm(0), alone=True) == {"error_rate": True}


@pytest.mark.parametrize(
    ("limit", "found"),
    [
        (0.9, {"scores", "embedding"}),
        ({"scores": 0.9}, {"scores"}),
        ({"scores": 0.9, "embedding": 0.1}, {"scores"}),
        ({"scores": 0.2, "embedding": 0.9}, {"embedding"}),
    ],
)
@pytest.mark.parametrize("rule", ["top1_agreement", "cosine"])
def test_outputs_may_have_limits_of_their_own(rule: str, limit: float | dict[str, float], found: set[str]) -> None:
    plan = RolloutPlan.model_validate({"shadow": 0.1, "abort_if": {rule: limit}})
    outputs = shadowed(1000, 400.0, 400.0).outputs["scores"], shadowed(1000, 300.0, 300.0).outputs["scores"]
    shadow = ShadowFigures(pairs=1000, outputs=dict(zip(("scores", "embedding"), outputs, strict=True)))
    observed = Observed(TrialFigures(active=GOOD, candidate=arm(1000), shadow=shadow), GOOD, False)
    assert {finding.figures["output"] for finding in findings(plan, observed) if finding.breached} == found


def test_one_nan_is_enough() -> None:
    assert judged(arm(1000, non_finite=1)) == {"non_finite": True}
    assert judged(arm(1000, non_finite=1), active=arm(199)) == {}
    assert judged(arm(1000, non_finite=1), active=arm(200)) == {"non_finite": True}
    assert judged(arm(10, non_finite=10), active=arm(199)) == {"non_finite": True}


def test_nan_at_the_active_versions_rate_is_no_finding() -> None:
    assert judged(arm(1000, non_finite=12), active=arm(10_000, non_finite=100)) == {}
    assert judged(arm(1000, non_finite=100), active=arm(10_000, non_finite=100)) == {"non_finite": True}


def test_nan_in_a_shadow_is_enough_also_if_the_active_version_has_some() -> None:
    shadow = ShadowFigures(pairs=1000, non_finite=1)
    assert judged(arm(0), active=arm(1000, non_finite=10), shadow=shadow) == {"non_finite": True}
    lenient = RolloutPlan(abort_if=AbortRules(non_finite=0.01))
    assert judged(arm(0), shadow=shadow, plan=lenient) == {}


@pytest.mark.parametrize(("slow", "expected"), [(10, {}), (15, {"p99": False}), (100, {"p99": True})])
def test_slow_requests(slow: int, expected: dict[str, bool]) -> None:
    active = arm(10_000, ms10=9950, ms100=50)
    assert judged(arm(1000, ms10=1000 - slow, ms100=slow), active=active) == expected


def test_latency_says_nothing_while_the_active_version_has_too_few_requests() -> None:
    slow = arm(1000, ms500=1000)
    assert judged(slow, active=arm(618, ms10=618)) == {}
    assert judged(slow, active=arm(619, ms10=619)) == {"p99": True}
    assert judged(slow, active=arm(100, ms10=100), before=arm(10_000, ms10=10_000)) == {"p99": True}
    assert judged(slow, active=arm(100, ms10=90, ms500=10), before=arm(10_000, ms10=10_000)) == {}


def test_agreement() -> None:
    assert judged(arm(), shadow=shadowed(1000, 950, 995)) == {}
    assert judged(arm(), shadow=shadowed(1000, 890, 989)) == {"top1_agreement": False, "cosine": False}
    assert judged(arm(), shadow=shadowed(1000, 500, 500)) == {"top1_agreement": True, "cosine": True}


def test_full_agreement_can_be_asked_for() -> None:
    plan = RolloutPlan(shadow=0.1, abort_if=AbortRules(top1_agreement=1.0, cosine=0.0))
    assert judged(arm(), shadow=shadowed(3, 0.1 + 0.2 + 2.7, 3), plan=plan) == {}
    assert judged(arm(), shadow=shadowed(1000, 999, 1000), plan=plan) == {"top1_agreement": True}


def test_what_has_too_few_requests_is_named() -> None:
    nothing = Observed(TrialFigures(), ArmFigures(), alone=False)
    assert shortages(PLAN, nothing, 0.1) == [
        "0 requests of the candidate of 200",
        "0 requests of the active version of 200",
        "0 compared requests of 200",
    ]
    assert shortages(RolloutPlan(), nothing, 1.0) == ["0 requests of the candidate of 200"]
    assert shortages(RolloutPlan(canary=(), shadow=0.1), nothing, 0.0) == [
        "0 requests of the active version of 200",
        "0 compared requests of 200",
    ]


def test_decisions_are_for_people() -> None:
    assert str(Promote({})) == "the candidate has passed all steps: commit it"
    assert str(RollBack("p99: slow", {})) == "the committed candidate is rolled back: p99: slow"


LENIENT = RolloutPlan(abort_if=AbortRules(non_finite=0.05))


def test_answers_that_nobody_looked_into_are_judged_by_those_that_somebody_did() -> None:
    """Of 1000 NaN 976 were passed over; of those of one client, which both versions answer, as many."""
    clean = arm(10_000)
    assert judged(arm(1000, non_finite=24, doubts=24, passed_over=976), clean, plan=LENIENT) == {"non_finite": True}
    assert judged(arm(1000, doubts=24, passed_over=476), clean, plan=LENIENT) == {}
    assert judged(arm(1000, passed_over=100), clean, plan=LENIENT) == {}
    a_tenth = arm(10_000, non_finite=100, doubts=600, passed_over=5400)
    assert (a_tenth.looked_into, a_tenth.estimated_non_finite) == (1000, 1000)
    assert judged(a_tenth, clean, plan=LENIENT) == {"non_finite": True}
    assert judged(a_tenth, a_tenth, plan=LENIENT) == {}


def test_one_answer_is_not_enough_where_the_active_versions_were_passed_over() -> None:
    seen = arm(1000, non_finite=1, doubts=50, passed_over=950)
    assert judged(seen, active=arm(1000, doubts=50, passed_over=950)) == {}
