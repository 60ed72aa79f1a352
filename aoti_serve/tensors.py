"""Tensor descriptions: dtypes under all their names, dimensions with ranges, constants with strides.

A dtype is called by its torch name ("float32") everywhere inside; the other names exist at the edges only.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, NonNegativeInt


class DType(NamedTuple):
    """One dtype's names. `numpy` is how its bytes are held; bfloat16 has no numpy dtype and travels as uint16."""

    torch: str
    oip: str
    safetensors: str
    numpy: str
    itemsize: int


DTYPES = {
    dtype.torch: dtype
    for dtype in (
        DType("bool", "BOOL", "BOOL", "bool", 1),
        DType("uint8", "UINT8", "U8", "uint8", 1),
        DType("uint16", "UINT16", "U16", "uint16", 2),
        DType("uint32", "UINT32", "U32", "uint32", 4),
        DType("uint64", "UINT64", "U64", "uint64", 8),
        DType("int8", "INT8", "I8", "int8", 1),
        DType("int16", "INT16", "I16", "int16", 2),
        DType("int32", "INT32", "I32", "int32", 4),
        DType("int64", "INT64", "I64", "int64", 8),
        DType("float16", "FP16", "F16", "float16", 2),
        DType("bfloat16", "BF16", "BF16", "uint16", 2),
        DType("float32", "FP32", "F32", "float32", 4),
        DType("float64", "FP64", "F64", "float64", 8),
    )
}
BY_OIP = {dtype.oip: dtype for dtype in DTYPES.values()}
BY_SAFETENSORS = {dtype.safetensors: dtype for dtype in DTYPES.values()}


class Frozen(BaseModel):
    """A value: immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Dim(Frozen):
    """A dimension that may vary from call to call; dimensions with one symbol are equal within a call."""

    symbol: str
    min: NonNegativeInt = 0
    max: NonNegativeInt | None = None

    def __str__(self) -> str:
        top = "" if self.max is None else self.max
        return f"{self.symbol}={self.min}..{top}"


class TensorSpec(Frozen):
    """An input or output: `shape` mixes fixed sizes and `Dim`s."""

    name: str
    dtype: str
    shape: tuple[int | Dim, ...]

    @property
    def static_shape(self) -> tuple[int, ...]:
        """The shape with -1 for what varies, as the Open Inference Protocol writes it."""
        return tuple(-1 if isinstance(dim, Dim) else dim for dim in self.shape)

    def describe_shape(self) -> str:
        return "[" + ", ".join(str(dim) for dim in self.shape) + "]"


class ConstantSpec(Frozen):
    """A constant by its FQN; `stride` in elements, as the compiled code reads it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize
