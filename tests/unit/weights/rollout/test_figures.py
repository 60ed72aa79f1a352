"""A trial's figures: sums over gateways, differences over time, latencies, and what people see of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoti_serve.weights.rollout.figures import ArmFigures, ShadowFigures, TrialFigures
from aoti_serve.weights.rollout.latency import LAST_BUCKET, LONGEST_S, LatencyCounts, bucket_of
from aoti_serve.weights.rollout.outputs import OutputAgreement, OutputMoments

COUNT = st.integers(0, 10**12)
NUMBER = st.floats(-1e200, 1e200)
MOMENTS = st.builds(OutputMoments, count=COUNT, total=NUMBER, squares=st.floats(0, 1e200))
AGREEMENT = st.builds(
    OutputAgreement,
    rows=COUNT,
    top1_pairs=COUNT,
    top1=st.floats(0, 1e12),
    cosine_pairs=COUNT,
    cosine=st.floats(-1e12, 1e12),
    largest_difference=st.floats(0, 1.7e308),
)
NAMES = st.sampled_from(["scores", "boxes", "labels"])
LATENCY = st.dictionaries(st.integers(0, LAST_BUCKET), st.integers(0, 10**6), max_size=5).map(
    lambda counts: LatencyCounts(counts=tuple(counts.get(bucket, 0) for bucket in range(LAST_BUCKET + 1)))
)
ARM = st.builds(
    ArmFigures,
    requests=COUNT,
    failures=COUNT,
    non_finite=COUNT,
    doubts=COUNT,
    passed_over=COUNT,
    latency=LATENCY,
    outputs=st.dictionaries(NAMES, MOMENTS, max_size=2),
)
SHADOW = st.builds(
    ShadowFigures,
    pairs=COUNT,
    dropped=COUNT,
    failed=COUNT,
    non_finite=COUNT,
    outputs=st.dictionaries(NAMES, AGREEMENT, max_size=2),
)
TRIAL = st.builds(TrialFigures, active=ARM, candidate=ARM, shadow=SHADOW)


def latencies(*seconds: float) -> LatencyCounts:
    buckets = [bucket_of(each) for each in seconds]
    return LatencyCounts(counts=tuple(buckets.count(bucket) for bucket in range(LAST_BUCKET + 1)))


@given(TRIAL)
def test_figures_survive_json_without_loss(figures: TrialFigures) -> None:
    assert TrialFigures.model_validate_json(figures.model_dump_json()) == figures
    assert figures.summary()["active"]["requests"] == figures.active.requests


@given(TRIAL, TRIAL)
def test_sums_do_not_depend_on_the_order(one: TrialFigures, other: TrialFigures) -> None:
    assert one + other == other + one
    assert one + TrialFigures() == one


@given(TRIAL, TRIAL)
def test_what_has_come_since_is_what_was_added(earlier: TrialFigures, more: TrialFigures) -> None:
    since = (earlier + more).since(earlier)
    assert since.active.requests == more.active.requests
    assert since.candidate.latency == more.candidate.latency
    assert since.shadow.pairs == more.shadow.pairs


@given(TRIAL, TRIAL)
def test_no_difference_is_negative(one: TrialFigures, other: TrialFigures) -> None:
    for difference in (one - other, one.since(other)):
        for arm in (difference.active, difference.candidate):
            assert min(arm.requests, arm.failures, arm.non_finite, *arm.latency.counts) >= 0
            assert all(output.count >= 0 and output.squares >= 0 for output in arm.outputs.values())
        shadow = difference.shadow
        assert min(shadow.pairs, shadow.dropped, shadow.failed, shadow.non_finite) >= 0
        assert all(min(output.top1_pairs, output.top1) >= 0 for output in shadow.outputs.values())


def test_totals_that_have_fallen_count_for_nothing() -> None:
    """A gateway has ended: the others' failures must not stand beside the requests that are missing."""
    earlier = TrialFigures(candidate=ArmFigures(requests=1000, failures=1))
    later = TrialFigures(candidate=ArmFigures(requests=400, failures=6), active=ArmFigures(requests=50))
    assert later.since(earlier) == TrialFigures()
    assert (later - earlier).candidate.failures == 5


def test_a_fall_is_seen_in_the_latencies_too() -> None:
    earlier = TrialFigures(active=ArmFigures(requests=1, latency=latencies(0.01)))
    later = TrialFigures(active=ArmFigures(requests=1, latency=latencies(0.02)))
    assert later.since(earlier) == TrialFigures()


def test_the_summary_is_for_people() -> None:
    arm = ArmFigures(
        requests=200,
        failures=3,
        non_finite=1,
        latency=latencies(*[0.01] * 98, 1.0, 2.0),
        outputs={"scores": OutputMoments(count=4, total=8.0, squares=32.0)},
    )
    shadow = ShadowFigures(
        pairs=10,
        dropped=2,
        outputs={"scores": OutputAgreement(rows=80, top1_pairs=10, top1=9.5, cosine_pairs=10, cosine=9.9)},
    )
    assert TrialFigures(active=arm, candidate=ArmFigures(), shadow=shadow).summary() == {
        "active": {
            "requests": 200,
            "error_rate": 0.015,
            "non_finite_rate": 0.005,
            "p50_s": pytest.approx(0.01, rel=0.1),
            "p99_s": pytest.approx(1.0, rel=0.1),
            "outputs": {"scores": {"mean": 2.0, "spread": 2.0}},
        },
        "candidate": {"requests": 0, "error_rate": 0.0, "non_finite_rate": 0.0},
        "shadow": {
            "pairs": 10,
            "dropped": 2,
            "failed": 0,
            "non_finite": 0,
            "outputs": {"scores": {"largest_difference": 0.0, "top1_agreement": 0.95, "cosine": 0.99}},
        },
    }


@given(st.lists(st.floats(1e-6, 1e4), min_size=1, max_size=50), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_quantile_is_an_eighth_of_an_octave_too_long_at_most(seconds: list[float], q: float) -> None:
    exact = sorted(seconds)[math.ceil(q * len(seconds)) - 1]
    found = latencies(*seconds).quantile(q)
    assert found is not None
    if exact < LONGEST_S:
        assert exact <= found * 1.0000001
        assert found <= max(exact * 2 ** (1 / 8) * 1.0000001, 1e-4)
    else:
        assert found == pytest.approx(LONGEST_S)


def test_the_ends_of_the_buckets() -> None:
    assert [bucket_of(each) for each in (0.0, 9.99e-5, 1e-4, LONGEST_S, 1e9, math.inf)] == [0, 0, 1, 161, 161, 161]
    assert LatencyCounts().quantile(0.5) is None
    assert LatencyCounts().quantile_bound(0.99, 2.5) is None


@given(st.floats(1e-6, 200), st.floats(1e-6, 200))
def test_what_is_above_took_longer(seconds: float, limit: float) -> None:
    above = latencies(seconds).above(limit)
    assert above == 0 or seconds >= limit * 0.9999999
    assert above == 1 or seconds <= limit * 2 ** (1 / 8) * 1.0000001 or seconds < 1e-4 or limit > LONGEST_S


def test_the_bound_of_a_quantile_is_hardly_ever_too_low() -> None:
    random, truth, wrong = np.random.default_rng(5), math.exp(2.3263479), 0
    for _ in range(400):
        bound = latencies(*np.exp(random.standard_normal(1000)).tolist()).quantile_bound(0.99, 2.5)
        assert bound is not None
        wrong += bound < truth
    assert wrong <= 8


def test_the_bound_takes_619_requests() -> None:
    assert latencies(*[0.1] * 618).quantile_bound(0.99, 2.5) is None
    assert latencies(*[0.1] * 619).quantile_bound(0.99, 2.5) == pytest.approx(0.1, rel=0.1)
