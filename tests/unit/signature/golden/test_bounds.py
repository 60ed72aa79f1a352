"""How answers are measured, and what a bound lets through."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from pydantic import ValidationError

from aoti_serve.signature.golden.bounds import Bounds, Miss
from aoti_serve.signature.golden.measures import absolute_error, least_cosine, relative_error, top1_share

ONE = np.array([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]], np.float32)


def misses(output: Any, expected: Any = None, **bounds: Any) -> list[Miss]:
    wanted = None if expected is None else np.asarray(expected)
    return list(Bounds(**bounds).misses(np.asarray(output), wanted))


def test_the_absolute_error_is_the_largest_difference() -> None:
    assert misses(ONE + np.float32(0.5), ONE, absolute=0.5) == []
    assert misses(ONE + np.float32(0.5), ONE, absolute=0.25) == [Miss("absolute error", 0.5, "at most", 0.25)]


def test_the_relative_error_is_by_the_size_of_what_is_expected() -> None:
    assert relative_error(np.array([110.0, 1.0]), np.array([100.0, 1.0])) == pytest.approx(0.1)
    assert relative_error(np.zeros(3), np.zeros(3)) == 0
    assert relative_error(np.array([1e-3]), np.zeros(1)) > 1e30


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_integers_that_no_float_tells_apart_differ(dtype: type[np.integer[Any]]) -> None:
    large = np.array([2**62], dtype)
    assert absolute_error(large + dtype(1), large) == 1
    assert absolute_error(large, large + dtype(1)) == 1


def test_the_difference_of_the_ends_of_the_integers_does_not_overflow() -> None:
    ends = np.array([-(2**63), 2**63 - 1])
    assert absolute_error(ends, ends[::-1].copy()) == pytest.approx(2**64)
    assert absolute_error(np.array([0, 255], np.uint8), np.array([255, 0], np.uint8)) == 255


def test_bools_and_outputs_of_another_dtype_than_expected_are_compared() -> None:
    assert absolute_error(np.array([True, False]), np.array([True, True])) == 1
    assert absolute_error(np.array([1, 2], np.int32), np.array([1.0, 2.5], np.float32)) == 0.5
    assert misses(ONE.astype(ml_dtypes.bfloat16), ONE, absolute=0, cosine=1, top1=1) == []


def test_the_cosine_is_that_of_the_worst_row() -> None:
    assert least_cosine(ONE, ONE * 7) == 1
    assert misses(ONE, ONE[::-1], cosine=0.9) == [Miss("cosine", 0, "at least", 0.9)]
    assert least_cosine(-ONE, ONE) == -1


def test_a_row_is_all_that_belongs_to_one_index_of_the_first_dimension() -> None:
    image = np.arange(24.0).reshape(2, 3, 4)
    other = image.copy()
    other[1] = -1
    assert least_cosine(other, image) == pytest.approx(
        float((other[1] * image[1]).sum() / np.linalg.norm(other[1]) / np.linalg.norm(image[1]))
    )
    assert least_cosine(np.array([1.0, -1.0]), np.array([1.0, 1.0])) == 0, "a vector is one row"
    assert least_cosine(np.array(3.0), np.array(2.0)) == 1


def test_rows_of_zeros_are_like_each_other_and_nothing_else() -> None:
    zeros = np.zeros((2, 3))
    assert (least_cosine(zeros, zeros), least_cosine(zeros, ONE.astype(float))) == (1, 0)


def test_a_cosine_of_huge_or_tiny_values_does_not_overflow() -> None:
    huge = np.array([[1e300, 1e300]])
    assert least_cosine(huge, huge / 2) == pytest.approx(1)
    assert least_cosine(huge * 1e-600, huge) in (0, 1)


def test_the_share_of_rows_with_the_largest_value_at_the_same_place() -> None:
    logits = np.eye(4)[None].repeat(2, 0)
    other = logits.copy()
    other[0, 0] = [0, 1, 0, 0]
    assert top1_share(other, logits) == 7 / 8
    assert misses(other, logits, top1=0.9) == [Miss("top1", 7 / 8, "at least", 0.9)]
    assert misses(np.zeros((4, 4)), np.eye(4), top1=0.5) == [Miss("top1", 0.25, "at least", 0.5)]


def test_a_range_needs_nothing_that_is_expected() -> None:
    assert misses([0.0, 1.0], range=(0, 1)) == []
    assert misses([-2.0, 3.0], range=(0, 1)) == [
        Miss("least value", -2, "at least", 0),
        Miss("largest value", 3, "at most", 1),
    ]
    assert misses(np.array([5], ml_dtypes.bfloat16), range=(0, 4)) == [Miss("largest value", 5, "at most", 4)]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2])
def test_what_is_no_finite_number_keeps_to_no_bound(value: float, dtype: Any) -> None:
    output = np.array([[1, value, value]]).astype(dtype)
    wanted = [Miss("non-finite values", 2, "at most", 0)]
    assert misses(output) == wanted
    assert misses(output, np.ones((1, 3)), absolute=1e300, relative=1e300, cosine=-1, top1=0) == wanted
    assert misses(output, range=(-1e300, 1e300)) == wanted


def test_another_shape_keeps_to_no_bound() -> None:
    assert misses(ONE, ONE[:1], absolute=100) == [Miss("shape", "[2, 3]", "exactly", "[1, 3]")]


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
def test_nothing_is_like_nothing(shape: tuple[int, ...]) -> None:
    empty = np.zeros(shape)
    assert misses(empty, empty, absolute=0, relative=0, cosine=1, top1=1, range=(1, 2)) == []


@pytest.mark.parametrize(
    "bounds",
    [
        {"absolute": -1},
        {"absolute": float("nan")},
        {"cosine": 1.1},
        {"cosine": float("nan")},
        {"top1": -0.1},
        {"range": (2, 1)},
        {"range": (0, float("inf"))},
        {"finite": False},
        {"cosinus": 1},
    ],
)
def test_what_is_no_bound_is_refused(bounds: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Bounds(**bounds)
