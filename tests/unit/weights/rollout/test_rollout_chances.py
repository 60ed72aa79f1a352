"""Of many rollouts under random traffic: how many end wrongly. The seeds are fixed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from aoti_serve.weights.rollout.decisions import RolloutOutcome
from aoti_serve.weights.rollout.plan import AbortRules, RolloutPlan
from tests.unit.weights.rollout.simulated_traffic import Behaviour, SimulatedRollout, Traffic

COMPARING = AbortRules(top1_agreement=0.9, cosine=0.99)
SHORT = RolloutPlan(canary=(0.1, 0.5), each=10.0, shadow=0.2, abort_if=COMPARING, watch=10.0)
USUAL = RolloutPlan(shadow=0.1, abort_if=COMPARING)


def outcomes(count: int, plan: RolloutPlan, rate: float, active: Behaviour, candidate: Behaviour) -> Counter[str]:
    found: Counter[str] = Counter()
    for seed in range(count):
        traffic = Traffic(np.random.default_rng(seed), rate, active, candidate)
        found[str(SimulatedRollout(plan, traffic).run().outcome)] += 1
    return found


def wrong_alarms(found: Counter[str]) -> int:
    return found[RolloutOutcome.ABORTED] + found[RolloutOutcome.ROLLED_BACK]


def test_of_500_rollouts_of_the_same_weights_less_than_1_percent_are_aborted() -> None:
    found = outcomes(500, SHORT, 250.0, Behaviour(), Behaviour())
    assert wrong_alarms(found) < 5
    assert found[RolloutOutcome.PROMOTED] >= 490


def test_of_100_with_three_times_the_errors_that_are_allowed_more_than_95_are_caught() -> None:
    found = outcomes(100, SHORT, 250.0, Behaviour(), Behaviour(error_rate=0.03))
    assert wrong_alarms(found) + found[RolloutOutcome.UNDECIDED] > 95
    assert found[RolloutOutcome.PROMOTED] == 0


HARD_CASES = {
    "usual": Behaviour(),
    "half-the-limit": Behaviour(error_rate=0.005),
    "both-fail": Behaviour(error_rate=0.05),
    "both-fail-often": Behaviour(error_rate=0.5),
    "heavy-tail": Behaviour(spread=1.5),
    "near-the-limits": Behaviour(agreement=0.91, cosine=0.9905),
}


@pytest.mark.long
@pytest.mark.parametrize("both", HARD_CASES.values(), ids=HARD_CASES.keys())
def test_of_500_usual_rollouts_of_the_same_weights_less_than_1_percent_are_aborted(both: Behaviour) -> None:
    found = outcomes(500, USUAL, 100.0, both, both)
    assert wrong_alarms(found) < 5


@pytest.mark.long
@pytest.mark.parametrize("active", [0.0, 0.001, 0.01])
def test_of_500_with_three_times_the_errors_more_than_95_percent_are_caught(active: float) -> None:
    before = Behaviour(error_rate=active)
    found = outcomes(500, USUAL, 100.0, before, replace(before, error_rate=0.03))
    assert wrong_alarms(found) + found[RolloutOutcome.UNDECIDED] > 475
