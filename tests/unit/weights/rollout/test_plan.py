"""The plan of a rollout: what people write, and what is said when they write something else."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from aoti_serve.errors import InvalidConfig, shown_value
from aoti_serve.weights.rollout.plan import AbortRules, RolloutPlan, read_plan
from aoti_serve.weights.rollout.quantities import (
    TrafficShare,
    duration_of,
    factor_of,
    least_of,
    rate_of,
    share_of,
    shown_share,
)

EXAMPLE = """
rollout:
  canary: [1%, 10%, 50%]
  each: 60s
  shadow: 10%
  abort_if: {error_rate: 1%, p99: 2x, non_finite: any, top1_agreement: below 0.9, cosine: below 0.99}
  min_requests: 200
  watch: 120s
"""


def refusal(call: Callable[[], object], error: type[Exception]) -> str | None:
    """What the error of this kind says, if there is one; any other is raised."""
    try:
        call()
    except error as raised:
        return str(raised)
    return None


def test_a_plan_is_read_as_people_write_it() -> None:
    rules = AbortRules(error_rate=0.01, p99=2.0, non_finite=0.0, top1_agreement=0.9, cosine=0.99)
    expected = RolloutPlan(
        canary=(0.01, 0.1, 0.5), each=60.0, shadow=0.1, abort_if=rules, min_requests=200, watch=120.0
    )
    assert read_plan(EXAMPLE) == expected
    assert read_plan(yaml.safe_dump(yaml.safe_load(EXAMPLE)["rollout"])) == expected
    assert read_plan(json.dumps(yaml.safe_load(EXAMPLE))) == expected


def test_the_plan_of_the_demo_is_one() -> None:
    plan = read_plan((Path(__file__).parents[4] / "configs" / "rollout.yaml").read_text())
    assert (plan.canary, plan.each, plan.abort_if.top1_agreement) == ((0.2, 0.5), 3.0, 0.9)


@pytest.mark.parametrize("text", ["", "rollout:", "{}", "rollout: {}"])
def test_a_plan_that_says_nothing_is_the_default(text: str) -> None:
    assert read_plan(text) == RolloutPlan()


def test_a_rule_can_be_turned_off() -> None:
    assert read_plan("abort_if: {p99: null}").abort_if == AbortRules(p99=None)


def test_a_rule_on_agreement_may_name_outputs() -> None:
    rules = read_plan("{shadow: 10%, abort_if: {top1_agreement: {logits: below 90%}, cosine: 0.99}}").abort_if
    assert (rules.top1_agreement, rules.cosine) == ({"logits": 0.9}, 0.99)
    rules.check_outputs(["logits"])
    with pytest.raises(InvalidConfig, match="has no output 'logits'; available: y"):
        rules.check_outputs(["y"])


def test_without_a_canary_there_is_one_step_that_only_shadows() -> None:
    assert read_plan("{canary: [], shadow: 100%}").steps == (0.0,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("canery: [1%]", "canery: there is no such key", id="unknown"),
        pytest.param("abort_if: {p95: 2x}", "abort_if.p95: there is no such key", id="unknown-rule"),
        pytest.param("canary: [10%, 1%]", "canary: each share must be larger than the one before", id="shrinks"),
        pytest.param("canary: [10%, 0.1]", "larger than the one before", id="stands"),
        pytest.param("canary: [0%]", "canary.0: '0%' is too small: more than 0 is needed", id="nothing"),
        pytest.param("canary: [5]", "canary.0: 5 is more than the whole: write 5% or 0.05", id="no-percent"),
        pytest.param("canary: [five]", "canary.0: 'five' is no share: write 5% or 0.05", id="no-number"),
        pytest.param("canary: [true]", "canary.0: true is no share", id="bool"),
        pytest.param("canary: []", "the candidate would see no request", id="no-requests"),
        pytest.param("each: 60 parsecs", "each: '60 parsecs' is no duration: write 60s", id="unit"),
        pytest.param("each: -1", "each: -1 is no duration", id="negative"),
        pytest.param("each: 0s", "each: '0s' is too small: more than 0 is needed", id="no-time"),
        pytest.param("each: .nan", "each: NaN is no duration", id="nan"),
        pytest.param("each: .inf", "each: Infinity is no duration", id="infinite"),
        pytest.param("each: 1e999", "each: '1e999' is no duration", id="too-large"),
        pytest.param("abort_if: {p99: 0.5x}", "abort_if.p99: '0.5x' would ask for a candidate", id="faster"),
        pytest.param("abort_if: {error_rate: some}", "abort_if.error_rate: 'some' is no share", id="rate"),
        pytest.param("abort_if: {cosine: above 0.9}", "abort_if.cosine: 'above 0.9' is no share", id="above"),
        pytest.param("abort_if: {cosine: {}}", "abort_if.cosine: it names no output", id="no-output"),
        pytest.param("abort_if: {cosine: {y: 2}}", "abort_if.cosine: y: 2 is more than the whole", id="of-an-output"),
        pytest.param("abort_if: {cosine: {y: 0.9}}", "say shadow: 10% as well", id="output-without-shadow"),
        pytest.param("abort_if: {cosine: 0.9}", "say shadow: 10% as well", id="no-shadow"),
        pytest.param(
            "{canary: [50%, 100%], shadow: 10%, abort_if: {cosine: 0.9}}", "nothing to compare", id="all-of-it"
        ),
        pytest.param("min_requests: 0", "min_requests: 0 is too small: more than 0 is needed", id="no-evidence"),
        pytest.param("if_undecided: guess", "if_undecided: 'guess' is not 'withdraw' or 'hold'", id="undecided"),
        pytest.param("[1, 2]", "the rollout's plan: ", id="list"),
        pytest.param("a: [", "the rollout's plan: ", id="no-yaml"),
        pytest.param("each: 2001-99-99", "the rollout's plan: month must be in 1..12", id="no-date"),
        pytest.param("{1: 2}", "the rollout's plan: ", id="no-name"),
        pytest.param("[" * 5_000, "the rollout's plan: ", id="too-deep"),
    ],
)
def test_what_cannot_be_used_is_named(text: str, said: str) -> None:
    with pytest.raises(InvalidConfig) as raised:
        read_plan(text)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("60s", 60), ("2m", 120), ("1.5 h", 5400), ("60", 60), (7, 7), (".5s", 0.5)]
)
def test_a_duration(text: object, seconds: float) -> None:
    assert duration_of(text) == pytest.approx(seconds)


def test_the_other_quantities() -> None:
    assert [share_of(each) for each in ("5%", "0.05", 0.05, " 5 % ")] == pytest.approx([0.05] * 4)
    assert [factor_of(each) for each in ("2x", "2X", 2, 2.0)] == [2.0] * 4
    assert [rate_of(each) for each in ("any", "Any", 0, "1%")] == [0.0, 0.0, 0.0, 0.01]
    assert [least_of(each) for each in ("below 0.9", "below 90%", 0.9, "90%")] == pytest.approx([0.9] * 4)


def test_a_share_is_a_type_of_pydantics() -> None:
    assert TypeAdapter(TrafficShare).validate_python("5%") == 0.05
    with pytest.raises(ValidationError, match="'5' is more than the whole"):
        TypeAdapter(TrafficShare).validate_python("5")


@given(st.floats(0, 1))
def test_a_share_is_read_back_as_it_is_shown(share: float) -> None:
    assert share_of(share) == share
    assert share_of(shown_share(share)) == pytest.approx(share, rel=0.006)


@given(st.one_of(st.text(), st.floats(), st.integers(), st.booleans(), st.none(), st.lists(st.integers())))
def test_anything_else_is_a_value_error_that_names_it(value: object) -> None:
    for read in (share_of, duration_of, factor_of, rate_of, least_of):
        said = refusal(partial(read, value), ValueError)
        assert said is None or isinstance(value, str) or shown_value(value) in said


@given(
    st.builds(
        RolloutPlan,
        canary=st.sets(st.floats(1e-4, 0.999), min_size=1, max_size=5).map(sorted).map(tuple),
        each=st.floats(0.1, 1e6),
        shadow=st.floats(0.001, 1),
        abort_if=st.builds(
            AbortRules,
            error_rate=st.none() | st.floats(0, 1),
            p99=st.none() | st.floats(1, 100),
            non_finite=st.none() | st.floats(0, 1),
            top1_agreement=st.none() | st.floats(0, 1) | st.dictionaries(st.text(), st.floats(0, 1), min_size=1),
            cosine=st.none() | st.floats(0, 1) | st.dictionaries(st.text(), st.floats(0, 1), min_size=1),
        ),
        watch=st.floats(0, 2.5e6),
    )
)
def test_a_plan_survives_json(plan: RolloutPlan) -> None:
    assert RolloutPlan.model_validate_json(plan.model_dump_json()) == plan


@given(
    st.text()
    | st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)).map(
        json.dumps
    )
)
def test_any_text_is_a_plan_or_an_invalid_configuration(text: str) -> None:
    said = refusal(lambda: read_plan(text), InvalidConfig)
    assert said is None or said.startswith("the rollout's plan: ")
