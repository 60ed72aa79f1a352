"""The list of the chaos lab's faults while a candidate is out, and at each step of a rollout."""

from __future__ import annotations

from chaoslab.campaign import QUIET, faults, trials
from chaoslab.trials import rollouts, stages
from chaoslab.trials.strikes import STRIKES

from aoti_serve.weights.rollout.plan import RolloutPlan


def test_every_strike_comes_at_every_stage_where_it_can() -> None:
    named = {fault.name for fault in trials() if "@" in fault.name}
    at = stages.STAGES.keys() | rollouts.STAGES.keys()
    missing = {f"{name}@{stage}" for name in STRIKES for stage in at} - named
    assert missing == {f"other-changes@{stage}" for stage in at - set(QUIET)}


def test_a_fault_has_one_name() -> None:
    names = [fault.name for fault in [*faults(0), *trials()]]
    assert len(names) == len(set(names))


def test_the_plan_of_the_rollouts_is_one() -> None:
    plan = RolloutPlan.model_validate(rollouts.PLAN)
    assert (plan.steps, plan.watch, plan.abort_if.error_rate) == ((0.5,), 3.0, None)
