"""A package's signature: its inputs, outputs and constants, and the check of a call against it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from hashlib import sha256
from typing import Any, TypeVar

from aoti_serve.errors import (
    InvalidInputData,
    MissingInput,
    UnknownInput,
    UnknownOutput,
    WrongInputDtype,
    WrongInputShape,
)
from aoti_serve.signature.call_spec import CallSpec
from aoti_serve.signature.constants import Constants
from aoti_serve.signature.padding import Padding, with_masks
from aoti_serve.signature.tensors import DTYPES, Dim, Frozen, Shaped, TensorSpec

T = TypeVar("T")

# Of made-up inputs, to see whether a model runs: a distribution of zeros has no sum, a matrix of ones no inverse.
MADE_UP_VALUES = (0, 1)


class IndexGuard(Frozen):
    """An index that the compiled code clamps and reports: it comes from `inputs` and must lie in `low`..`high`.

    `inputs` are names of inputs, and of constants that hold indices. `table` is the FQN of the constant that is
    indexed, else an input or a graph node. The bounds are inclusive, and None where they depend on the call.
    """

    inputs: tuple[str, ...]
    table: str
    low: int | None
    high: int | None


class Signature(Constants):
    """The inputs, outputs and constants of a package.

    `takes` and `gives` are how the module nests its arguments and its result; None where that is unknown. Each of
    `guards` has an element in one more output of the compiled code, a bool vector, which no client sees. With `padding`
    rows of different lengths may share a run.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    takes: CallSpec | None = None
    gives: CallSpec | None = None
    guards: tuple[IndexGuard, ...] = ()
    padding: Padding | None = None

    @property
    def output_leaves(self) -> tuple[str | None, ...]:
        """A name for each output of the compiled code but the guards' flags; None for one that is no tensor."""
        return self.gives.leaves if self.gives else tuple(spec.name for spec in self.outputs)

    @property
    def batch(self) -> Dim | None:
        """The dimension that is first in every input and every output, if there is one: the batch dimension."""
        firsts = [spec.shape[0] if spec.shape else 0 for spec in (*self.inputs, *self.outputs)]
        dims = [dim for dim in firsts if isinstance(dim, Dim) and (dim.factor, dim.offset) == (1, 0)]
        led = len(dims) == len(firsts) and len({dim.symbol for dim in dims}) == 1
        return dims[0] if led else None

    @cached_property
    def interface(self) -> str:
        """A digest of what a run takes and gives: processes that have the same one understand each other's batches."""
        return sha256(self.model_dump_json(include={"inputs", "outputs", "padding"}).encode()).hexdigest()

    @cached_property
    def lengths(self) -> tuple[str, ...]:
        """The dimensions of inputs along which they may be padded: with a rule for it, all but the batch."""
        symbols = (dim.symbol for spec in self.inputs for dim in spec.shape if isinstance(dim, Dim))
        batch = self.batch.symbol if self.batch else None
        return tuple(symbol for symbol in dict.fromkeys(symbols) if symbol != batch) if self.padding else ()

    def with_masks(self, found: Mapping[str, Shaped]) -> dict[str, Shaped]:
        """The forms of the inputs, with those of the masks that a client may leave out, and has."""
        return with_masks(self.padding, self.inputs, found)

    @cached_property
    def for_any_batch(self) -> Signature:
        """The same without a largest batch, for callers that split larger ones."""
        batch = self.batch
        if batch is None or batch.max is None:
            return self
        unbounded = batch.model_copy(update={"max": None})
        inputs = tuple(spec.model_copy(update={"shape": (unbounded, *spec.shape[1:])}) for spec in self.inputs)
        return self.model_copy(update={"inputs": inputs})

    @property
    def smallest_inputs(self) -> dict[str, Shaped]:
        """The smallest inputs that fit each other, by name: one element in each dimension that may have one."""
        values: dict[str, int] = {}
        for dim in (dim for spec in self.inputs for dim in spec.shape if isinstance(dim, Dim)):
            values[dim.symbol] = max(dim.least_value, values.get(dim.symbol, 0))
        return {
            spec.name: Shaped(
                spec.dtype,
                tuple(dim if isinstance(dim, int) else dim.size_at(values[dim.symbol]) for dim in spec.shape),
            )
            for spec in self.inputs
        }

    def by_input(self, tensors: Mapping[str, T]) -> dict[str, T]:
        """Return `tensors` under the inputs' own names, for Triton's (`INPUT__0`, `ARGS[0]`, `KWARGS['x']`) as well.

        Raises InvalidInputData if an input is there under two names.
        """
        found: dict[str, T] = {}
        for name, tensor in tensors.items():
            own = self._input_names.get(_plain(str(name)), name)
            if own in found:
                raise InvalidInputData(name=own, detail="sent under two of its names")
            found[own] = tensor
        return found

    def output_named(self, name: str) -> str:
        """Return an output's own name, for Triton's `OUTPUT__0` and `RESULT[0]` as well. Raises UnknownOutput."""
        if name not in self._output_names and _plain(name) not in self._output_names:
            raise UnknownOutput(name=name, known=[spec.name for spec in self.outputs])
        return self._output_names.get(name) or self._output_names[_plain(name)]

    def check_inputs(self, tensors: Mapping[str, Shaped]) -> None:
        """Check names, dtypes, ranks, dimensions, their ranges, and equal symbols across all inputs.

        Compiled code checks none of this and reads foreign memory when it is wrong (upstream #153992, #151925).
        Raises an InvalidInput that names the input.
        """
        sizes: dict[str, tuple[int, str]] = {}
        for spec in self.inputs:
            if spec.name not in tensors:
                self.check_known(tensors)  # it may be there under a wrong name
                raise MissingInput(name=spec.name)
            _check_input(spec, tensors[spec.name], sizes)
        if len(tensors) > len(self.inputs):
            self.check_known(tensors)

    def check_known(self, tensors: Iterable[str]) -> None:
        """Raise UnknownInput if one of these, under their own names, is no input."""
        known = dict.fromkeys(spec.name for spec in self.inputs)
        for name in tensors:
            if name not in known:
                raise UnknownInput(name=name, known=list(known))

    def check_datatype(self, name: str, datatype: str) -> None:
        """Raise WrongInputDtype unless input `name`, one of ours, takes this datatype of the protocol."""
        expected = next(_oip(spec.dtype) for spec in self.inputs if spec.name == name)
        if datatype != expected:
            raise WrongInputDtype(name=name, got=datatype, expected=expected)

    @cached_property
    def _input_names(self) -> dict[str, str]:
        return _names("INPUT", self.inputs, self.takes.paths if self.takes else {})

    @cached_property
    def _output_names(self) -> dict[str, str]:
        return _names("OUTPUT", self.outputs, self.gives.paths if self.gives else {})


def _names(ordinal: str, specs: Iterable[TensorSpec], paths: Mapping[str, str]) -> dict[str, str]:
    names = {f"{ordinal}__{index}": spec.name for index, spec in enumerate(specs)}
    return names | {_plain(path): name for name, path in paths.items()} | {spec.name: spec.name for spec in specs}


def _plain(name: str) -> str:
    """Strip a path of its quotes: `KWARGS['x']` and `KWARGS[x]` are one."""
    return re.sub(r"['\"]", "", name) if "[" in name else name


def _check_input(spec: TensorSpec, tensor: Shaped, sizes: dict[str, tuple[int, str]]) -> None:
    dtype, shape = tensor
    if dtype != spec.dtype:
        raise WrongInputDtype(name=spec.name, got=_oip(dtype), expected=_oip(spec.dtype))
    if len(shape) != len(spec.shape):
        raise _wrong_shape(spec, tensor, f"rank {len(shape)} instead of {len(spec.shape)}")
    for axis, (size, dim) in enumerate(zip(shape, spec.shape, strict=True)):
        if isinstance(dim, int):
            if size != dim:
                raise _wrong_shape(spec, tensor, f"dimension {axis} is {size} instead of {dim}")
            continue
        value = dim.value_at(size)
        if value is None or size < dim.min or (dim.max is not None and size > dim.max):
            reason = f"dimension {axis} ('{dim.symbol}') is {size}, it must be {dim.in_words}"
            raise _wrong_shape(spec, tensor, reason)
        first, owner = sizes.setdefault(dim.symbol, (value, spec.name))
        if value != first:
            made = "" if value == size else f" ({value})"
            reason = f"dimension {axis} ('{dim.symbol}') is {size}{made}, but {first} in '{owner}'"
            raise _wrong_shape(spec, tensor, reason)


def _wrong_shape(spec: TensorSpec, tensor: Shaped, reason: str) -> WrongInputShape:
    return WrongInputShape(name=spec.name, got=list(tensor.shape), expected=spec.describe_shape(), reason=reason)


def _oip(dtype: str) -> Any:
    return DTYPES[dtype].oip if dtype in DTYPES else dtype
