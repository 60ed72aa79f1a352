"""Tensor descriptions."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from aoti_serve.tensors import BY_OIP, BY_SAFETENSORS, DTYPES, ConstantSpec, Dim, DType, TensorSpec


@pytest.mark.parametrize("dtype", [pytest.param(dtype, id=dtype.torch) for dtype in DTYPES.values()])
def test_a_dtype_is_found_under_all_its_names_and_has_its_size(dtype: DType) -> None:
    assert DTYPES[dtype.torch] == BY_OIP[dtype.oip] == BY_SAFETENSORS[dtype.safetensors] == dtype
    assert np.dtype(dtype.numpy).itemsize == dtype.itemsize


def test_a_shape_is_written_with_its_ranges() -> None:
    spec = TensorSpec(name="x", dtype="float32", shape=(Dim(symbol="batch", min=1, max=8), 3, Dim(symbol="s")))
    assert spec.describe_shape() == "[batch=1..8, 3, s=0..]"
    assert spec.static_shape == (-1, 3, -1)


@pytest.mark.parametrize(
    ("dtype", "shape", "nbytes"),
    [
        pytest.param("float32", (2, 3), 24, id="matrix"),
        pytest.param("bfloat16", (), 2, id="scalar"),
        pytest.param("int64", (4, 0), 0, id="empty"),
    ],
)
def test_a_constant_has_the_bytes_of_its_elements(dtype: str, shape: tuple[int, ...], nbytes: int) -> None:
    assert ConstantSpec(name="w", dtype=dtype, shape=shape, stride=(1,) * len(shape)).nbytes == nbytes


def test_a_description_refuses_unknown_fields() -> None:
    with pytest.raises(ValidationError, match="later"):
        TensorSpec.model_validate({"name": "x", "dtype": "float32", "shape": [], "later": 1})
