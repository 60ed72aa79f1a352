"""Tensor descriptions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from aoti_serve.signature.tensors import BY_OIP, BY_SAFETENSORS, DTYPES, Dim, DType, TensorSpec


@pytest.mark.parametrize("dtype", [pytest.param(dtype, id=dtype.torch) for dtype in DTYPES.values()])
def test_a_dtype_is_found_under_all_its_names_and_has_its_size(dtype: DType) -> None:
    assert DTYPES[dtype.torch] == BY_OIP[dtype.oip] == BY_SAFETENSORS[dtype.safetensors] == dtype
    assert np.dtype(dtype.numpy).itemsize == dtype.itemsize


def test_a_shape_is_written_with_its_ranges() -> None:
    spec = TensorSpec(name="x", dtype="float32", shape=(Dim(symbol="batch", min=1, max=8), 3, Dim(symbol="s")))
    assert spec.describe_shape() == "[batch=1..8, 3, s=0..]"
    assert spec.static_shape == (-1, 3, -1)


@pytest.mark.parametrize(
    ("text", "dim"),
    [
        pytest.param("batch", Dim(symbol="batch", min=0, max=None), id="any-size"),
        pytest.param("batch=1..64", Dim(symbol="batch", min=1, max=64), id="both-ends"),
        pytest.param("batch=1..", Dim(symbol="batch", min=1, max=None), id="open"),
        pytest.param("batch=0..0", Dim(symbol="batch", min=0, max=0), id="empty"),
        pytest.param("s0_length=16..16", Dim(symbol="s0_length", min=16, max=16), id="one-size"),
    ],
)
def test_a_dimension_is_read_from_text(text: str, dim: Dim) -> None:
    assert Dim.model_validate(text) == dim
    assert TensorSpec(name="x", dtype="float32", shape=(text, 3)).shape == (dim, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "batch=",
        "batch=..",
        "batch=..8",
        "batch=8",
        "batch=1..2..3",
        "batch=-1..8",
        "batch = 1..8",
        "1x",
        "a b",
        "batch=1..x",
        "batch=1.5..2",
        "=1..8",
        "batch\n",
        "batch=1..8\n",
        "1..8",
        "?",
        "*",
    ],
)
def test_what_is_no_dimension_is_refused_with_examples(text: str) -> None:
    for parse in (Dim.model_validate, lambda dim: TensorSpec(name="x", dtype="float32", shape=(dim,))):
        with pytest.raises(ValidationError, match=r"is not a dimension: write 16, batch, or batch=1\.\.64"):
            parse(text)


@given(
    symbol=st.from_regex(r"[A-Za-z_]\w*", fullmatch=True), low=st.integers(0, 2**62), more=st.none() | st.integers(0)
)
def test_a_dimension_is_written_as_it_is_read(symbol: str, low: int, more: int | None) -> None:
    dim = Dim(symbol=symbol, min=low, max=None if more is None else low + more)
    assert Dim.model_validate(str(dim)) == dim


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(-1, id="negative"),  # as the Open Inference Protocol writes what varies
        pytest.param(2.5, id="half"),
        pytest.param(None, id="nothing"),
        pytest.param("batch=64..1", id="backwards"),
        pytest.param({"symbol": "batch", "min": 2, "max": 1}, id="backwards-by-field"),
        pytest.param({"symbol": "batch", "min": -1}, id="negative-end"),
    ],
)
def test_a_size_that_no_tensor_has_is_refused(size: Any) -> None:
    with pytest.raises(ValidationError):
        TensorSpec(name="x", dtype="float32", shape=(size,))


@pytest.mark.parametrize("dtype", [pytest.param(dtype, id=dtype.torch) for dtype in DTYPES.values()])
def test_a_dtype_may_be_called_as_the_protocol_does(dtype: DType) -> None:
    for name in (dtype.torch, dtype.oip):
        assert TensorSpec(name="x", dtype=name, shape=()).dtype == dtype.torch


@pytest.mark.parametrize("name", ["", "float", "fp32", "FLOAT32", "torch.float32", "F32", "complex64", "BYTES"])
def test_an_unknown_dtype_is_refused_and_the_known_ones_are_named(name: str) -> None:
    with pytest.raises(ValidationError, match=f"'{name}' is none of bool, uint8, .*float64"):
        TensorSpec(name="x", dtype=name, shape=())


def test_a_description_refuses_unknown_fields() -> None:
    with pytest.raises(ValidationError, match="later"):
        TensorSpec.model_validate({"name": "x", "dtype": "float32", "shape": [], "later": 1})


@pytest.mark.parametrize(
    ("dim", "words"),
    [
        pytest.param(Dim(symbol="s", min=1, max=64), "1 to 64", id="range"),
        pytest.param(Dim(symbol="s", min=1), "1 or more", id="open"),
        pytest.param(Dim(symbol="s", min=7, max=7), "7", id="one-size"),
        pytest.param(Dim(symbol="s", min=14, max=640, factor=2), "even, 14 to 640", id="even"),
        pytest.param(Dim(symbol="s", min=13, max=641, factor=2), "even, 14 to 640", id="ends-that-are-none"),
        pytest.param(Dim(symbol="s", min=1, max=9, factor=2, offset=1), "odd, 1 to 9", id="odd"),
        pytest.param(Dim(symbol="s", min=8, factor=8), "a multiple of 8, 8 or more", id="multiple"),
        pytest.param(Dim(symbol="s", min=5, max=9, factor=4, offset=-3), "a multiple of 4 and 1, 5 to 9", id="rest"),
    ],
)
def test_the_sizes_of_a_dimension_are_told_in_words(dim: Dim, words: str) -> None:
    assert dim.in_words == words
    low, high = dim.sizes
    assert [dim.value_at(size) is not None for size in (low, low if high is None else high)] == [True, True]
