"""Checks of rows of different lengths against the signature of one model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

from aoti_serve.errors import InvalidBody, InvalidInputData, WrongInputShape
from aoti_serve.protocol.messages import InputHead, RequestHead
from aoti_serve.protocol.ragged import RowLengths, varies
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import DTYPES, Dim, Shaped, TensorSpec


class RaggedChecks:
    """Checks for one model. Rows may differ in the second dimension, if the package says how they are padded in it."""

    def __init__(self, signature: Signature, max_bytes: int) -> None:
        self._inputs = {spec.name: spec for spec in signature.inputs}
        lengths = signature.lengths if signature.batch else ()
        self._names = [name for name in lengths if all(_second_at_most(spec, name) for spec in signature.inputs)]
        self._max_bytes = max_bytes

    def lengths(self, sent: Mapping[str, InputHead], shapes: Mapping[str, Shaped]) -> RowLengths:
        """The lengths of the rows by dimension. All inputs that have the dimension must agree in them.

        The shapes, as they are when rows are filled up, have been checked. Raises an InvalidInput that names the input.
        """
        found: dict[str, tuple[int, ...]] = {}
        owners: dict[str, str] = {}
        for name, tensor in sent.items():
            spec = self._inputs[name]
            if tensor.lengths is not None:
                symbol = self._symbol(spec)
                self._check_sizes(spec, tensor, tensor.lengths)
                if found.setdefault(symbol, tensor.lengths) != tensor.lengths:
                    raise InvalidInputData(name=name, detail=f"its rows are not as long as those of '{owners[symbol]}'")
                owners.setdefault(symbol, name)
        for name, tensor in sent.items():
            shared = _symbols(self._inputs[name]) & found.keys()
            if tensor.lengths is None and shared:
                detail = f"the rows of '{owners[min(shared)]}' differ in length, so send these as -1 and lists, too"
                raise InvalidInputData(name=name, detail=detail)
        self._check_bytes(owners, shapes)
        return found

    def check_outputs(self, head: RequestHead, outputs: Iterable[tuple[int, TensorSpec]], lengths: RowLengths) -> None:
        """Raise InvalidBody for an output that cannot be answered in rows of different lengths."""
        for _, spec in outputs:
            if wrong := [name for name in lengths if not _second_at_most(spec, name, derived=True)]:
                detail = f"output '{spec.name}' does not vary in '{wrong[0]}' row by row; ask for other outputs"
                raise InvalidBody(detail=f"{detail}, or send a request for each row")
            if head.wants_binary(spec.name) and _symbols(spec) & lengths.keys():
                detail = f"output '{spec.name}': rows of different lengths have no binary form; ask for it as JSON"
                raise InvalidBody(detail=f"{detail}, or send a request for each row")

    def _symbol(self, spec: TensorSpec) -> str:
        dim = spec.shape[1] if varies(spec) else None
        if isinstance(dim, Dim) and dim.symbol in self._names:
            return dim.symbol
        detail = "its rows differ in length, and the package does not say how they are padded: send a request for each"
        raise InvalidInputData(name=spec.name, detail=f"{detail} row, or package the model with --pad {spec.name}=0")

    def _check_sizes(self, spec: TensorSpec, tensor: InputHead, lengths: tuple[int, ...]) -> None:
        dim = spec.shape[1]
        assert isinstance(dim, Dim)
        for row, size in enumerate(lengths):
            if size < dim.min or dim.value_at(size) is None:
                reason = f"row {row} has a length of {size}, none of {dim}"
                shape = list(tensor.shape)
                raise WrongInputShape(name=spec.name, got=shape, expected=spec.describe_shape(), reason=reason)

    def _check_bytes(self, names: Mapping[str, str], shapes: Mapping[str, Shaped]) -> None:
        """Refuse what grows too much: a row may cost few bytes, and as much work as the longest."""
        nbytes = sum(prod(form.shape) * DTYPES[form.dtype].itemsize for form in shapes.values())
        if nbytes > self._max_bytes:
            limit = f"the limit is {self._max_bytes} (gateway.max_body_bytes)"
            detail = f"filled up to the longest, its rows have {nbytes} bytes, {limit}; send fewer rows at once"
            raise InvalidInputData(name=min(names.values()), detail=detail)


def _second_at_most(spec: TensorSpec, name: str, *, derived: bool = False) -> bool:
    """Whether the named dimension is at no other place than the second, and is itself there unless `derived`."""
    named = [(place, dim) for place, dim in enumerate(spec.shape) if isinstance(dim, Dim) and dim.symbol == name]
    return all(place == 1 and (derived or (dim.factor, dim.offset) == (1, 0)) for place, dim in named)


def _symbols(spec: TensorSpec) -> set[str]:
    return {dim.symbol for dim in spec.shape if isinstance(dim, Dim)}
