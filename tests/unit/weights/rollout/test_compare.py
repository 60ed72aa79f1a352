"""What is counted of two versions' answers to one request."""

from __future__ import annotations

import math
import warnings
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from aoti_serve.signature.tensors import DTYPES, Dim, TensorSpec
from aoti_serve.weights.rollout.compare import OutputReader
from aoti_serve.weights.rollout.counts import TrialCounts
from aoti_serve.weights.rollout.outputs import OutputAgreement, OutputMoments

BATCH = Dim(symbol="batch")


def reader(dtype: str = "float32", *row: int | Dim) -> OutputReader:
    return OutputReader(TensorSpec(name="scores", dtype=dtype, shape=(BATCH, *row)))


def scores(*rows: list[float], dtype: Any = np.float32) -> NDArray[Any]:
    return np.array(rows, dtype)


def test_rows_that_agree_and_rows_that_do_not() -> None:
    found = reader("float32", 2).compare(scores([1, 0], [0, 1], [3, 4]), scores([2, 0], [1, 0], [4, 3]))
    assert (found.rows, found.spoilt) == (3, 0)
    assert found.top1 == pytest.approx(1 / 3)
    assert found.cosine == pytest.approx((1 + 0 + 24 / 25) / 3)
    assert found.largest_difference == 1.0


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_raw_types_are_read_as_the_numbers_they_stand_for(dtype: str) -> None:
    numbers = np.array([[1, -2, 0.5], [0.25, 4, 8]], np.float32)
    raw = numbers.astype(getattr(ml_dtypes, dtype)).view(DTYPES[dtype].numpy)
    found = reader(dtype, 3).compare(raw, raw)
    assert (found.top1, found.largest_difference) == (1.0, 0.0)
    assert found.cosine == pytest.approx(1.0)
    assert reader(dtype, 3).sums(raw).total == 11.75


def test_a_raw_infinity_is_found() -> None:
    raw = np.array([[math.inf, 1]], ml_dtypes.bfloat16).view(np.uint16)
    assert not reader("bfloat16", 2).sums(raw).finite


def test_integers_agree_where_they_are_equal() -> None:
    found = reader("int64", 3).compare(np.array([[1, 2, 3], [4, 5, 6]]), np.array([[1, 2, 3], [4, 0, 9]]))
    assert (found.rows, found.cosine, found.largest_difference) == (2, None, 5.0)
    assert found.top1 == pytest.approx(4 / 6)


def test_integers_that_no_float_tells_apart_differ() -> None:
    one = np.array([[2**53, 2**60, 7]])
    found = reader("int64", 3).compare(one, one + np.array([[1, 3, 0]]))
    assert found.top1 == pytest.approx(1 / 3)
    assert found.largest_difference == 3.0


@pytest.mark.parametrize(
    ("dtype", "one", "other", "largest"),
    [
        ("int64", -(2**63), 2**63 - 1, 2.0**64),
        ("int8", 127, -128, 255.0),
        ("uint8", 0, 255, 255.0),
        ("bool", True, False, 1.0),
    ],
)
def test_the_difference_of_integers_fits_whatever_they_are(dtype: str, one: Any, other: Any, largest: float) -> None:
    for shape in ((1, 1), ()):
        pair = (np.full(shape, value, dtype) for value in (one, other))
        found = OutputReader(TensorSpec(name="ids", dtype=dtype, shape=shape)).compare(*pair)
        assert (found.rows, found.top1, found.largest_difference) == (1, 0.0, largest)


@pytest.mark.parametrize("row", [(), (1,), (BATCH,)], ids=["scalars", "one", "sequence"])
def test_what_has_no_classes_is_one_row_without_a_first(row: tuple[int | Dim, ...]) -> None:
    one, other = np.ones((4, 1), np.float32), -np.ones((4, 1), np.float32)
    found = reader("float32", *row).compare(one, other)
    assert (found.rows, found.top1) == (1, None)
    assert found.cosine == pytest.approx(-1.0)


def test_a_row_that_only_the_candidate_has_spoilt_is_a_disagreement() -> None:
    found = reader("float32", 2).compare(scores([1, 0], [1, 0]), scores([1, 0], [math.nan, 0]))
    assert (found.rows, found.top1, found.cosine, found.spoilt) == (2, 0.5, 0.5, 1)


def test_a_row_that_the_active_version_has_spoilt_is_left_out() -> None:
    found = reader("float32", 2).compare(scores([math.inf, 0], [1, 0]), scores([1, 0], [1, 0]))
    assert (found.rows, found.top1, found.cosine, found.spoilt) == (1, 1.0, 1.0, 0)
    nothing = reader("float32", 2).compare(scores([math.nan, 0]), scores([1, 0]))
    assert (nothing.rows, nothing.top1, nothing.cosine) == (0, None, None)


def test_zeros_are_like_zeros_only() -> None:
    found = reader("float32", 2).compare(scores([0, 0], [0, 0]), scores([0, 0], [1, 0]))
    assert found.cosine == 0.5


def test_nothing_is_compared_of_no_rows_and_nothing_agrees_of_other_shapes() -> None:
    empty = np.zeros((0, 2), np.float32)
    assert reader("float32", 2).compare(empty, empty).top1 is None
    other = reader("float32", 2).compare(scores([1, 2]), scores([1, 2], [3, 4]))
    assert (other.top1, other.cosine) == (0.0, 0.0)


@pytest.mark.parametrize("size", [1e308, 1e-308])
def test_numbers_whose_squares_are_no_floats(size: float) -> None:
    found = reader("float64", 2).compare(scores([size, 0], dtype=float), scores([-size, 0], dtype=float))
    assert found.cosine == pytest.approx(-1.0)
    assert math.isfinite(found.largest_difference)
    sums = reader("float64", 2).sums(scores([size, size], dtype=float))
    assert sums.finite
    assert math.isfinite(sums.squares)


@settings(max_examples=300)
@given(st.data(), st.sampled_from(["float16", "float32", "float64", "int8", "int64", "uint64", "bool", "bfloat16"]))
def test_whatever_the_arrays_hold_nothing_warns_and_all_is_in_range(data: st.DataObject, dtype: str) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=4))
    one, other = (data.draw(hnp.arrays(DTYPES[dtype].numpy, shape)) for _ in range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = reader(dtype, *shape[1:]).compare(one, other)
        sums = reader(dtype, *shape[1:]).sums(one)
    assert found.top1 is None or 0 <= found.top1 <= 1
    assert found.cosine is None or -1.000001 <= found.cosine <= 1.000001
    assert math.isfinite(found.largest_difference)
    assert math.isfinite(sums.total)
    assert 0 <= sums.squares < math.inf


def counted() -> TrialCounts:
    return TrialCounts(
        [
            TensorSpec(name="scores", dtype="float32", shape=(BATCH, 2)),
            TensorSpec(name="label", dtype="int64", shape=(BATCH,)),
        ]
    )


def test_an_arm_counts_its_requests() -> None:
    counts = counted()
    assert counts.candidate.note_outputs([scores([1, math.nan]), np.array([3])])
    assert not counts.candidate.note_outputs([scores([1, 2]), np.array([4])])
    counts.candidate.note(0.01)
    counts.candidate.note_doubt(non_finite=True)
    counts.candidate.note(0.02)
    counts.candidate.note(5.0, failed=True)
    figures = counts.figures().candidate
    assert (figures.requests, figures.failures, figures.non_finite, figures.latency.total) == (3, 1, 1, 3)
    assert figures.outputs == {
        "scores": OutputMoments(count=2, total=3.0, squares=5.0),
        "label": OutputMoments(count=2, total=7.0, squares=25.0),
    }


def test_shadows_are_counted_by_request() -> None:
    counts = counted()
    good = [scores([1, 0], [0, 1]), np.array([0, 1])]
    counts.shadow.note_pair(good, good)
    counts.shadow.note_pair(good, [scores([1, 0], [math.nan, 1]), np.array([0, 0])])
    counts.shadow.note_dropped()
    counts.shadow.note_failed()
    shadow = counts.figures().shadow
    assert (shadow.pairs, shadow.dropped, shadow.failed, shadow.non_finite) == (2, 1, 1, 1)
    assert shadow.outputs == {
        "scores": OutputAgreement(rows=4, top1_pairs=2, top1=1.5, cosine_pairs=2, cosine=1.5),
        "label": OutputAgreement(rows=2, top1_pairs=2, top1=1.5, largest_difference=1.0),
    }


def test_an_untouched_counter_is_the_empty_figures() -> None:
    figures = counted().figures()
    assert figures == type(figures)()
