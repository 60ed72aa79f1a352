"""The sum is that of the whole matrices, computed in float32 and rounded once, however few rows are made at a time."""

from __future__ import annotations

import io
import warnings
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from aoti_serve.signature.tensors import Span
from aoti_serve.weights.files import low_rank
from aoti_serve.weights.files.low_rank import FLOATS, LowRankUpdate
from aoti_serve.weights.files.merge import FilePart

RNG = np.random.default_rng(0)


def random(*shape: int, dtype: str = "float32") -> NDArray[Any]:
    return RNG.standard_normal(shape).astype(FLOATS[dtype])


def part(array: NDArray[Any]) -> FilePart:
    """Somewhere in a file."""
    content = array.tobytes()
    return FilePart(io.BytesIO(b"head" + content + b"tail"), Span(array.dtype.name, array.shape, 4, 4 + len(content)))


def update(old: NDArray[Any], left: NDArray[Any], right: NDArray[Any], scale: float = 0.5) -> NDArray[Any]:
    made = LowRankUpdate(part(old), part(left), part(right), left.shape[1], scale, transposed=False)
    assert made.span == part(old).span
    return np.frombuffer(b"".join(made.chunks()), old.dtype).reshape(old.shape)


@pytest.mark.parametrize("chunk", [1, 100, 2**20])
@pytest.mark.parametrize("factors", FLOATS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_it_is_computed_in_float32_and_rounded_once(
    monkeypatch: pytest.MonkeyPatch, dtype: str, factors: str, chunk: int
) -> None:
    monkeypatch.setattr(low_rank, "CHECK_CHUNK_BYTES", chunk)
    old, left, right = random(7, 5, dtype=dtype), random(7, 3, dtype=factors), random(3, 5, dtype=factors)
    exact = old.astype(np.float64) + left.astype(np.float64) @ right.astype(np.float64) / 2
    made = update(old, left, right)
    half_an_ulp = 2.0 ** -{"float16": 11, "bfloat16": 8, "float32": 22, "float64": 50}[dtype]
    np.testing.assert_allclose(made.astype(np.float64), exact, rtol=half_an_ulp * 1.001, atol=2e-6)


def test_the_factors_of_an_embedding_are_transposed() -> None:
    old, a, b = random(9, 4), random(2, 9), random(4, 2)
    made = b"".join(LowRankUpdate(part(old), part(a), part(b), 2, 3.0, transposed=True).chunks())
    np.testing.assert_allclose(np.frombuffer(made, np.float32).reshape(9, 4), old + 3 * (b @ a).T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_what_is_empty_stays_empty(shape: tuple[int, int]) -> None:
    assert update(random(*shape), random(shape[0], 2), random(2, shape[1])).size == 0


def test_bfloat16_is_rounded_to_the_nearest_and_ties_to_even() -> None:
    nothing = np.zeros((1, 1), np.float32)
    old = np.zeros((1, 4), ml_dtypes.bfloat16)
    between = np.array([[1 + 1 / 256, 1 + 3 / 256, 1 + 2.1 / 512, -1 - 1 / 256]], np.float32)
    made = update(old, nothing + 1, between, 1.0).astype(np.float32)
    assert made.tolist() == [[1.0, 1 + 1 / 64, 1 + 1 / 128, -1.0]]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_what_is_not_finite_is_let_in_without_a_word(dtype: str) -> None:
    left = np.array([[np.nan], [np.inf], [3e38], [1]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = update(np.ones((4, 1), FLOATS[dtype]), left, np.ones((1, 1), np.float32), 10.0)
    assert np.isnan(made[0].astype(np.float32))
    assert made.astype(np.float32).ravel()[1:].tolist() == [np.inf, np.inf, 11]
