"""What a signature admits against what was compiled."""

from __future__ import annotations

import pytest

from aoti_serve.model.program.compiled_signature import narrow
from aoti_serve.signature.tensors import Dim, TensorSpec


def spec(*shape: int | Dim, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name="x", dtype=dtype, shape=shape)


BATCH = Dim(symbol="batch", min=1, max=32)
S0 = Dim(symbol="s0", min=1, max=32)
TWICE = Dim(symbol="batch", min=2, max=64, factor=2)


@pytest.mark.parametrize(
    ("admitted", "compiled"),
    [
        pytest.param([spec(BATCH, 3)], [spec(S0, 3)], id="as-compiled"),
        pytest.param([spec(4, 3)], [spec(S0, 3)], id="narrower"),
        pytest.param([spec(BATCH), spec(BATCH)], [spec(S0), spec(S0)], id="equal-symbols"),
        pytest.param([spec(TWICE)], [spec(Dim(symbol="2*s0"))], id="derived"),
        pytest.param([spec(BATCH)], [spec(Dim(symbol="s0", max=15))], id="a-heuristic's-range"),
    ],
)
def test_what_was_compiled_for_all_that_is_admitted_passes(
    admitted: list[TensorSpec], compiled: list[TensorSpec]
) -> None:
    assert narrow(admitted, compiled) is None


@pytest.mark.parametrize(
    ("admitted", "compiled"),
    [
        pytest.param([spec(BATCH, 3)], [spec(4, 3)], id="fixed-without-a-word"),
        pytest.param([spec(BATCH, 3)], [spec(S0, 4)], id="another-size"),
        pytest.param([spec(BATCH, 3)], [spec(S0)], id="another-rank"),
        pytest.param([spec(BATCH)], [spec(S0, dtype="float64")], id="another-dtype"),
        pytest.param([spec(BATCH), spec(Dim(symbol="other"))], [spec(S0), spec(S0)], id="apart-though-equal"),
        pytest.param([spec(BATCH)], [spec(Dim(symbol="8*s0"))], id="any-though-a-multiple"),
    ],
)
def test_what_was_compiled_for_less_is_told_by_name(admitted: list[TensorSpec], compiled: list[TensorSpec]) -> None:
    told = narrow(admitted, compiled)
    assert told is not None
    assert "'x'" in told


def test_a_declared_range_is_held_to_the_compiled_one() -> None:
    compiled = [spec(Dim(symbol="s0", min=1, max=15))]
    assert narrow([spec(BATCH)], compiled, ranges=True) is not None
    assert narrow([spec(Dim(symbol="batch", min=1, max=15))], compiled, ranges=True) is None
