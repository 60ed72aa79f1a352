"""The inputs of one call: checked against the signature, in its order, as the compiled code reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from aoti_serve.errors import InvalidInputData
from aoti_serve.model.signature import Signature
from aoti_serve.tensors import DTYPES, Shaped

Inputs = Mapping[str, torch.Tensor] | Sequence[torch.Tensor]
_DTYPE_NAMES = {getattr(torch, name): name for name in DTYPES}


def checked_inputs(inputs: Inputs, signature: Signature) -> list[torch.Tensor]:
    """The tensors in the signature's order, contiguous. Raises an InvalidInput that names the input."""
    named = signature.by_input(inputs) if isinstance(inputs, Mapping) else _in_order(inputs, signature)
    signature.check_inputs({name: _read(name, tensor) for name, tensor in named.items()})
    return [_plain(named[spec.name]) for spec in signature.inputs]


def _in_order(inputs: Sequence[torch.Tensor], signature: Signature) -> dict[str, torch.Tensor]:
    names = [spec.name for spec in signature.inputs]
    if len(inputs) != len(names):
        raise InvalidInputData(name=", ".join(names), detail=f"{len(inputs)} tensors for {len(names)} inputs")
    return dict(zip(names, inputs, strict=True))


def _read(name: str, tensor: Any) -> Shaped:
    if not isinstance(tensor, torch.Tensor):
        raise InvalidInputData(name=name, detail=f"a {type(tensor).__name__} instead of a tensor")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise InvalidInputData(name=name, detail=f"not a dense tensor with values ({tensor.layout}, {tensor.device})")
    dtype, shape = tensor.dtype, tensor.shape
    if tensor.is_contiguous():
        needed = (tensor.storage_offset() + tensor.numel()) * tensor.element_size()
        if tensor.numel() and tensor.untyped_storage().nbytes() < needed:
            raise InvalidInputData(name=name, detail="its storage is smaller than its shape")
    return Shaped(_DTYPE_NAMES.get(dtype) or str(dtype), shape)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().resolve_neg()
