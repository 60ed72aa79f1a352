"""A package's signature: its inputs, outputs and constants, and the check of a call against it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from aoti_serve.errors import MissingInput, UnknownInput, UnknownOutput, WrongInputDtype, WrongInputShape
from aoti_serve.tensors import DTYPES, ConstantSpec, Dim, Frozen, TensorSpec


class Shaped(NamedTuple):
    """As much of a tensor as the check needs: a torch dtype name and a shape."""

    dtype: str
    shape: tuple[int, ...]


class Signature(Frozen):
    """What a package takes, gives and keeps.

    `constants` are those that weights must bring; `unused` are parameters and buffers of the module that the compiled
    graph does not read (batch norm's counters, for one): weights may bring them, and they are passed over.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    constants: tuple[ConstantSpec, ...]
    unused: tuple[str, ...] = ()

    @property
    def batch(self) -> Dim | None:
        """The dimension that is first in every input and every output, if there is one: the batch dimension."""
        firsts = [spec.shape[0] if spec.shape else None for spec in (*self.inputs, *self.outputs)]
        first = firsts[0] if firsts else None
        if not isinstance(first, Dim):
            return None
        return first if all(isinstance(dim, Dim) and dim.symbol == first.symbol for dim in firsts) else None

    def check_inputs(self, tensors: Mapping[str, Shaped]) -> None:
        """Check names, dtypes, ranks, dimensions, their ranges, and equal symbols across all inputs.

        Compiled code checks none of this and reads foreign memory when it is wrong (upstream #153992, #151925).
        Raises an InvalidInput that names the input.
        """
        for name in tensors:
            if not any(spec.name == name for spec in self.inputs):
                raise UnknownInput(name=name, known=[spec.name for spec in self.inputs])
        sizes: dict[str, tuple[int, str]] = {}
        for spec in self.inputs:
            if spec.name not in tensors:
                raise MissingInput(name=spec.name)
            _check_input(spec, tensors[spec.name], sizes)

    def check_outputs(self, names: list[str]) -> None:
        known = [spec.name for spec in self.outputs]
        for name in names:
            if name not in known:
                raise UnknownOutput(name=name, known=known)


def _check_input(spec: TensorSpec, tensor: Shaped, sizes: dict[str, tuple[int, str]]) -> None:
    if tensor.dtype != spec.dtype:
        raise WrongInputDtype(name=spec.name, got=_oip(tensor.dtype), expected=_oip(spec.dtype))
    if len(tensor.shape) != len(spec.shape):
        raise _wrong_shape(spec, tensor, f"rank {len(tensor.shape)} instead of {len(spec.shape)}")
    for axis, (size, dim) in enumerate(zip(tensor.shape, spec.shape, strict=True)):
        if isinstance(dim, int):
            if size != dim:
                raise _wrong_shape(spec, tensor, f"dimension {axis} is {size} instead of {dim}")
            continue
        if size < dim.min or (dim.max is not None and size > dim.max):
            raise _wrong_shape(spec, tensor, f"dimension {axis} is {size}, outside {dim}")
        first, owner = sizes.setdefault(dim.symbol, (size, spec.name))
        if size != first:
            raise _wrong_shape(spec, tensor, f"dimension {axis} ('{dim.symbol}') is {size}, but {first} in '{owner}'")


def _wrong_shape(spec: TensorSpec, tensor: Shaped, reason: str) -> WrongInputShape:
    return WrongInputShape(name=spec.name, got=list(tensor.shape), expected=spec.describe_shape(), reason=reason)


def _oip(dtype: str) -> str:
    return DTYPES[dtype].oip if dtype in DTYPES else dtype
