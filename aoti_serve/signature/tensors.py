"""Tensor descriptions: dtypes under all their names, dimensions with ranges, kinds of devices.

A dtype is called by its torch name ("float32") everywhere inside; the other names exist at the edges only.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, field_validator, model_validator

DeviceKind = Literal["cpu", "cuda"]  # torch's names for what packages are compiled for
DEVICE_KINDS: Final[tuple[str, ...]] = get_args(DeviceKind)
CPU, CUDA, *_ = DEVICE_KINDS


class DType(NamedTuple):
    """One dtype's names. `numpy` is how its bytes are held; `raw` types have no numpy dtype and no JSON input form."""

    torch: str
    oip: str
    safetensors: str
    numpy: str
    itemsize: int
    raw: bool = False


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
        DType("float8_e4m3fn", "FP8_E4M3FN", "F8_E4M3", "uint8", 1, raw=True),
        DType("float8_e5m2", "FP8_E5M2", "F8_E5M2", "uint8", 1, raw=True),
        DType("bfloat16", "BF16", "BF16", "uint16", 2, raw=True),
        DType("float32", "FP32", "F32", "float32", 4),
        DType("float64", "FP64", "F64", "float64", 8),
    )
}
CASTABLE = ("float16", "bfloat16", "float32", "float64")  # floats that checkpoints come in, one for the other
BY_OIP = {dtype.oip: dtype for dtype in DTYPES.values()}
BY_SAFETENSORS = {dtype.safetensors: dtype for dtype in DTYPES.values()}


class Frozen(BaseModel):
    """A value: immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Dim(Frozen):
    """A dimension that may vary from call to call: `factor` times the symbol's value, plus `offset`.

    A symbol has one value within a call. `min` and `max` are the dimension's own.
    """

    symbol: str
    min: NonNegativeInt = 0
    max: NonNegativeInt | None = None
    factor: PositiveInt = 1
    offset: int = 0

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        """Read `batch`, `batch=1..64` or `batch=1..`, as configurations and messages write it."""
        if not isinstance(value, str):
            return value
        match = re.fullmatch(r"([A-Za-z_]\w*)(?:=(\d+)\.\.(\d*))?", value)
        if match is None:
            raise ValueError(f"{value!r} is not a dimension: write 16, batch, or batch=1..64")
        return {"symbol": match[1], "min": match[2] or 0, "max": match[3] or None}

    @model_validator(mode="after")
    def _ordered(self) -> Dim:
        if self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self

    def __str__(self) -> str:
        top = "" if self.max is None else self.max
        times = "" if self.factor == 1 else f"{self.factor}*"
        plus = f"{self.offset:+}" if self.offset else ""
        return f"{times}{self.symbol}{plus}={self.min}..{top}"

    @property
    def least_value(self) -> int:
        """The symbol's least value with which the dimension is not empty, or as large as it may be."""
        size = max(self.min, 1 if self.max is None else min(self.max, 1))
        return -((self.offset - size) // self.factor)

    def size_at(self, value: int) -> int:
        return self.factor * value + self.offset

    def value_at(self, size: int) -> int | None:
        """The symbol's value if the dimension is `size`; None if it is none of the dimension's sizes."""
        value, rest = divmod(size - self.offset, self.factor)
        return None if rest else value


class TensorSpec(Frozen):
    """An input or output: `shape` mixes fixed sizes and `Dim`s.

    `order` is how the compiled code reads an input's dimensions, the slowest first; None for row-major.
    """

    name: str
    dtype: str
    shape: tuple[NonNegativeInt | Dim, ...]
    order: tuple[int, ...] | None = None

    @field_validator("dtype")
    @classmethod
    def _known(cls, value: str) -> str:
        name = BY_OIP[value].torch if value in BY_OIP else value
        if name not in DTYPES:
            raise ValueError(f"{value!r} is none of {', '.join(DTYPES)}")
        return name

    @property
    def static_shape(self) -> tuple[int, ...]:
        """The shape with -1 for what varies, as the Open Inference Protocol writes it."""
        return tuple(-1 if isinstance(dim, Dim) else dim for dim in self.shape)

    def describe_shape(self) -> str:
        return "[" + ", ".join(str(dim) for dim in self.shape) + "]"


class Shaped(NamedTuple):
    """The form of a tensor: a torch dtype name and a shape."""

    dtype: str
    shape: tuple[int, ...]


class Span(NamedTuple):
    """A tensor inside a safetensors file: `begin` and `end` in bytes from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
