"""Static batch sizes: example inputs of a size, and one signature for what was compiled for several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from aoti_serve.errors import UnsupportedModule
from aoti_serve.signature.signature import Signature
from aoti_serve.signature.tensors import Dim, TensorSpec
from aoti_serve.signature.torch_private import pytree


def resized_inputs(inputs: Any, size: int) -> Any:
    """Give each example input `size` rows: its own, repeated or cut."""
    return pytree.tree_map_only(torch.Tensor, lambda tensor: _rows(tensor, size), inputs)


def check_rows_are_independent(module: torch.nn.Module, inputs: Any) -> None:
    """Raise UnsupportedModule if a padding row would change the answers of the others, or an output has no rows."""
    args, kwargs = ((), dict(inputs)) if isinstance(inputs, Mapping) else (tuple(inputs), {})
    (first, *_) = (leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor))
    rows = max(1, first.shape[0] - 1)
    fewer_args, fewer_kwargs = pytree.tree_map_only(torch.Tensor, lambda tensor: tensor[:rows], (args, kwargs))
    more_args, more_kwargs = pytree.tree_map_only(
        torch.Tensor, lambda tensor: torch.cat([tensor[:rows], *[tensor[:1]] * (rows + 1)]), (args, kwargs)
    )
    with torch.no_grad():
        alone = pytree.tree_leaves(module(*fewer_args, **fewer_kwargs))
        beside = pytree.tree_leaves(module(*more_args, **more_kwargs))
    for index, (one, other) in enumerate(zip(alone, beside, strict=True)):
        if isinstance(one, torch.Tensor) and not _same_rows(one, other, rows):
            detail = f"output {index} of a batch depends on its other rows, or has none; compile without --batch-sizes"
            raise UnsupportedModule(detail=detail)


def _same_rows(one: torch.Tensor, other: torch.Tensor, rows: int) -> bool:
    if one.ndim == 0 or one.shape[0] != rows or other.shape[0] != 2 * rows + 1:
        return False
    tolerance = 1e-3 if one.is_floating_point() else 0
    return torch.allclose(one.double(), other[:rows].double(), rtol=tolerance, atol=tolerance, equal_nan=True)


def served_signature(variants: Mapping[int, Signature]) -> Signature:
    """Make one signature of those of all variants, by size: the first dimension is any size up to the largest.

    Raises UnsupportedModule if they differ in anything else.
    """
    batch = Dim(symbol="batch", min=0, max=max(variants))
    first, *others = [_batched(signature, size, batch) for size, signature in variants.items()]
    if any(other != first for other in others):
        raise UnsupportedModule(detail="the variants differ in more than the first dimension of inputs and outputs")
    return first


def _rows(tensor: torch.Tensor, size: int) -> torch.Tensor:
    if tensor.ndim == 0 or tensor.shape[0] == 0:
        raise UnsupportedModule(
            detail="--batch-sizes (batch_sizes) need a first dimension with at least one row in every input"
        )
    index = torch.arange(size) % tensor.shape[0]
    return tensor[index.to(tensor.device)]


def _batched(signature: Signature, size: int, batch: Dim) -> Signature:
    inputs = tuple(_led_by(spec, size, batch) for spec in signature.inputs)
    outputs = tuple(_led_by(spec, size, batch) for spec in signature.outputs)
    return signature.model_copy(update={"inputs": inputs, "outputs": outputs})


def _led_by(spec: TensorSpec, size: int, batch: Dim) -> TensorSpec:
    if not spec.shape or spec.shape[0] != size:
        raise UnsupportedModule(
            detail=f"'{spec.name}' is not led by the batch dimension; compile without --batch-sizes"
        )
    return spec.model_copy(update={"shape": (batch, *spec.shape[1:])})
