"""The statistics: how rarely they are wrong however often one looks, and how soon they are right."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from aoti_serve.weights.rollout.judging.evidence import ALPHA, differs_upward, exceeds, upper_bound


def first_alarm(values: NDArray[np.float64], limit: float) -> int | None:
    """After how many values it is sure, if it looks after each at which the mean is above the limit."""
    totals = np.cumsum(values).tolist()
    looks = ((n, total) for n, total in enumerate(totals, 1) if total > n * limit)
    return next((n for n, total in looks if exceeds(total, n, limit)), None)


@pytest.mark.parametrize("limit", [0.01, 0.1])
def test_a_mean_at_the_limit_is_hardly_ever_an_alarm_however_often_one_looks(limit: float) -> None:
    random = np.random.default_rng(11)
    alarms = [first_alarm((random.random(800) < limit).astype(float), limit) for _ in range(200)]
    assert sum(alarm is not None for alarm in alarms) <= 1  # at most 200 ALPHA = 0.1 are expected


def test_values_between_0_and_1_are_no_more_of_an_alarm() -> None:
    random = np.random.default_rng(12)
    assert all(first_alarm(random.beta(0.1, 0.9, 800), 0.1) is None for _ in range(100))


@pytest.mark.parametrize(
    ("rate", "limit", "most"),
    [
        pytest.param(0.03, 0.01, 1600, id="three-times-the-limit"),
        pytest.param(0.1, 0.01, 180, id="ten-times-the-limit"),
        pytest.param(0.2, 0.1, 450, id="twice-a-large-limit"),
    ],
)
def test_what_is_beyond_the_limit_is_found_soon(rate: float, limit: float, most: int) -> None:
    random = np.random.default_rng(13)
    found = [first_alarm((random.random(most) < rate).astype(float), limit) for _ in range(100)]
    assert sum(at is not None for at in found) >= 95


def test_what_always_fails_is_found_after_three() -> None:
    assert first_alarm(np.ones(10), 0.01) == 3


def test_where_nothing_is_allowed_one_is_enough_and_where_all_is_none_is() -> None:
    assert exceeds(1, 1_000_000, 0.0)
    assert not exceeds(0, 1_000_000, 0.0)
    assert not exceeds(1e-12, 1000, 0.0)
    assert not exceeds(5, 5, 1.0)


@given(st.floats(0, 1e6), st.integers(0, 10**6), st.floats(0, 1) | st.floats(1 - 1e-12, 1))
def test_no_figures_break_it(total: float, trials: int, limit: float) -> None:
    """More hits than trials are nonsense, and count as many."""
    assert exceeds(total, trials, limit) in (True, False)
    assert not (exceeds(total, trials, limit) and total < limit * trials)


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_the_upper_bound_is_above_the_rate(hits: int, trials: int) -> None:
    bound = upper_bound(hits, trials)
    assert 0 < bound <= 1
    assert bound >= min(hits, trials) / max(trials, 1)


def test_the_upper_bound_is_wilsons() -> None:
    assert upper_bound(0, 0) == 1.0
    assert upper_bound(0, 100) == pytest.approx(6.25 / 106.25)
    assert upper_bound(10, 1000) == pytest.approx(0.021455, abs=1e-6)


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 1000))
def test_no_counts_break_the_comparison(hits: int, trials: int, other_hits: int, others: int) -> None:
    assert differs_upward(hits, trials, other_hits, others) in (True, False)


def test_two_rates_differ_by_two_standard_errors() -> None:
    assert differs_upward(5, 200, 0, 4000)
    assert not differs_upward(2, 200, 20, 4000)
    assert differs_upward(1, 10, 0, 0)


def test_the_chance_of_an_alarm_is_small_in_a_whole_rollout() -> None:
    rules, windows = 5, 4
    assert rules * windows * ALPHA <= 0.01
