"""The inputs of one call, checked and laid out for the compiled code, and its outputs by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from aoti_serve.errors import BadIndexInWeights, IndexOutOfRange, InvalidInputData, WrongOutput, quantity
from aoti_serve.model.tensor_memory import readable, shaped_as
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import Dim, TensorSpec

ModelInputs = Mapping[str, torch.Tensor] | Sequence[torch.Tensor]


def checked_inputs(inputs: ModelInputs, signature: Signature) -> list[torch.Tensor]:
    """Check and order the tensors as the code reads them. Raises an InvalidInput that names the input."""
    named = signature.by_input(inputs) if isinstance(inputs, Mapping) else _in_order(inputs, signature)
    found = {name: readable(name, tensor, InvalidInputData) for name, tensor in named.items()}
    forms = signature.with_masks(found)
    signature.check_inputs(forms)
    named |= {
        name: torch.ones(forms[name].shape, dtype=getattr(torch, forms[name].dtype)) for name in forms.keys() - found
    }
    return [_laid_out(named[spec.name], spec.order) for spec in signature.inputs]


def named_outputs(outputs: list[torch.Tensor | None], signature: Signature) -> dict[str, torch.Tensor]:
    """Name the outputs of the compiled code. Raises IndexOutOfRange, or WrongOutput if it was declared wrongly."""
    if signature.guards:
        _check_guards(outputs.pop(), signature)
    named = zip(signature.output_leaves, outputs, strict=True)
    found = {name: tensor for name, tensor in named if name is not None and tensor is not None}
    if not signature.baked_known:  # it was declared
        for spec in signature.outputs:
            _check_declared(spec, found[spec.name])
    return found


def _check_guards(flags: torch.Tensor | None, signature: Signature) -> None:
    if flags is None or not flags.any():
        return
    guard = signature.guards[int(flags.nonzero()[0])]
    known = {spec.name for spec in signature.inputs}
    if sent := [name for name in guard.inputs if name in known]:
        raise IndexOutOfRange(name=", ".join(sent), table=guard.table, low=guard.low, high=guard.high)
    raise BadIndexInWeights(name=", ".join(guard.inputs), table=guard.table, low=guard.low, high=guard.high)


def _check_declared(spec: TensorSpec, tensor: torch.Tensor) -> None:
    """Compare an output with its declaration: nothing in the package tells of outputs, and clients rely on it."""
    found = shaped_as(tensor)
    sizes = zip(spec.shape, found.shape, strict=False)
    fits = len(spec.shape) == len(found.shape) and all(isinstance(dim, Dim) or dim == size for dim, size in sizes)
    if found.dtype != spec.dtype or not fits:
        got, declared = f"{found.dtype} {list(found.shape)}", f"{spec.dtype} {spec.describe_shape()}"
        raise WrongOutput(name=spec.name, got=got, declared=declared)


def _in_order(inputs: Sequence[torch.Tensor], signature: Signature) -> dict[str, torch.Tensor]:
    names = [spec.name for spec in signature.inputs]
    if not isinstance(inputs, Sequence):
        detail = f"a {type(inputs).__name__} instead of tensors by name or in a list"
        raise InvalidInputData(name=", ".join(names), detail=detail)
    if len(inputs) != len(names):
        detail = f"{quantity(len(inputs), 'tensors')} for {quantity(len(names), 'inputs')}"
        raise InvalidInputData(name=", ".join(names), detail=detail)
    return dict(zip(names, inputs, strict=True))


def _laid_out(tensor: torch.Tensor, order: tuple[int, ...] | None) -> torch.Tensor:
    """Give the tensor the strides that the code was compiled for: it trusts them."""
    if order is None:
        return tensor.contiguous().resolve_neg()
    back = sorted(range(len(order)), key=order.__getitem__)
    return tensor.permute(order).contiguous().resolve_neg().permute(back)
