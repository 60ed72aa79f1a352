"""Rules that cannot judge are named, and no others: with one request more even the worst of candidates is found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoti_serve.weights.rollout.figures import ArmFigures, ShadowFigures, TrialFigures
from aoti_serve.weights.rollout.judging.evidence import exceeds, fewest
from aoti_serve.weights.rollout.judging.rules import STEADY_CALLS, Observed, findings
from aoti_serve.weights.rollout.judging.unjudged import unjudged
from aoti_serve.weights.rollout.outputs import OutputAgreement
from aoti_serve.weights.rollout.plan import AbortRules, RolloutPlan
from tests.unit.weights.rollout.judging.test_rules import arm

ALL = RolloutPlan(shadow=0.1, abort_if=AbortRules(top1_agreement=0.9, cosine=0.99))
COUNTS = st.one_of(st.integers(0, 30), st.integers(0, 2000))


def named(observed: Observed, plan: RolloutPlan = ALL, calls: int = STEADY_CALLS) -> dict[str, str]:
    return {each.rule: str(each.shortage) for each in unjudged(plan, observed, "step 1", calls)}


def worst(candidate: int, active: int, pairs: int, *, alone: bool) -> Observed:
    """Everything that the candidate does is as bad as it can be, and the active version is without fault."""
    bad = arm(candidate, candidate, candidate, ms9000=candidate)
    output = OutputAgreement(rows=pairs, top1_pairs=pairs, top1=0.0, cosine_pairs=pairs, cosine=-float(pairs))
    shadow = ShadowFigures(pairs=pairs, non_finite=pairs, outputs={"scores": output} if pairs else {})
    good = arm(active, ms10=active)
    window = TrialFigures(active=ArmFigures() if alone else good, candidate=bad, shadow=shadow)
    return Observed(window, good, alone)


@given(COUNTS, COUNTS, COUNTS, st.sampled_from([0.0, 0.005, 0.01, 0.1, 0.5]))
def test_a_rule_is_named_if_and_only_if_it_finds_no_breach_in_the_worst_of_candidates(
    candidate: int, active: int, pairs: int, limit: float
) -> None:
    rules = AbortRules(non_finite=limit, top1_agreement=0.9, cosine=0.99)
    plan = RolloutPlan(shadow=0.1, abort_if=rules)
    observed = worst(candidate, active, pairs, alone=False)
    found = {finding.rule for finding in findings(plan, observed) if finding.breached}
    passed_over = {"error_rate"} if pairs else set()  # these shadows have not failed, as they might have
    assert named(observed, plan).keys() - passed_over == AbortRules.model_fields.keys() - found - passed_over


@given(COUNTS, COUNTS)
def test_so_it_is_where_the_candidate_answers_everything(candidate: int, active: int) -> None:
    observed = worst(candidate, active, 0, alone=True)
    found = {finding.rule for finding in findings(ALL, observed) if finding.breached}
    assert named(observed).keys() == {"error_rate", "p99", "non_finite"} - found


def test_of_outputs_that_are_named_each_must_have_been_judged() -> None:
    rules = AbortRules(top1_agreement={"scores": 0.9, "label": 0.9}, cosine={"scores": 0.99})
    plan = RolloutPlan(shadow=0.1, abort_if=rules)
    assert named(worst(1000, 1000, 1000, alone=False), plan) == {"top1_agreement": "0 of 4 compared requests"}


def test_it_is_said_what_there_was_and_what_it_takes() -> None:
    assert named(worst(200, 618, 1, alone=False)) == {
        "p99": "618 of 619 requests of the active version",
        "top1_agreement": "1 of 4 compared requests",
        "cosine": "1 of 2 compared requests",
    }
    assert named(worst(2, 10_000, 200, alone=False)) == {"p99": "2 of 3 requests of the candidate"}
    assert named(worst(0, 0, 0, alone=True))["error_rate"] == "0 of 3 requests of the candidate"


@pytest.mark.parametrize(("calls", "expected"), [(STEADY_CALLS - 1, {"error_rate", "p99"}), (STEADY_CALLS, set())])
def test_the_watch_takes_five_seconds_with_requests_for_what_the_surroundings_can_do(
    calls: int, expected: set[str]
) -> None:
    found = named(worst(200, 1000, 0, alone=True), calls=calls)
    assert found == dict.fromkeys(expected, "4 of 5 seconds with requests of the candidate")


def test_rules_that_are_off_are_not_named() -> None:
    off = RolloutPlan(abort_if=AbortRules(error_rate=None, p99=None, non_finite=None))
    assert named(worst(0, 0, 0, alone=False), off) == {}


@given(st.floats(0, 1), st.sampled_from([5e-4, 0.3]))
def test_the_fewest_values_are_enough_and_one_less_is_not(limit: float, alpha: float) -> None:
    count = fewest(min(limit, 0.999), alpha)
    assert exceeds(count, count, limit, alpha) or limit > 0.999
    assert not exceeds(count - 1, count - 1, min(limit, 0.999), alpha)
    assert fewest(1.0) == 0
