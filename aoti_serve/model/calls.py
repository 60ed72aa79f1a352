"""The inputs of one call: checked against the signature, in its order, as the compiled code reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from aoti_serve.errors import InvalidInputData
from aoti_serve.model.readable import shaped, unreadable
from aoti_serve.model.signature import Signature
from aoti_serve.tensors import Shaped

Inputs = Mapping[str, torch.Tensor] | Sequence[torch.Tensor]


def checked_inputs(inputs: Inputs, signature: Signature) -> list[torch.Tensor]:
    """The tensors in the signature's order, as the code reads them. Raises an InvalidInput that names the input."""
    named = signature.by_input(inputs) if isinstance(inputs, Mapping) else _in_order(inputs, signature)
    signature.check_inputs({name: _read(name, tensor) for name, tensor in named.items()})
    return [_laid_out(named[spec.name], spec.order) for spec in signature.inputs]


def _in_order(inputs: Sequence[torch.Tensor], signature: Signature) -> dict[str, torch.Tensor]:
    names = [spec.name for spec in signature.inputs]
    if not isinstance(inputs, Sequence):
        detail = f"a {type(inputs).__name__} instead of tensors by name or in a list"
        raise InvalidInputData(name=", ".join(names), detail=detail)
    if len(inputs) != len(names):
        raise InvalidInputData(name=", ".join(names), detail=f"{len(inputs)} tensors for {len(names)} inputs")
    return dict(zip(names, inputs, strict=True))


def _read(name: str, tensor: Any) -> Shaped:
    if problem := unreadable(tensor):
        raise InvalidInputData(name=name, detail=problem)
    return shaped(tensor)


def _laid_out(tensor: torch.Tensor, order: tuple[int, ...] | None) -> torch.Tensor:
    """With the strides that the code was compiled for: it trusts them."""
    if order is None:
        return tensor.contiguous().resolve_neg()
    back = sorted(range(len(order)), key=order.__getitem__)
    return tensor.permute(order).contiguous().resolve_neg().permute(back)
